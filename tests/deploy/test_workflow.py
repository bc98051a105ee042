"""The order of a deploy, and the way back from each of its steps, on a target that only remembers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from astro_cli.deploy.dag_bundle import pack
from astro_cli.deploy.target import (
    Difference,
    RollError,
    Secrets,
    ServiceState,
    State,
    StrandedError,
    Unfinished,
)
from astro_cli.domain.deployments import Deployment, Host
from astro_cli.foundation.errors import AstroError, Interrupted, TargetError, UsageError
from astro_cli.runtime.engine import LogLine, LogQuery
from astro_cli.workflows.deployment import BARRIER, Built, Deployer, DeployOptions, services_of
from tests.deploy.fakes import RecordingReport

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from astro_cli.deploy.dag_bundle import Bundle
    from astro_cli.domain.releases import Release

DEPLOYMENT = Deployment("prod", (Host("ssh://vm", "vm"),))
OPTIONS = DeployOptions(who="me@here", now="2026-11-22T18:00:00+00:00")


class FakeTarget:
    """Does what it is told and remembers it; `fails` names what raises which error, once."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.releases: list[Release] = []
        self.running: dict[str, int] = {}
        self.heads = "h1"
        self.fails: dict[str, BaseException] = {}
        self.unfinished: Unfinished | None = None
        self.secrets_differ: tuple[str, ...] = ()
        self.dags: dict[int, str] = {}
        self.marks: dict[str, str] = {}
        self.dropped: tuple[str, ...] = ()
        self.behind = 0

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.fails:
            raise self.fails.pop(what)

    def state(self) -> State:
        services = tuple(ServiceState(name, release, 1, 1) for name, release in self.running.items())
        return State(tuple(self.releases), services)

    def platform(self) -> str:
        return "linux/amd64"

    def differences(self, release: Release) -> tuple[Difference, ...]:
        return (Difference("change", f"release {release.id}", release.image),)

    def changed_secrets(self, secrets: Secrets) -> tuple[str, ...]:
        return self.secrets_differ

    @contextmanager
    def lock(self, purpose: str, wait: float) -> Iterator[FakeTarget]:
        self._do("lock")
        try:
            yield self
        except StrandedError:
            raise
        except BaseException:
            self.done.append("unlock")
            raise
        self.done.append("unlock")

    def step(self, name: str, **marks: str) -> None:
        self.marks = {"step": name, **marks}

    def beat(self) -> None:
        pass

    def bring_image(self, image_id: str, tags: Sequence[str], report: object) -> str:
        self._do(f"bring {image_id}")
        return f"there:{image_id}"

    def ensure_secrets(self, secrets: Secrets, *, first: bool) -> tuple[dict[str, str], str]:
        return {"keys": "shop-prod-keys-1"}, "pw" if first else ""

    def make_keys(self) -> str:
        return "shop-prod-keys-2"

    def reencrypt(self, release: Release) -> None:
        self._do("reencrypt")

    def ensure_base(self, release: Release, secrets: Secrets, report: object, lock: object) -> None:
        self._do("base")

    def database_heads(self, release: Release) -> str:
        return self.heads

    def logs(self, query: LogQuery) -> Iterator[LogLine]:
        return iter(LogLine("", name, f"{name} is unwell") for name in query.services)

    def backup(self, release: Release, name: str, *, drop: Sequence[str] = ()) -> str:
        self._do(f"backup of {self.heads}")
        self.dropped = tuple(drop)
        return name

    def backups(self, release: Release) -> tuple[str, ...]:
        return ("monday.dump", "tuesday.dump")

    def restore(self, release: Release, name: str) -> None:
        self._do(f"restore {name}")
        self.heads = "h1"

    def migrate(self, release: Release) -> None:
        self.done.append("migrate")
        self.heads = release.heads
        if "migrate" in self.fails:
            raise self.fails.pop("migrate")

    def publish_dags(self, release: Release, bundle: Bundle) -> None:
        self.dags[release.serving] = bundle.digest

    def point_dags(self, release: Release, digest: str) -> None:
        self.dags[release.serving] = digest

    def dags_digest(self, release: Release) -> str:
        return self.dags.get(release.serving, "")

    def dags_seen(self, release: Release) -> str:
        if "look at dags" in self.fails:
            raise self.fails.pop("look at dags")
        return self.dags.get(release.serving, "")

    def dags_behind(self, release: Release) -> int:
        self.behind = max(self.behind - 1, 0)
        return self.behind

    def roll(self, release: Release, services: Sequence[str], lock: object, seconds: float) -> None:
        for name in services:
            self.running[name] = release.id
        everything = services_of(release)
        which = {(BARRIER,): "api", everything[1:]: "others", everything: "all"}[tuple(services)]
        self._do(f"roll {which} to {release.id}")

    def remove_services(self) -> None:
        self._do("remove services")
        self.running.clear()

    def stop(self, lock: object) -> None:
        self.remove_services()

    def ask(self, path: str) -> dict[str, object] | None:
        if path == "/astro/release":
            return {"release": str(self.running[BARRIER])}
        return {
            name: {"status": "healthy"}
            for name in ("metadatabase", "scheduler", "dag_processor", "triggerer")
        }

    def record(self, release: Release) -> None:
        self._do(f"record {release.result}")
        self.releases.append(release)

    def prune(self, keep: int) -> None:
        self._do("prune")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/a.py").write_text("x = 1\n")
    return Built(
        image_id="sha256:" + "1" * 64,
        content="c" * 64,
        airflow_version="3.3.2",
        heads="h1",
        companions={"postgres": "sha256:" + "2" * 64, "proxy": "sha256:" + "3" * 64},
        files={"dags/a.py": "f1"},
        dags=pack(tmp_path),
        revision="a" * 40,
    )


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def deployer(target: FakeTarget) -> Deployer:
    return Deployer(DEPLOYMENT, target, RecordingReport())


def deployed(deployer: Deployer, target: FakeTarget, built: Built) -> None:
    deployer.deploy(built, Secrets(), OPTIONS)
    target.done.clear()


def newer(built: Built, heads: str = "h1") -> Built:
    return replace(built, content="d" * 64, image_id="sha256:" + "4" * 64, heads=heads)


def failure(deployer: Deployer, built: Built) -> AstroError:
    with pytest.raises(AstroError) as error:
        deployer.deploy(built, Secrets(), OPTIONS)
    return error.value


def test_a_first_deploy_goes_in_order_and_tells_the_password_once(deployer, target, built):
    outcome = deployer.deploy(built, Secrets(), OPTIONS)

    assert [step.split(" sha")[0] for step in target.done] == [
        *["bring"] * 3, "lock", "base", "roll api to 1", "roll others to 1", "record live", "prune", "unlock",
    ]  # fmt: skip
    assert (outcome.changed, outcome.release.id, outcome.password) == (True, 1, "pw")
    assert deployer.deploy(newer(built), Secrets(), OPTIONS).password == ""


def test_the_same_again_touches_nothing(deployer, target, built):
    deployed(deployer, target, built)

    outcome = deployer.deploy(built, Secrets(), OPTIONS)

    assert not outcome.changed
    assert target.done == ["lock", "unlock"]


def test_the_same_again_is_deployed_where_a_service_is_not_what_it_should_be(deployer, target, built):
    deployed(deployer, target, built)
    target.running["scheduler"] = 0

    assert deployer.deploy(built, Secrets(), OPTIONS).changed


def test_a_changed_secret_is_a_new_release(deployer, target, built):
    deployed(deployer, target, built)
    target.secrets_differ = ("TOKEN",)

    outcome = deployer.deploy(built, Secrets({"TOKEN": "x"}), OPTIONS)

    assert (outcome.changed, outcome.plan.secrets, outcome.plan.image) == (True, ("TOKEN",), False)


def test_database_and_proxy_stay_as_they_are_when_a_newer_astro_deploys(deployer, target, built):
    deployed(deployer, target, built)

    outcome = deployer.deploy(
        replace(newer(built), companions={"postgres": "sha256:new", "proxy": "sha256:new"}),
        Secrets(),
        OPTIONS,
    )

    assert outcome.release.companions["postgres"] == "there:sha256:" + "2" * 64


def test_a_database_of_the_same_heads_is_neither_saved_nor_migrated(deployer, target, built):
    deployed(deployer, target, built)

    deployer.deploy(newer(built), Secrets(), OPTIONS)

    assert not [step for step in target.done if "backup" in step or "migrate" in step]


def test_it_is_saved_then_migrated_before_anything_is_replaced(deployer, target, built):
    deployed(deployer, target, built)

    outcome = deployer.deploy(newer(built, heads="h2"), Secrets(), OPTIONS)

    assert target.done[2:6] == ["base", "backup of h1", "migrate", "roll api to 2"]
    assert outcome.release.backup == "before-release-000002.dump"


def test_a_scheduler_that_dies_brings_the_whole_release_back(deployer, target, built):
    deployed(deployer, target, built)
    target.fails["roll others to 2"] = RollError("the service scheduler died 3 times", details=("last line",))

    error = failure(deployer, newer(built))

    assert error.message == "release 2 failed: the service scheduler died 3 times; release 1 runs again"
    assert (error.exit_code, error.details) == (5, ("last line",))
    assert target.running == dict.fromkeys(services_of(target.releases[0]), 1)
    assert [release.result for release in target.releases] == ["live", "failed"]
    assert target.state().current.id == 1
    assert target.done[-1] == "unlock"


def test_a_failed_release_after_a_migration_gets_the_old_database_back(deployer, target, built):
    deployed(deployer, target, built)
    target.fails["roll api to 2"] = RollError("api-server died")

    failure(deployer, newer(built, heads="h2"))

    assert target.heads == "h1"
    after = target.done[target.done.index("roll api to 2") :]
    assert after[1:5] == ["base", "remove services", "restore before-release-000002.dump", "roll all to 1"]


def test_a_migration_that_fails_and_changed_nothing_stops_nothing(deployer, target, built):
    deployed(deployer, target, built)

    def keep_heads(release: Release) -> None:
        raise AstroError("the migration of the metadata database failed")

    target.migrate = keep_heads
    failure(deployer, newer(built, heads="h2"))

    assert "remove services" not in target.done
    assert not [step for step in target.done if step.startswith(("restore", "roll api to 2"))]


def test_a_migration_that_fails_half_way_gets_the_old_database_back(deployer, target, built):
    deployed(deployer, target, built)
    target.fails["migrate"] = AstroError("the migration of the metadata database failed")

    failure(deployer, newer(built, heads="h2"))

    assert target.heads == "h1"
    assert target.running == dict.fromkeys(services_of(target.releases[0]), 1)


def test_a_first_deploy_that_fails_leaves_no_services(deployer, target, built):
    target.fails["roll api to 1"] = RollError("api-server died")

    error = failure(deployer, built)

    assert "nothing runs there" in error.message
    assert target.running == {}
    assert deployer.deploy(built, Secrets(), OPTIONS).password == "pw"


def test_an_interruption_brings_the_previous_release_back(deployer, target, built):
    deployed(deployer, target, built)
    target.fails["roll others to 2"] = KeyboardInterrupt()

    error = failure(deployer, newer(built))

    assert isinstance(error, Interrupted)
    assert error.message == "interrupted; release 1 runs again"
    assert set(target.running.values()) == {1}


def test_a_lost_connection_leaves_the_lock_for_the_next_one(deployer, target, built):
    deployed(deployer, target, built)
    target.fails["roll api to 2"] = TargetError("lost ssh://vm")

    error = failure(deployer, newer(built))

    assert error.exit_code == 7
    assert "unlock" not in target.done
    assert len(target.releases) == 1


def test_where_going_back_fails_as_well_the_lock_stays_and_the_cause_is_told(deployer, target, built):
    deployed(deployer, target, built)
    target.fails["roll others to 2"] = RollError("scheduler died", details=("last line",))
    target.fails["roll all to 1"] = RollError("api-server died")

    error = failure(deployer, newer(built))

    assert "scheduler died), and going back failed as well: api-server died" in error.message
    assert (error.exit_code, error.details) == (5, ("last line",))
    assert "unlock" not in target.done


def test_after_a_crash_the_next_deploy_says_what_it_found_and_finishes(target, built):
    report = RecordingReport()
    deployer = Deployer(DEPLOYMENT, target, report)
    deployed(deployer, target, built)
    target.unfinished = Unfinished("you@there", "astro deploy", "roll", 2)
    target.running[BARRIER] = 2

    outcome = deployer.deploy(newer(built), Secrets(), OPTIONS)

    assert "you@there" in report.warnings[0]
    assert "step: roll, release 2" in report.warnings[0]
    assert set(target.running.values()) == {outcome.release.id}


def test_after_a_crash_a_rollback_undoes_what_was_begun(deployer, target, built):
    deployed(deployer, target, built)
    target.unfinished = Unfinished("you@there", "astro deploy", "roll", 2)
    target.running[BARRIER] = 2

    outcome = deployer.rollback(None, Secrets(), OPTIONS, restore=False)

    assert outcome.release.rolled_back_to == 1
    assert set(target.running.values()) == {outcome.release.id}


def test_a_rollback_is_a_new_release_of_the_old_image(deployer, target, built):
    deployed(deployer, target, built)
    deployer.deploy(newer(built), Secrets(), OPTIONS)

    outcome = deployer.rollback(None, Secrets(), OPTIONS, restore=False)

    assert (outcome.release.id, outcome.release.rolled_back_to) == (3, 1)
    assert outcome.release.image == target.releases[0].image
    assert outcome.release.description == "rollback to release 1"


def test_a_rollback_over_a_migration_needs_a_word_and_brings_the_backup_back(deployer, target, built):
    deployed(deployer, target, built)
    deployer.deploy(newer(built, heads="h2"), Secrets(), OPTIONS)

    with pytest.raises(UsageError, match="older metadata database"):
        deployer.rollback(1, Secrets(), OPTIONS, restore=False)
    deployer.rollback(1, Secrets(), OPTIONS, restore=True)

    assert "restore before-release-000002.dump" in target.done
    assert target.heads == "h1"


def test_a_rollback_keeps_the_keys_that_the_database_is_encrypted_with(deployer, target, built):
    deployed(deployer, target, built)
    deployer.rotate_keys(Secrets(), OPTIONS)

    outcome = deployer.rollback(1, Secrets(), OPTIONS, restore=False)

    assert outcome.release.secrets["keys"] == "shop-prod-keys-2"


def test_new_keys_are_a_release_and_the_database_follows_when_it_is_live(deployer, target, built):
    deployed(deployer, target, built)

    release = deployer.rotate_keys(Secrets(), OPTIONS)

    assert (release.id, release.image) == (2, target.releases[0].image)
    assert target.done[-3:] == ["prune", "reencrypt", "unlock"]


def test_only_verified_releases_can_be_returned_to(deployer, target, built):
    with pytest.raises(UsageError, match="no release to go back to"):
        deployer.rollback(None, Secrets(), OPTIONS, restore=False)
    deployed(deployer, target, built)
    with pytest.raises(UsageError, match="no earlier release"):
        deployer.rollback(None, Secrets(), OPTIONS, restore=False)
    with pytest.raises(UsageError, match="no verified release 7"):
        deployer.rollback(7, Secrets(), OPTIONS, restore=False)


def test_what_cannot_be_tidied_away_does_not_fail_a_live_release(target, built):
    report = RecordingReport()
    target.fails["prune"] = AstroError("image is in use")

    assert Deployer(DEPLOYMENT, target, report).deploy(built, Secrets(), OPTIONS).changed
    assert "image is in use" in report.warnings[0]


def test_dry_looks_change_nothing(deployer, target, built):
    plan = deployer.plan(built, Secrets(), deployer.state())

    assert (plan.current, plan.added, plan.nothing) == (None, ("dags/a.py",), False)
    assert target.done == []


# DAGs alone


def other_dags(built: Built, tmp_path: Path) -> Built:
    (tmp_path / "dags/a.py").write_text("x = 2\n")
    return replace(built, dags=pack(tmp_path), content="d" * 64)


def test_dags_alone_are_a_release_for_which_nothing_is_rolled(deployer, target, built, tmp_path):
    deployed(deployer, target, built)
    new = other_dags(built, tmp_path)

    outcome = deployer.deploy_dags(new, OPTIONS, gates=("parse",))

    assert target.done == ["lock", "record live", "unlock"]
    assert (outcome.changed, outcome.release.id, outcome.release.serving) == (True, 2, 1)
    assert target.dags == {1: new.dags.digest}
    assert (outcome.release.image, outcome.release.gates) == (target.releases[0].image, ("parse",))
    assert not deployer.deploy_dags(new, OPTIONS).changed
    assert target.state().runs(outcome.release)


def test_dags_that_a_killed_deploy_pointed_to_are_published_and_recorded_by_the_next(
    deployer, target, built, tmp_path
):
    deployed(deployer, target, built)
    new = other_dags(built, tmp_path)
    target.dags[1] = new.dags.digest

    assert deployer.deploy_dags(new, OPTIONS).changed
    assert deployer.deploy_dags(built, OPTIONS).changed
    target.dags[1] = new.dags.digest
    assert deployer.deploy_dags(built, OPTIONS).changed
    assert target.dags == {1: built.dags.digest}


def test_dags_that_are_not_taken_up_leave_those_of_before(deployer, target, built, tmp_path):
    deployed(deployer, target, built)
    target.fails["look at dags"] = RollError("no")

    with pytest.raises(RollError):
        deployer.deploy_dags(other_dags(built, tmp_path), OPTIONS)
    assert target.dags == {1: built.dags.digest}
    assert len(target.releases) == 1


def test_a_rollback_over_dags_alone_rolls_nothing_either(deployer, target, built, tmp_path):
    deployed(deployer, target, built)
    deployer.deploy_dags(other_dags(built, tmp_path), OPTIONS)
    target.done.clear()

    outcome = deployer.rollback(None, Secrets(), OPTIONS, restore=False)

    assert target.done == ["lock", "record live", "unlock"]
    assert target.dags == {1: built.dags.digest}
    assert (outcome.release.id, outcome.release.serving, outcome.release.rolled_back_to) == (3, 1, 1)


def test_a_rollback_to_a_release_before_another_image_brings_its_dags_along(
    deployer, target, built, tmp_path
):
    deployed(deployer, target, built)
    with_new_dags = deployer.deploy_dags(other_dags(built, tmp_path), OPTIONS).release
    deployer.deploy(newer(built), Secrets(), OPTIONS)

    outcome = deployer.rollback(with_new_dags.id, Secrets(), OPTIONS, restore=False)

    assert (outcome.release.id, outcome.release.serving) == (4, 4)
    assert target.running["scheduler"] == 4
    assert target.dags[4] == with_new_dags.dags


def test_a_whole_deploy_of_the_same_image_brings_other_dags(deployer, target, built, tmp_path):
    deployed(deployer, target, built)
    deployer.deploy_dags(other_dags(built, tmp_path), OPTIONS)

    outcome = deployer.deploy(built, Secrets(), OPTIONS)

    assert (outcome.changed, outcome.release.serving) == (True, 3)
    assert target.dags[3] == built.dags.digest


def test_dags_alone_need_a_release_whose_services_run(deployer, target, built):
    with pytest.raises(UsageError, match="no release there yet"):
        deployer.deploy_dags(built, OPTIONS)
    deployed(deployer, target, built)
    target.running["scheduler"] = 0
    with pytest.raises(AstroError, match="does not run as it should"):
        deployer.deploy_dags(built, OPTIONS)


def test_dags_alone_leave_what_a_killed_deploy_began_to_those_that_can_finish_it(deployer, target, built):
    deployed(deployer, target, built)
    target.unfinished = Unfinished("me", "astro deploy", "roll", 2, "before-release-000002.dump")

    with pytest.raises(StrandedError, match="ended in the middle"):
        deployer.deploy_dags(built, OPTIONS)
    assert target.done == ["lock"]  # and no "unlock"
    assert target.marks == {"step": "roll", "release": "2", "backup": "before-release-000002.dump"}


def test_an_image_for_another_kind_of_machine_is_refused_in_a_sentence(deployer, target, built):
    deployer.check(replace(built, platform="linux/amd64"), target.state())

    with pytest.raises(UsageError, match="the image is for linux/arm64, but the host is linux/amd64"):
        deployer.check(replace(built, platform="linux/arm64"), target.state())


def test_an_older_airflow_on_a_migrated_database_is_told_the_way_back(deployer, target, built):
    old = replace(newer(built), airflow_version="3.2.10")
    deployer.deploy(old, Secrets(), OPTIONS)
    deployer.deploy(replace(built, heads="h2"), Secrets(), OPTIONS)

    with pytest.raises(
        UsageError, match=r"Airflow 3\.2\.10 cannot read the metadata database of release 2"
    ) as error:
        deployer.check(old, target.state())

    assert "`astro deployment rollback 1 --restore-database`" in str(error.value.hint)
    deployer.check(replace(built, airflow_version="3.4.0", heads="h3"), target.state())


def test_with_a_backup_those_go_over_which_no_rollback_leads(target, built):
    deployer = Deployer(replace(DEPLOYMENT, keep=2), target, RecordingReport())
    heads = ["h1", "h2", "h3", "h4"]
    for number, head in enumerate(heads):
        image = f"sha256:{number}" + "5" * 63
        deployer.deploy(
            replace(built, image_id=image, content=str(number) * 64, heads=head), Secrets(), OPTIONS
        )

    kept = {f"before-release-{number:06d}.dump" for number in range(1, 5)} - set(target.dropped)
    assert target.dropped == ("before-release-000001.dump", "before-release-000002.dump")
    assert kept == {"before-release-000003.dump", "before-release-000004.dump"}
    deployer.rollback(3, Secrets(), OPTIONS, restore=True)
    assert "restore before-release-000004.dump" in target.done


def test_a_backup_that_is_not_there_stops_nothing(deployer, target, built):
    deployer.deploy(built, Secrets(), OPTIONS)
    target.done.clear()

    with pytest.raises(UsageError, match=r"no backup `x; rm -rf /`") as error:
        deployer.restore("x; rm -rf /", Secrets(), OPTIONS)

    assert error.value.hint == "there is: monday.dump, tuesday.dump"
    assert target.done == ["lock", "unlock"]


def test_after_a_backup_that_cannot_be_put_back_the_services_run_again(deployer, target, built):
    deployer.deploy(built, Secrets(), OPTIONS)
    target.done.clear()
    target.fails["restore monday.dump"] = AstroError("damaged")

    with pytest.raises(AstroError, match="damaged"):
        deployer.restore("monday.dump", Secrets(), OPTIONS)

    assert target.done[:5] == ["lock", "remove services", "restore monday.dump", "base", "roll all to 1"]


def test_a_deploy_ends_when_new_runs_have_the_new_code(deployer, target, built):
    target.behind = 3

    deployer.deploy(built, Secrets(), OPTIONS)

    assert target.behind == 0


def test_a_target_is_asked_about_the_release_that_a_deploy_would_make(deployer, target, built):
    deployed(deployer, target, built)
    state = deployer.state()

    def asked(wanted: Built) -> Difference:
        (found,) = deployer.differences(wanted, deployer.plan(wanted, Secrets(), state), state)
        return found

    assert asked(newer(built)).kind == "release 2"
    assert asked(newer(built)).name.endswith(f":{'a' * 12}-{newer(built).image_id[7:19]}")
    assert asked(built).kind == "release 1", "what others have changed by hand"
