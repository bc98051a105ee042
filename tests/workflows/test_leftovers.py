"""`clean` finds what nothing uses, and only what is astro's."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from astro_cli.cli import build_app
from astro_cli.domain.state import SandboxState
from astro_cli.foundation import labels, paths
from astro_cli.runtime.engine_http import find_reader
from astro_cli.workflows.leftovers import Leftovers, is_gone
from tests.fake_engine import EMPTY_ENGINE, FakeEngine
from tests.fakes import SilentReport

OURS = {labels.INPUTS_HASH: "x", labels.ASTRO_VERSION: "0.1.0"}


def project(folder: Path) -> str:
    (folder / ".astro").mkdir(parents=True)
    (folder / ".astro/config.yaml").write_text("project: {id: abcdef0123, name: shop}\n")
    return SandboxState(folder).sandbox_id


def find(reader=None):
    return Leftovers(reader, lambda: pytest.fail("nothing may change"), (), SilentReport()).find()


def test_a_sandbox_is_gone_only_if_no_folder_is_its_project(tmp_path: Path):
    here = project(tmp_path / "a")
    assert not is_gone(here, [str(tmp_path / "gone"), str(tmp_path / "a")])
    assert is_gone("0123456789", [str(tmp_path / "a")])  # another one took the folder
    assert is_gone(here, [str(tmp_path / "gone")])
    (tmp_path / "a/.astro/checkout").unlink()  # `git clean`: nobody can tell any more
    assert not is_gone(here, [str(tmp_path / "a")])


def test_state_of_a_folder_that_was_removed_is_data_left_over(tmp_path: Path):
    project(tmp_path / "stays")
    project(tmp_path / "goes")
    shutil.rmtree(tmp_path / "goes")
    assert [(each.kind, each.data) for each in find()] == [("sandbox", True)]
    assert str(tmp_path / "goes") in find()[0].why


def test_a_project_that_was_moved_is_not_once_astro_has_run_there(tmp_path: Path):
    project(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(find()) == 1
    _ = SandboxState(tmp_path / "new").sandbox_id
    assert find() == ()


def test_what_a_kill_kept_is_data_while_a_living_sandboxs_is_none_of_ours(tmp_path: Path):
    for name in ("killed", "living"):
        folder = paths.sandbox_dir(name) / "snapshots"
        folder.mkdir(parents=True)
        (folder / "before-kill-1.astro").write_text("x" * 10)
    (paths.sandbox_dir("living") / "state.json").write_text(json.dumps({"path": str(tmp_path)}))
    (found,) = find()
    assert (found.kind, found.size, found.data) == ("snapshot", 10, True)
    found.remove()
    assert find() == ()


def test_an_environment_goes_if_no_sandbox_was_started_with_it(tmp_path: Path):
    here = project(tmp_path / "a")
    shelf = paths.cache_dir() / "environments"
    for name, age in (("used-1", 9999), ("unused-2", 9999), ("young-3", 1), ("half-4", 9999)):
        (shelf / name).mkdir(parents=True)
        if name != "half-4":
            done = shelf / name / "complete.json"
            done.write_text('{"airflow": "3.3.2"}')
            os.utime(done, (time.time() - age, time.time() - age))
    standalone = paths.sandbox_dir(here) / "standalone"
    standalone.mkdir(parents=True)
    marks = {"sandbox_id": here, "path": str(tmp_path / "a"), "environment": str(shelf / "used-1")}
    (standalone / "sandbox.json").write_text(json.dumps(marks))
    (found,) = find()
    assert found.name == "Airflow 3.3.2, unused-2"
    found.remove()
    assert sorted(path.name for path in shelf.iterdir() if path.is_dir()) == ["half-4", "used-1", "young-3"]


def image(name: str, *tags: str, **more: str) -> dict[str, object]:
    return {
        "Id": f"sha256:{name}",
        "RepoTags": list(tags),
        "Size": 100,
        "SharedSize": 60,
        "Labels": {**OURS, **more},
    }


def test_of_the_engines_images_and_caches_only_ours_and_only_the_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = project(tmp_path / "a")
    mine = {labels.SANDBOX: here, labels.PATH: str(tmp_path / "a")}
    lost = {labels.SANDBOX: "0123456789", labels.PATH: str(tmp_path / "gone")}
    ends = {"current": "CMD ours", "superseded": "CMD ours", "derived": "RUN theirs"}
    answers = {
        **EMPTY_ENGINE,
        "/containers/json": [{"ImageID": "sha256:running"}],
        "/system/df": {
            "Images": [
                image("current", "localhost/astro/airflow:3.3.2"),
                image("old", "localhost/astro/airflow:3.0.0"),
                image("services", "localhost/astro/services:latest"),
                image("superseded", "<none>:<none>"),
                image("derived", "<none>:<none>"),  # built on ours by `docker build`: inherits the labels
                image("named", "registry.example/theirs:1"),
                image("project", "localhost/astro/project-shop:1", **mine),
                image("replaced", **mine),
                image("running", **mine),
                image("lost", "localhost/astro/project-shop:2", **lost),
                {**image("foreign"), "Labels": None},
            ],
            "BuildCache": [
                {"ID": "a", "Type": "exec.cachemount", "Description": "mount /run/build-cache from x", "Size": 7},
                {"ID": "b", "Type": "exec.cachemount", "Description": "cached mount /root/.npm from x", "Size": 8},
                {"ID": "c", "Type": "regular", "Description": "RUN /run/build-cache", "Size": 9},
            ],
        },
        "/images/localhost/astro/airflow:3.3.2/history": [{"CreatedBy": "CMD ours"}],
        **{f"/images/sha256:{name}/history": [{"CreatedBy": end}] for name, end in ends.items()},
    }  # fmt: skip
    engine = FakeEngine(tmp_path / "docker.sock", answers)
    try:
        found = find(find_reader({"DOCKER_HOST": engine.url}))
    finally:
        engine.close()
    assert {each.name for each in found} == {
        "localhost/astro/airflow:3.0.0",
        "superseded",
        "replaced",
        "localhost/astro/project-shop:2",
        "packages, a",
    }
    assert {each.size for each in found if each.kind == "image"} == {40}
    assert not any(each.data for each in found)


def clean(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(build_app(), ["clean", *args])
    return done.exit_code, done.output


def test_clean_asks_shows_and_takes_data_only_when_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    lost = paths.sandbox_dir(project(tmp_path / "goes"))
    shutil.rmtree(tmp_path / "goes")
    environment = paths.cache_dir() / "environments/key-1"
    environment.mkdir(parents=True)
    (environment / "complete.json").write_text("{}")
    os.utime(environment / "complete.json", (0, 0))

    code, said = clean("--dry-run")
    assert (code, "add `--data`" in said) == (0, True)
    assert clean()[0] == 2  # nobody is here to answer
    assert environment.exists()

    assert clean("--yes")[0] == 0
    assert (environment.exists(), lost.exists()) == (False, True)
    code, said = clean("--yes", "--data", "--json")
    told = json.loads(said[said.index("{") :])["data"]["leftovers"]
    assert [(each["kind"], each["removed"]) for each in told] == [("sandbox", True)]
    assert not lost.exists()
    assert "nothing to clean up" in clean("--data")[1]
