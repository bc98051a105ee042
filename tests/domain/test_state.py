from __future__ import annotations

import json
import shutil
import stat
import threading
from pathlib import Path

import pytest

from astro_cli.domain import state as state_module
from astro_cli.domain.state import SandboxState
from astro_cli.foundation.errors import LockedError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".astro").mkdir(parents=True)
    return folder


def test_a_folder_keeps_its_sandbox(root: Path):
    assert SandboxState(root).sandbox_id == SandboxState(root).sandbox_id


def test_looking_at_a_folder_without_a_sandbox_leaves_no_trace(root: Path):
    assert SandboxState(root).known_id is None
    assert list(root.rglob("*")) == [root / ".astro"]
    made = SandboxState(root).sandbox_id
    assert SandboxState(root).known_id == made


def test_a_moved_folder_takes_its_sandbox_along(root: Path):
    before = SandboxState(root).sandbox_id
    moved = root.rename(root.with_name("moved"))
    assert SandboxState(moved).sandbox_id == before


def test_a_copied_folder_gets_a_sandbox_of_its_own_and_the_original_keeps_its(root: Path):
    before = SandboxState(root).sandbox_id
    copy = Path(shutil.copytree(root, root.with_name("copy")))
    assert SandboxState(copy).sandbox_id != before
    assert SandboxState(root).sandbox_id == before


def test_a_second_checkout_without_the_marker_gets_its_own_sandbox(root: Path):
    other = root.with_name("worktree")
    (other / ".astro").mkdir(parents=True)
    assert SandboxState(other).sandbox_id != SandboxState(root).sandbox_id


@pytest.mark.parametrize("marker", ["", "short", "../../../etc", "zzzzzzzzzz", "\x00\xff"])
def test_a_damaged_marker_is_replaced(root: Path, marker: str):
    (root / ".astro/checkout").write_text(marker, encoding="latin-1")
    state = SandboxState(root)
    assert len(state.sandbox_id) == 10
    assert state.folder.parent.name == "sandboxes"


def test_secrets_are_random_private_and_stable(root: Path):
    state = SandboxState(root)
    first = state.secrets()
    assert state.secrets() == first
    assert len(set(first.values())) == len(first) == 6
    file = state.folder / "secrets.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700


def test_a_damaged_state_file_is_treated_as_empty(root: Path):
    state = SandboxState(root)
    state.remember(port=8081)
    (state.folder / "state.json").write_text("{{{")
    assert state.get("port") is None
    state.remember(port=8082)
    assert json.loads((state.folder / "state.json").read_text())["port"] == 8082


def test_two_runs_cannot_hold_one_sandbox_and_the_second_is_told_who_does(root: Path):
    state = SandboxState(root)
    with state.lock("start"), pytest.raises(LockedError, match="astro airflow start"), state.lock("stop"):
        pass
    with state.lock("stop"):
        pass


def test_a_holder_that_has_not_said_its_name_yet_is_waited_for(root: Path):
    state = SandboxState(root)
    name = state.folder / "holder"
    with state.lock("start"):
        told = name.read_text()
        name.unlink()
        late = threading.Timer(0.3, name.write_text, [told])
        late.start()
        try:
            with pytest.raises(LockedError, match="astro airflow start"), state.lock("stop"):
                pass
        finally:
            late.join()


def test_a_holder_that_was_killed_is_not_taken_for_the_one_after_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(state_module, "NAMED_SECONDS", 0.1)
    state = SandboxState(root)
    with state.lock("start"):
        told = json.loads((state.folder / "holder").read_text())
        (state.folder / "holder").write_text(json.dumps({**told, "started": "in another life"}))
        with pytest.raises(LockedError, match="another run of astro is working"), state.lock("stop"):
            pass
