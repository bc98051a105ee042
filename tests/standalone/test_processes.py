"""Local processes: who may live, who must be gone, and what a machine without Docker and network gets."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.astro import COMMAND, START_SECONDS, Astro, get, wait_for
from tests.free_port import free_port

if TYPE_CHECKING:
    from collections.abc import Callable


def state_folder(astro: Astro) -> Path:
    checkout = (astro.folder / ".astro/checkout").read_text().strip()
    return Path(astro.environ["HOME"], ".local/state/astro/sandboxes", checkout, "standalone")


def processes_of(astro: Astro) -> dict[int, str]:
    """Living processes that belong to the sandbox: each works in its project or serves its database."""
    found = {}
    marks = (str(astro.folder).encode(), str(state_folder(astro)).encode())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "cmdline").read_bytes()
            place = os.fsencode((folder / "cwd").readlink())
        except OSError:
            continue
        if int(folder.name) != os.getpid() and any(mark in told or place.startswith(mark) for mark in marks):
            found[int(folder.name)] = told.replace(b"\0", b" ").decode(errors="replace")
    return found


def wait_until_gone(astro: Astro) -> None:
    end = time.monotonic() + 120
    while left := processes_of(astro):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def supervisor_of(astro: Astro) -> int:
    return int(json.loads((state_folder(astro) / "supervisor.json").read_text())["pid"])


def service_status(astro: Astro, name: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((state_folder(astro) / "status.json").read_text())["services"][name]
    return status


def test_without_docker_the_sandbox_runs_as_local_processes_and_says_so_once(
    make_project: Callable[[str], Astro],
):
    shop = make_project("shop")
    done = shop("start", "--no-browser", "--wait", START_SECONDS)
    assert "No Docker engine" in done.stderr
    assert "local processes" in done.stderr
    assert "shop is ready" in done.stdout
    assert "No Docker engine" not in shop("airflow", "ps").stderr
    shop("airflow", "stop")
    wait_until_gone(shop)


def test_what_is_private_is_readable_by_the_user_alone(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    shop.start()
    folder = state_folder(shop)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("environment.json", "postgres.json", "log"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    shop("airflow", "kill", "--yes")
    assert not folder.exists()
    wait_until_gone(shop)


def test_after_the_supervisor_is_killed_nothing_is_left_and_start_works(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    moments = [random.uniform(0, 8) for _ in range(3)]
    print("killed after", moments)
    for moment in moments:
        shop("start", "--no-browser", "--no-wait")
        time.sleep(moment)
        os.kill(supervisor_of(shop), signal.SIGKILL)
        wait_until_gone(shop)
        assert {service["state"] for service in shop.services().values()} == {"stopped"}
    url = shop.start()["url"]
    assert get(url, "/api/v2/monitor/health")["metadatabase"]["status"] == "healthy"


def test_a_supervisor_that_was_not_written_down_is_found_by_the_next_start(
    make_project: Callable[[str], Astro],
):
    shop = make_project("shop")
    shop("start", "--no-browser", "--no-wait")
    wait_for(lambda: (state_folder(shop) / "status.json").exists())
    lost = supervisor_of(shop)
    (state_folder(shop) / "supervisor.json").unlink()  # as if astro had been killed just before it wrote it
    shop.start()
    assert supervisor_of(shop) != lost
    assert not Path(f"/proc/{lost}").exists()
    shop("airflow", "stop")
    wait_until_gone(shop)


def test_a_killed_database_comes_back_and_with_it_the_sandbox(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    url = shop.start()["url"]
    os.kill(int(service_status(shop, "postgres")["pid"]), signal.SIGKILL)

    def is_back() -> bool:
        services = shop.services()
        well = {service["health"] for service in services.values()} == {"healthy"}
        return well and services["postgres"]["restarts"] >= 1

    wait_for(is_back, shop.services)
    assert get(url, "/api/v2/monitor/health")["metadatabase"]["status"] == "healthy"


def test_a_process_id_that_was_given_to_another_program_is_not_taken_for_the_supervisor(
    make_project: Callable[[str], Astro],
):
    shop = make_project("shop")
    shop("start", "--no-browser", "--no-wait")
    pid = supervisor_of(shop)
    kept = state_folder(shop) / "supervisor.json"
    shop("airflow", "stop")
    assert not kept.exists()
    kept.write_text(json.dumps({"pid": os.getpid(), "started": "at another time"}))
    assert pid != os.getpid()
    assert {service["state"] for service in shop.services().values()} == {"stopped"}
    shop("airflow", "stop")  # and we are still here


def test_two_projects_run_side_by_side_and_the_second_installs_nothing(make_project: Callable[[str], Astro]):
    first, second = (
        replace(astro, environ={k: v for k, v in astro.environ.items() if k != "ASTRO_SANDBOX_PORT"})
        for astro in (make_project("first"), make_project("second"))
    )
    port = free_port()
    for astro in (first, second):
        astro("airflow", "build")
        remembered = state_folder(astro).parent / "state.json"
        remembered.write_text(json.dumps({**json.loads(remembered.read_text()), "port": port}))
    first("start", "--no-browser", "--no-wait")  # its web UI does not listen yet
    told = second.start()
    assert told["built"] is False
    first.start()
    one, other = first.json("airflow", "ps"), second.json("airflow", "ps")
    assert one["port"] == port
    assert other["port"] > port
    assert {sandbox["project_name"] for sandbox in first.json("airflow", "list")["sandboxes"]} >= {
        "first",
        "second",
    }
    first("airflow", "poweroff")
    wait_until_gone(first)
    wait_until_gone(second)


def test_two_starts_of_one_project_do_not_work_at_once(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    shop("airflow", "build")
    running = shop.spawn("start", "--no-browser", "--wait", START_SECONDS)
    wait_for((state_folder(shop) / "supervisor.json").exists)
    os.kill(running.pid, signal.SIGSTOP)  # or it might be done before the other has begun
    try:
        assert "working on this sandbox" in shop.json("start", "--no-browser", code=8)["message"]
    finally:
        os.kill(running.pid, signal.SIGCONT)
    _, err = running.communicate(timeout=400)
    assert running.returncode == 0, err


def test_a_start_without_network_works_from_the_cache(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    shop("airflow", "build")
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("only root can take the network away from a process")
    offline = " ".join(COMMAND) + f" start --no-browser --wait {START_SECONDS}"
    import subprocess

    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"ip link set lo up && {offline}"],
        cwd=shop.folder, env=shop.environ, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "shop is ready" in done.stdout


def test_without_network_and_cache_the_error_says_what_is_missing(
    make_project: Callable[[str], Astro], tmp_path: Path
):
    shop = make_project("shop")
    bare = {**shop.environ, "XDG_CACHE_HOME": str(tmp_path / "empty"), "UV_CACHE_DIR": str(tmp_path / "uv")}
    nowhere = {"UV_INDEX_URL": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0", "NO_PROXY": "127.0.0.1"}
    told = Astro(shop.folder, {**bare, **nowhere}).json("start", "--no-browser", code=4)
    assert "package index cannot be reached" in told["message"]


def test_missing_system_packages_are_named_and_nothing_else_happens(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    shop.write("packages.txt", "libc6\nno-such-package-of-astro  # for tests\n")
    if shutil.which("dpkg-query") is None:
        pytest.skip("there is no dpkg here")
    done = shop("airflow", "build")
    assert "no-such-package-of-astro" in done.stderr
    assert "libc6" not in done.stderr


def test_a_database_of_ones_own_takes_the_place_of_postgres(
    make_project: Callable[[str], Astro], tmp_path: Path
):
    shop = make_project("shop")
    shop.start("--database-url", f"sqlite:///{tmp_path}/own.db")
    assert "postgres" not in shop.services()
    assert (tmp_path / "own.db").stat().st_size > 0
    assert not (state_folder(shop) / "database").exists()


def test_an_engine_that_does_not_exist_is_refused(make_project: Callable[[str], Astro]):
    shop = make_project("shop")
    shop("start", "--engine", "podman", code=2)
    wrong = Astro(shop.folder, {**shop.environ, "ASTRO_ENGINE": "podman"})
    assert "ASTRO_ENGINE must be one of docker, standalone" in wrong.json("airflow", "ps", code=3)["message"]


def test_the_database_can_be_published_on_a_port_and_asks_for_its_password(
    make_project: Callable[[str], Astro],
):
    shop = make_project("shop")
    port = free_port()
    shop.start("--expose-db", str(port))
    reach = f"psql -h 127.0.0.1 -p {port} -Atc 'select 40 + 2'"
    assert shop("airflow", "bash", "postgres", input=f"{reach}\n").stdout == "42\n"
    shop("airflow", "bash", "postgres", input=f"PGPASSWORD=wrong {reach}\n", code=2)
    assert shop("airflow", "bash", "postgres", input="psql -Atc 'select 40 + 2'\n").stdout == "42\n"
