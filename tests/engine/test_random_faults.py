"""astro is killed at a random moment, again and again: the next command works, and nothing is lost or left over."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.engine.astro import Astro, environment, get
from tests.engine.test_faults import left_on

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = int(os.environ.get("TEST_SEED") or time.time_ns() % 1_000_000)
ROUNDS = 6
COMMANDS = {
    "start": (("start", "--no-browser", "--no-wait"), 4.0),
    "stop": (("airflow", "stop"), 4.0),
    "snapshot": (("airflow", "snapshot", "save", "half"), 4.0),
    "kill": (("airflow", "kill", "--yes"), 6.0),
}
"""A command, and about how long it takes, in seconds."""


@pytest.fixture(scope="module")
def shop(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Astro]:
    parent = tmp_path_factory.mktemp("projects")
    environ = environment(tmp_path_factory.mktemp("home"), engine_url)
    Astro(parent, environ)("airflow", "init", "shop")
    astro = Astro(parent / "shop", environ)
    yield astro
    astro("airflow", "kill", "--yes", code=None)


def killed_at_random(shop: Astro, chance: random.Random, name: str) -> float:
    """Begin a command and end it with everything it began, at a moment within the time that it takes."""
    words, seconds = COMMANDS[name]
    moment = chance.uniform(0.05, seconds)
    process = shop.spawn(*words)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return moment


def half_written(shop: Astro) -> list[str]:
    """Files under a temporary name in all that astro keeps of this user."""
    kept = Path(shop.environ["HOME"]), shop.folder / ".astro"
    return [str(path) for folder in kept for path in folder.rglob(".*.*") if path.is_file()]


@pytest.mark.long
def test_whatever_was_killed_the_next_command_works_and_nothing_is_lost(shop: Astro, client: Any):
    chance = random.Random(SEED)
    told = [f"TEST_SEED={SEED}"]
    mark = 0
    try:
        for _ in range(ROUNDS):
            url = shop.start()["url"]
            if mark:
                assert get(url, "/api/v2/variables/mark")["value"] == str(mark)
            mark = chance.randrange(1, 1_000_000)
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
                action = {"action": "create", "action_on_existence": "overwrite"}
                body = {"actions": [{**action, "entities": [{"key": "mark", "value": str(mark)}]}]}
                http.patch("/api/v2/variables", json=body).raise_for_status()
            time.sleep(1)  # Postgres may lose what was committed in the last 0.6 s before it is killed
            name = chance.choice(list(COMMANDS))
            if name == "start":
                shop("airflow", "stop")
            moment = killed_at_random(shop, chance, name)
            told.append(f"{name} killed after {moment:.2f} s")
            shop("airflow", "ps", code=None)
            if name == "kill":  # it may have come to the database
                shop("airflow", "kill", "--yes")
                assert left_on(client, shop) == []
                mark = 0
            elif name == "snapshot":
                shop("airflow", "snapshot", "save", "whole")
                listed = {each["name"] for each in shop.json("airflow", "snapshot", "list")["snapshots"]}
                assert "whole" in listed
                for each in listed:
                    shop("airflow", "snapshot", "delete", each, "--yes")
        shop("airflow", "kill", "--yes")
        assert left_on(client, shop) == []
        assert half_written(shop) == []
    except BaseException:
        print("\n".join(told))
        raise


def test_of_a_start_and_a_stop_at_once_each_ends_and_the_sandbox_can_be_used(shop: Astro):
    shop.start()
    processes = [shop.spawn(*COMMANDS[name][0]) for name in ("stop", "start", "stop", "start")]
    for process in processes:
        _, said = process.communicate(timeout=600)
        assert process.returncode in (0, 8), said
        assert "Traceback" not in said
        if process.returncode == 8:
            assert "is working on this sandbox" in said
    shop.start()
    shop.wait_until_healthy()
