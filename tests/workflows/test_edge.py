"""Workers on machines outside: started, brought to another release, ended, one machine at a time."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from astro_cli.deploy.edge.machine import Placed
from astro_cli.deploy.target import State
from astro_cli.domain.deployments import Host, Publish
from astro_cli.domain.edge import EdgeGroup
from astro_cli.foundation.errors import TargetError, UsageError
from astro_cli.runtime.plan import ContainerSpec
from astro_cli.workflows import edge
from tests.deploy.fakes import RecordingReport
from tests.deploy.test_stack import DEPLOYMENT, NAMES, release

PLANT, YARD = Host("ssh://ops@plant", "ops@plant"), Host("ssh://ops@yard", "ops@yard")
GROUP = EdgeGroup("onsite", ("onsite",), hosts=(PLANT, YARD))
OUTSIDE = replace(DEPLOYMENT, edge=(GROUP,), publish=Publish(url="https://airflow.example"))
RELEASE = replace(release(OUTSIDE), image="sha256:1")


class FakeTarget:
    """A deployment that hears of what the machines run."""

    def __init__(self) -> None:
        self.release = RELEASE
        self.states: dict[str, str] = {}
        self.asked: list[list[str]] = []

    def state(self) -> State:
        return State((self.release,))

    def platform(self) -> str:
        return "linux/amd64"

    def tell(self, program: Sequence[str]) -> str:
        what = list(program[program.index("run") + 3 :])
        self.asked.append(what)
        if what[0] == "workers":
            rows = [
                {"name": name, "state": state, "queues": ["onsite"], "running": 0, "seconds": 1}
                for name, state in self.states.items()
            ]
            return json.dumps(rows)
        if what[0] == "secrets":
            return json.dumps({"key": "k", "secrets": {}})
        return "[]"


class FakeMachine:
    """An engine outside; its workers are heard of at once."""

    def __init__(self, target: FakeTarget, where: str) -> None:
        self.where = where
        self.kind = "linux/amd64"
        self.mute = self.busy = False
        self.placed: list[Placed] = []
        self.done: list[str] = []
        self._target = target

    def platform(self) -> str:
        return self.kind

    def workers(self, group: str) -> list[Placed]:
        return list(self.placed)

    def pull(self, reference: str, credentials: object, report: object) -> str:
        self.done.append(f"pull {reference}")
        return "sha256:pulled"

    def receive(self, image: str, source: object, report: object) -> str:
        self.done.append(f"receive {image}")
        return image

    def start(self, spec: ContainerSpec) -> str:
        self.done.append(f"start {spec.name}")
        self.placed.append(
            Placed(spec.name, spec.name, "onsite", 7, spec.image, spec.config_hash, True, False)
        )
        if not self.mute:
            self._target.states[spec.name] = "idle"
        return spec.name

    def drain(self, container: str) -> None:
        self.done.append(f"drain {container}")
        self.placed = [
            replace(each, ends=True, running=self.busy) if each.container == container else each
            for each in self.placed
        ]

    def is_running(self, container: str) -> bool:
        return any(each.running for each in self.placed if each.container == container)

    def remove(self, placed: Placed) -> None:
        self.done.append(f"remove {placed.worker}")
        self.placed = [each for each in self.placed if each.container != placed.container]

    def remove_network(self) -> None:
        self.done.append("remove network")

    def last_lines(self, container: str) -> tuple[str, ...]:
        return ("connection refused",)


class FakeEngine:
    """An engine that has images."""

    def __init__(self, *images: str) -> None:
        self._images = images

    def image_id(self, reference: str) -> str | None:
        return reference if reference in self._images else None


class Lab:
    """A deployment and two machines."""

    def __init__(self) -> None:
        self.target = FakeTarget()
        self.machines = {host.url: FakeMachine(self.target, host.url) for host in (PLANT, YARD)}
        self.plant, self.yard = self.machines.values()
        self.lost: set[str] = set()
        self.report = RecordingReport()
        self.workers = edge.EdgeWorkers(
            OUTSIDE,
            NAMES,
            cast("Any", self.target),
            cast("Any", self._open),
            lambda: cast("Any", FakeEngine("sha256:1")),
            None,
            lambda name: f"text of {name}",
            self.report,
        )

    @contextmanager
    def _open(self, host: Host) -> Iterator[FakeMachine]:
        if host.url in self.lost:
            raise TargetError(f"{host.url} cannot be reached")
        yield self.machines[host.url]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(edge, "LOOK_SECONDS", 0.0)
    return Lab()


def test_each_machine_gets_a_worker_and_the_same_again_changes_nothing(lab: Lab):
    done = lab.workers.start(OUTSIDE.edge, wait=5)
    assert [(each.worker, each.started, each.error) for each in done] == [
        ("onsite-plant-7", True, ""),
        ("onsite-yard-7", True, ""),
    ]
    assert lab.plant.done == ["receive sha256:1", "start onsite-plant-7"]
    again = lab.workers.start(OUTSIDE.edge, wait=5)
    assert [each.started for each in again] == [False, False]
    assert lab.plant.done[2:] == ["receive sha256:1"]


def test_a_new_release_starts_beside_the_old_one_which_finishes_its_tasks(lab: Lab):
    lab.workers.start(OUTSIDE.edge, wait=5)
    lab.target.release = replace(RELEASE, id=8)
    lab.plant.busy = True
    plant, yard = lab.workers.start(OUTSIDE.edge, wait=5)
    assert lab.plant.done[-2:] == ["start onsite-plant-8", "drain onsite-plant-7"]
    assert plant.draining == ("onsite-plant-7",)
    assert lab.yard.done[-2:] == ["drain onsite-yard-7", "remove onsite-yard-7"]
    assert yard.draining == ()
    assert lab.target.asked[-1] == ["forget", "onsite-plant-7", "onsite-yard-7"]
    lab.plant.placed = [replace(each, running=False) if each.ends else each for each in lab.plant.placed]
    lab.workers.start(OUTSIDE.edge, wait=5)
    assert [each.worker for each in lab.plant.placed] == ["onsite-plant-8"]


def test_a_worker_that_is_not_heard_of_is_taken_away_and_the_old_one_goes_on(lab: Lab):
    lab.workers.start(OUTSIDE.edge, wait=5)
    lab.target.release = replace(RELEASE, id=8)
    lab.plant.mute = True
    plant, yard = lab.workers.start(OUTSIDE.edge, wait=0)
    assert "did not reach https://airflow.example" in plant.error
    assert "connection refused" in plant.error
    assert [each.worker for each in lab.plant.placed if not each.ends] == ["onsite-plant-7"]
    assert yard.started


def test_a_machine_that_is_lost_holds_up_no_other_one_and_a_deploy_says_so(lab: Lab):
    lab.lost.add(PLANT.url)
    lab.target.states["onsite-office-3"] = "idle"
    lab.workers.follow(wait=5)
    first, second = lab.report.warnings
    assert first.startswith("ssh://ops@plant cannot be reached; `astro deployment edge start`")
    assert second.startswith("of an older release: onsite-office-3; `astro deployment edge file`")
    assert lab.yard.done[-1] == "start onsite-yard-7"


def test_a_machine_of_another_kind_is_refused_before_anything_is_copied(lab: Lab):
    lab.plant.kind = "linux/arm64"
    (plant, _) = lab.workers.start(OUTSIDE.edge, wait=5)
    assert plant.error == "ssh://ops@plant is linux/arm64, but the image of prod is for linux/amd64"
    assert lab.plant.done == []


def test_the_end_waits_for_tasks_and_leaves_nothing(lab: Lab):
    lab.workers.start(OUTSIDE.edge, wait=5)
    lab.workers.stop(OUTSIDE.edge)
    assert lab.plant.done[-3:] == ["drain onsite-plant-7", "remove onsite-plant-7", "remove network"]
    assert lab.plant.placed == lab.yard.placed == []


def test_an_image_of_a_registry_is_pulled(lab: Lab):
    lab.target.release = replace(RELEASE, image="r.example/a/b@sha256:1")
    lab.workers.start(OUTSIDE.edge, wait=5)
    assert lab.plant.done[0] == "pull r.example/a/b@sha256:1"


def test_files_have_their_secrets_for_one_reader_and_need_a_registry(lab: Lab, tmp_path: Path):
    with pytest.raises(UsageError, match="is in no registry"):
        lab.workers.write(GROUP, "bench", tmp_path / "files")
    assert not (tmp_path / "files").exists()
    lab.target.release = replace(RELEASE, image="r.example/a/b@sha256:1")
    assert lab.workers.write(GROUP, "bench", tmp_path / "files") == "onsite-bench-7"
    secrets = tmp_path / "files/secrets.json"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert "k" in json.loads(secrets.read_text()).values()
    assert '"k"' not in (tmp_path / "files/compose.yaml").read_text()


def test_an_authority_of_ones_own_is_a_file_of_the_project(lab: Lab, tmp_path: Path):
    lab.target.release = replace(RELEASE, image="r.example/a/b@sha256:1")
    lab.workers.write(replace(GROUP, authority="certs/ca.pem"), "bench", tmp_path / "files")
    secrets = json.loads((tmp_path / "files/secrets.json").read_text())
    assert secrets["ASTRO_EDGE_AUTHORITY"] == "text of certs/ca.pem"


def test_a_group_that_was_not_deployed_yet_is_told(lab: Lab):
    lab.target.release = release(DEPLOYMENT)
    with pytest.raises(UsageError, match="knows nothing of the machines `onsite`"):
        lab.workers.start(OUTSIDE.edge, wait=5)
