"""What runs at a worker outside, as far as it needs no Airflow; `test_edge_host.py` runs it all."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from astro_cli.deploy.edge.inside import edge_key, edge_worker


def test_the_key_of_the_workers_is_made_of_the_secret_and_does_not_tell_it(monkeypatch):
    tokens, sessions = edge_key.SECRETS
    monkeypatch.setenv(tokens, "for tokens")
    monkeypatch.setenv(sessions, "for sessions")
    key = edge_key.edge_key()
    whole = b"for tokens\nfor sessions"
    assert key == hmac.new(whole, b"astro: workers outside", hashlib.sha256).hexdigest()
    monkeypatch.setenv(sessions, "after rotate-keys")
    assert edge_key.edge_key() != key


@pytest.mark.parametrize(("seconds", "accepted"), [(60, True), (-1, False)])
def test_a_key_that_was_replaced_is_accepted_for_a_while(monkeypatch, seconds: float, accepted: bool):
    before = dict.fromkeys(edge_key.SECRETS, "before")
    for name, value in edge_key.replaced(before, time.time() + seconds).items():
        monkeypatch.setenv(name, value)
    for name in edge_key.SECRETS:
        monkeypatch.setenv(name, "after")
    keys = edge_key.accepted_keys()
    assert keys[0] == edge_key.edge_key() != edge_key.edge_key(before)
    assert keys[1:] == ([edge_key.edge_key(before)] if accepted else [])


def test_old_logs_go_and_what_is_written_to_stays(tmp_path: Path):
    old, new = tmp_path / "run_id=1/a.log", tmp_path / "run_id=2/b.log"
    for path in (old, new):
        path.parent.mkdir()
        path.write_text("line\n")
    os.utime(old, (1, 1))
    edge_worker.remove_old(tmp_path, before=time.time() - 60)
    assert not old.parent.exists()
    assert new.exists()


def test_an_authority_is_believed_besides_all_others(tmp_path: Path, monkeypatch):
    known = tmp_path / "known.pem"
    known.write_text("everybody's")
    monkeypatch.setenv("SSL_CERT_FILE", str(known))
    edge_worker.trust(tmp_path / "trusted.pem")
    assert os.environ["SSL_CERT_FILE"] == str(known), "none is named"
    monkeypatch.setenv(edge_worker.AUTHORITY, "our own")
    edge_worker.trust(tmp_path / "trusted.pem")
    assert (tmp_path / "trusted.pem").read_text() == "everybody's\nour own"
    assert os.environ["SSL_CERT_FILE"] == str(tmp_path / "trusted.pem")
    assert edge_worker.AUTHORITY not in os.environ


def test_a_heartbeat_stays_one():
    async def heartbeat(worker: object, comments: str | None = None) -> bool:
        return comments == "hello"

    beat = edge_worker.tidying(heartbeat)
    assert asyncio.run(beat(SimpleNamespace(base_log_folder="/nowhere"), "hello")) is True
