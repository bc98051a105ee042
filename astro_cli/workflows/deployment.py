"""The workflows of one deployment: plan, push, lock, backup, migrate, roll, verify, record; or all of it back."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from astro_cli.deploy import stack
from astro_cli.deploy.target import RollError, StrandedError
from astro_cli.domain.releases import FAILED, LIVE, backup_name, make_plan, unneeded_backups
from astro_cli.foundation.errors import AstroError, Interrupted, LockedError, TargetError, UsageError
from astro_cli.foundation.wait import wait_until
from astro_cli.runtime.engine import LogQuery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astro_cli.deploy.dag_bundle import Bundle
    from astro_cli.deploy.target import Difference, Lock, Secrets, State, Target, Unfinished
    from astro_cli.domain.deployments import Deployment
    from astro_cli.domain.releases import Plan, Release
    from astro_cli.runtime.engine import Report

VERIFY_SECONDS = 120.0
READ_SECONDS = 20.0
POLL_SECONDS = 1.0
LAST_LINES = 15
BARRIER = stack.API_SERVER
COMPONENTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")


@dataclass(frozen=True)
class Built:
    """The project's image on this machine, and what it was made from.

    Attributes:
        image_id: this machine's engine's id of it.
        content: hash of all its inputs.
        heads: migration heads of the Airflow inside.
        companions: ids of the images of database and proxy.
        files: DAG files with a hash of each.
        dags: the DAGs, as Airflow takes them.
        environment: see `Release`.
        dirty: whether files differ from the commit.
        platform: what kind of machine the image is for, such as `linux/amd64`; empty where that is not known.
    """

    image_id: str
    content: str
    airflow_version: str
    heads: str
    companions: Mapping[str, str]
    files: Mapping[str, str]
    dags: Bundle
    environment: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    dirty: bool = False
    platform: str = ""


@dataclass(frozen=True)
class DeployOptions:
    """How to deploy.

    Attributes:
        lock_wait: seconds to wait for another run.
        wait: seconds that the services of a release may take to become healthy.
        description: a line for the list of releases.
    """

    lock_wait: float = 0.0
    wait: float = 300.0
    description: str = ""
    who: str = ""
    now: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a deploy did.

    Attributes:
        release: the one that runs now.
        changed: False when it ran already.
        password: of the admin, if it was made by this deploy.
    """

    release: Release
    plan: Plan
    changed: bool
    password: str = ""
    url: str = ""


class Deployer:
    """Changes one deployment on its connected target, and leaves it in a state that is known."""

    def __init__(self, deployment: Deployment, target: Target, report: Report) -> None:
        self._deployment = deployment
        self._target = target
        self._report = report

    def state(self) -> State:
        """What is there."""
        return self._target.state()

    def check(self, built: Built, state: State) -> None:
        """See that the target can run what was built.

        Raises:
            UsageError: it is another kind of machine, or its database is that of a newer Airflow.
        """
        platform = self._target.platform()
        if built.platform and platform and built.platform != platform:
            raise UsageError(
                f"the image is for {built.platform}, but the host is {platform}",
                hint=f"deploy from a machine that is {platform}, for example in a CI job",
            )
        current = state.current
        if current is None or built.heads == current.heads or not _is_older(built, current):
            return
        live = (each for each in state.releases if each.result == LIVE)
        same = [each.id for each in live if each.airflow_version == built.airflow_version]
        goal = f" {same[-1]}" if same else ""
        raise UsageError(
            f"Airflow {built.airflow_version} cannot read the metadata database of release {current.id}, "
            f"which is that of Airflow {current.airflow_version}",
            hint=f"`astro deployment rollback{goal} --restore-database` goes back, and loses what happened since",
        )

    def plan(self, built: Built, secrets: Secrets, state: State) -> Plan:
        """What a deploy would change."""
        return make_plan(
            state.current,
            content=built.content,
            heads=built.heads,
            configuration=self._deployment.on_target(),
            files=built.files,
            secrets=self._target.changed_secrets(secrets),
            dags=built.dags.content,
        )

    def plan_dags(self, built: Built, state: State) -> Plan:
        """What a deploy of the DAGs alone would change.

        Raises:
            UsageError: nothing was deployed yet.
        """
        current = self._running(state)
        return make_plan(
            current,
            content=current.content,
            heads=current.heads,
            configuration=current.configuration,
            files=built.files,
            secrets=(),
            dags=built.dags.content,
        )

    def differences(self, built: Built, plan: Plan, state: State) -> tuple[Difference, ...]:
        """What would change on the target, as far as it can be asked that; see `Target.differences`."""
        current = state.current
        if current is not None and plan.nothing:
            return self._target.differences(current)
        repository = self._deployment.registry
        images = dict(current.companions) if current else {}
        for name, image_id in built.companions.items():
            images.setdefault(name, f"{repository}:{_companion_tag(name, image_id)}")
        images["airflow"] = (
            current.image if current and not plan.image else f"{repository}:{self._tags(built)[0]}"
        )
        secrets = dict(current.secrets) if current else {}
        if plan.secrets and stack.USER in secrets:
            secrets[stack.USER] = "new"
        return self._target.differences(self._release(built, images, secrets, DeployOptions(), state))

    def is_live(self, plan: Plan, state: State) -> bool:
        """Whether nothing has to be done: the same image and configuration run, healthy, and nobody is at work."""
        return (
            plan.nothing and not state.locked_by and state.current is not None and state.runs(state.current)
        )

    def deploy(
        self,
        built: Built,
        secrets: Secrets,
        options: DeployOptions,
        *,
        gates: tuple[str, ...] = (),
        skipped: bool = False,
    ) -> Outcome:
        """Put an image on the target as a new release.

        Raises:
            LockedError: somebody else is at work there.
            AstroError: it failed; what ran before runs again.
        """
        state = self._target.state()
        images = self._bring(built, state)
        with self._target.lock("astro deploy", options.lock_wait) as lock:
            self._say_unfinished(lock.unfinished)
            state = self._target.state()  # somebody may have been faster
            plan = self.plan(built, secrets, state)
            if state.current is not None and self.is_live(plan, replace(state, locked_by="")):
                return Outcome(state.current, plan, changed=False, url=self._url)
            lock.step("prepare", release=str(state.next_id))
            names, password = self._target.ensure_secrets(secrets, first=state.current is None)
            release = self._release(built, images, names, options, state)
            release = replace(release, gates=gates, skipped=skipped)
            release = self._put(release, state, secrets, options, lock, dags=built.dags)
        return Outcome(release, plan, changed=True, password=password, url=self._url)

    def rollback(
        self, number: int | None, secrets: Secrets, options: DeployOptions, *, restore: bool
    ) -> Outcome:
        """Put an earlier release's image and configuration on the target again, as a new release.

        Args:
            number: of the release; None is the one before the running one.
            restore: whether the database may be taken back where the release is of an older Airflow.
        """
        with self._target.lock("astro deployment rollback", options.lock_wait) as lock:
            self._say_unfinished(lock.unfinished)
            state = self._target.state()
            goal = self._goal(number, state, lock.unfinished)
            current = state.current
            assert current is not None
            backup = self._backup_between(goal, state) if goal.heads != current.heads else ""
            if goal.heads != current.heads and not restore:
                raise UsageError(
                    f"release {goal.id} has an older metadata database; going back loses what happened since",
                    hint="add `--restore-database` to put the backup made before the migration in its place",
                )
            lock.step("rollback", release=str(state.next_id))
            release = replace(
                goal,
                id=state.next_id,
                secrets=_secrets_of(goal, current),
                time=options.now,
                who=options.who,
                description=options.description or f"rollback to release {goal.id}",
                rolled_back_to=goal.id,
                backup="",
                base=None,
            )
            plan = make_plan(
                current,
                content=goal.content,
                heads=goal.heads,
                configuration=goal.configuration,
                files=goal.files,
                secrets=(),
                dags=goal.dags_content,
            )
            if _differ_in_dags_alone(goal, current) and state.runs(current):
                release = replace(release, base=current.serving)
                self._put_dags(release, current, lock, None)
            else:
                release = self._put(release, state, secrets, options, lock, restore=backup)
        return Outcome(release, plan, changed=True, url=self._url)

    def deploy_dags(
        self, built: Built, options: DeployOptions, *, gates: tuple[str, ...] = (), skipped: bool = False
    ) -> Outcome:
        """Let the running release take new DAGs: nothing restarts, and a run keeps those that it began with.

        Raises:
            UsageError: nothing was deployed yet.
            LockedError: somebody else is at work there.
            AstroError: it failed; new runs take the DAGs of before.
        """
        with self._target.lock("astro deploy --dags", options.lock_wait) as lock:
            self._say_unfinished(lock.unfinished)
            state = self._target.state()
            current = self._running(state)
            left = lock.unfinished
            if left is not None and (left.backup or not state.runs(current)):
                lock.step(left.step, release=str(left.release or ""), backup=left.backup)
                raise StrandedError(
                    "a whole deploy ended in the middle, which DAGs alone do not finish",
                    hint="`astro deploy` finishes it, `astro deployment rollback` undoes it",
                )
            if not state.runs(current):
                raise AstroError(
                    f"release {current.id} does not run as it should: DAGs alone do not help it",
                    hint="`astro deploy` puts a whole release there; `astro deployment ps` shows the services",
                )
            plan = self.plan_dags(built, state)
            if plan.nothing and self._target.dags_digest(current) == current.dags:
                return Outcome(current, plan, changed=False, url=self._url)
            release = replace(
                current,
                id=state.next_id,
                base=current.serving,
                time=options.now,
                files=built.files,
                dags=built.dags.digest,
                dags_content=built.dags.content,
                revision=built.revision,
                dirty=built.dirty,
                who=options.who,
                description=options.description,
                gates=gates,
                skipped=skipped,
                backup="",
                rolled_back_to=None,
            )
            self._put_dags(release, current, lock, built.dags)
        return Outcome(release, plan, changed=True, url=self._url)

    def _put_dags(self, release: Release, current: Release, lock: Lock, dags: Bundle | None) -> None:
        """Let the running services take other DAGs, and wait until they have."""
        began = time.monotonic()
        lock.step("dags", release=str(release.id))
        self._report.step("publish the DAGs")
        try:
            if dags is not None:
                self._target.publish_dags(release, dags)
            else:
                self._target.point_dags(release, release.dags)
            self._report.step("the dag-processor takes them")
            self._wait_for_dags(release, lock)
        except (AstroError, KeyboardInterrupt) as exc:
            if not isinstance(exc, TargetError):
                self._target.point_dags(current, current.dags)
            raise
        self._target.record(replace(release, seconds=round(time.monotonic() - began, 1), result=LIVE))

    def _wait_for_dags(self, release: Release, lock: Lock) -> None:
        def seen() -> bool | None:
            lock.beat()
            return True if self._target.dags_seen(release) == release.dags else None

        if wait_until(seen, seconds=VERIFY_SECONDS) is None:
            raise RollError(
                "the dag-processor did not take the DAGs", hint="see `astro deployment logs dag-processor`"
            )

        def read() -> bool | None:
            lock.beat()
            return None if self._target.dags_behind(release) else True

        if wait_until(read, seconds=READ_SECONDS) is None:  # a DAG that left its file is kept for a while
            self._report.warn(
                "not every DAG was read anew yet: a new run of such a one has the code of before"
            )

    # without a new release

    def stop(self, options: DeployOptions) -> None:
        """End all services, database and proxy last."""
        with self._target.lock("astro deployment stop", options.lock_wait) as lock:
            self._say_unfinished(lock.unfinished)
            self._report.step("stop the services")
            self._target.stop(lock)

    def start(self, secrets: Secrets, options: DeployOptions) -> Release:
        """Run the last verified release again; returns it."""
        with self._target.lock("astro deployment start", options.lock_wait) as lock:
            self._say_unfinished(lock.unfinished)
            release = self._running(self._target.state())
            self._run(release, secrets, options, lock)
            return release

    def rotate_keys(self, secrets: Secrets, options: DeployOptions) -> Release:
        """Put the running release there with new keys, and have the database encrypted anew; returns it."""
        with self._target.lock("astro deployment rotate-keys", options.lock_wait) as lock:
            self._say_unfinished(lock.unfinished)
            state = self._target.state()
            current = self._running(state)
            lock.step("keys", release=str(state.next_id))
            release = replace(
                current,
                id=state.next_id,
                base=None,
                time=options.now,
                who=options.who,
                description="new keys",
                secrets={**current.secrets, stack.KEYS: self._target.make_keys()},
                backup="",
                rolled_back_to=None,
            )
            release = self._put(release, state, secrets, options, lock)
            self._report.step("encrypt connections and variables anew")
            self._target.reencrypt(release)
            return release

    def backup(self, options: DeployOptions) -> str:
        """Write the metadata database to a file on the target; returns its name."""
        with self._target.lock("astro deployment backup", options.lock_wait):
            release = self._running(self._target.state())
            self._report.step("back up the metadata database")
            stamp = options.now.replace(":", "").replace("+0000", "")
            return self._target.backup(release, f"{stamp}.dump")

    def restore(self, backup: str, secrets: Secrets, options: DeployOptions) -> None:
        """Put a backup in the metadata database's place; the services are stopped meanwhile.

        Raises:
            UsageError: there is no such backup; nothing was stopped.
        """
        with self._target.lock("astro deployment restore", options.lock_wait) as lock:
            self._say_unfinished(lock.unfinished)
            release = self._running(self._target.state())
            known = self._target.backups(release)
            if backup not in known:
                hint = f"there is: {', '.join(known)}" if known else "`astro deployment backup` makes one"
                raise UsageError(f"there is no backup `{backup}`", hint=hint)
            try:
                self._restore(release, backup, lock)
            finally:  # one that could not be put back has changed nothing
                self._run(release, secrets, options, lock)

    def _run(self, release: Release, secrets: Secrets, options: DeployOptions, lock: Lock) -> None:
        lock.step("start", release=str(release.id))
        self._target.ensure_base(release, secrets, self._report, lock)
        self._report.step("start the services")
        self._target.roll(release, services_of(release), lock, options.wait)
        self._report.step("verify")
        self._verify(release, lock)

    def _running(self, state: State) -> Release:
        if state.current is None:
            raise UsageError("there is no release there yet", hint="`astro deploy` makes one")
        return state.current

    # the steps

    def _bring(self, built: Built, state: State) -> dict[str, str]:
        """Have the images on the target before anything there is locked or touched."""
        current = state.current
        images = dict(current.companions) if current else {}
        for name, image_id in built.companions.items():
            if name not in images:  # a deploy leaves the database and the proxy as they are
                tag = _companion_tag(name, image_id)
                images[name] = self._target.bring_image(image_id, [tag], self._report)
        if current is not None and current.content == built.content:
            images["airflow"] = current.image
        else:
            images["airflow"] = self._target.bring_image(built.image_id, self._tags(built), self._report)
        return images

    def _tags(self, built: Built) -> tuple[str, ...]:
        from astro_cli.deploy.push import image_tags

        return image_tags(built.image_id, built.revision, dirty=built.dirty)

    def _release(
        self,
        built: Built,
        images: Mapping[str, str],
        secrets: Mapping[str, str],
        options: DeployOptions,
        state: State,
    ) -> Release:
        from astro_cli.domain.releases import Release

        return Release(
            id=state.next_id,
            time=options.now,
            image=images["airflow"],
            content=built.content,
            airflow_version=built.airflow_version,
            heads=built.heads,
            configuration=self._deployment.on_target(),
            secrets=secrets,
            files=built.files,
            dags=built.dags.digest,
            dags_content=built.dags.content,
            environment=built.environment,
            companions={name: image for name, image in images.items() if name != "airflow"},
            revision=built.revision,
            dirty=built.dirty,
            who=options.who,
            description=options.description,
        )

    def _put(
        self,
        release: Release,
        state: State,
        secrets: Secrets,
        options: DeployOptions,
        lock: Lock,
        *,
        dags: Bundle | None = None,
        restore: str = "",
    ) -> Release:
        """Make `release` the running one, or leave everything as it was; returns it as it was recorded.

        Args:
            dags: its DAGs; None where they are on the target already.
            restore: file with the database to go back to.
        """
        began = time.monotonic()
        backup = lock.unfinished.backup if lock.unfinished else ""
        try:
            self._target.ensure_base(release, secrets, self._report, lock)
            heads = self._target.database_heads(release)
            if heads and (restore or heads != release.heads):
                backup = self._back_up(release, state, lock)
            if restore:
                self._restore(release, restore, lock)
            elif heads != release.heads:
                self._migrate(release, heads, backup, lock)
            release = replace(release, backup=backup)
            if dags is not None:  # the services of another release do not look at these
                self._target.publish_dags(release, dags)
            else:
                self._target.point_dags(release, release.dags)
            lock.step("roll", release=str(release.id), backup=backup)
            self._report.step(f"roll: {BARRIER}")
            self._target.roll(release, [BARRIER], lock, options.wait)
            self._report.step("the API answers as the new release")
            self._wait_for_api(release, lock)
            others = services_of(release)[1:]
            self._report.step(f"roll: {', '.join(others)}")
            self._target.roll(release, others, lock, options.wait)
            self._report.step("verify")
            self._verify(release, lock)
        except (AstroError, KeyboardInterrupt) as exc:
            self._undo(exc, release, state, secrets, options, lock, backup, time.monotonic() - began)
            raise
        lock.step("record", release=str(release.id))
        release = replace(release, seconds=round(time.monotonic() - began, 1), result=LIVE)
        self._target.record(release)
        lock.step("prune")
        try:
            self._target.prune(self._deployment.keep)
        except AstroError as exc:  # the release is live: what is left over is removed after the next one
            self._report.warn(f"old releases could not be tidied away: {exc.message}")
        return release

    def _back_up(self, release: Release, state: State, lock: Lock) -> str:
        """Save the database before a release changes it; returns the name of the backup."""
        self._report.step("back up the metadata database")
        lock.step("backup", release=str(release.id))
        old = unneeded_backups(state.releases, self._deployment.keep)
        in_use = lock.unfinished.backup if lock.unfinished else ""
        drop = [name for name in old if name != in_use]
        return self._target.backup(release, backup_name(release.id), drop=drop)

    def _migrate(self, release: Release, heads: str, backup: str, lock: Lock) -> None:
        lock.step("migrate", release=str(release.id), backup=backup)
        self._report.step(f"migrate the metadata database ({heads or 'empty'} → {release.heads})")
        try:
            self._target.migrate(release)
        except AstroError as exc:
            if any("Can't locate revision" in line for line in exc.details):
                exc.message = (
                    f"the metadata database is that of a newer Airflow than {release.airflow_version}"
                )
            raise

    def _restore(self, release: Release, backup: str, lock: Lock) -> None:
        lock.step("restore", release=str(release.id), backup=backup)
        self._report.step(f"put the metadata database back ({backup})")
        self._target.remove_services()
        self._target.restore(release, backup)

    def _wait_for_api(self, release: Release, lock: Lock) -> None:
        def answers() -> bool | None:
            lock.beat()
            answer = self._target.ask("/astro/release")
            return True if answer is not None and answer.get("release") == str(release.serving) else None

        if wait_until(answers, seconds=VERIFY_SECONDS, pause=POLL_SECONDS) is None:
            raise RollError(
                f"the API does not answer as release {release.id} through the proxy",
                hint="see `astro deployment logs api-server`",
            )

    def _verify(self, release: Release, lock: Lock) -> None:
        """Every component reports health, the DAGs are there, and the services still run what they were given."""
        sick: list[str] = []

        def healthy() -> bool | None:
            lock.beat()
            sick[:] = self._sick()
            return None if sick or not self._target.state().runs(release) else True

        if wait_until(healthy, seconds=VERIFY_SECONDS, pause=POLL_SECONDS) is None:
            behind = self._target.state().behind(release)
            what = ", ".join(sick or [service.name for service in behind])
            raise RollError(
                f"release {release.id} is not healthy: {what}",
                hint="see `astro deployment logs`",
                details=(*(service.error for service in behind if service.error), *self._last_lines(sick)),
            )
        self._wait_for_dags(release, lock)

    def _sick(self) -> list[str]:
        answer = self._target.ask("/api/v2/monitor/health")
        if answer is None:
            return ["the API"]
        parts = {name.replace("_", "-"): answer.get(name) for name in COMPONENTS}
        return [
            name
            for name, part in parts.items()
            if not isinstance(part, dict) or part.get("status") != "healthy"
        ]

    def _last_lines(self, services: Sequence[str]) -> tuple[str, ...]:
        lines = self._target.logs(LogQuery(services=tuple(services), tail=LAST_LINES)) if services else ()
        return tuple(line.text for line in lines)

    # going back

    def _undo(
        self,
        cause: BaseException,
        release: Release,
        state: State,
        secrets: Secrets,
        options: DeployOptions,
        lock: Lock,
        backup: str,
        seconds: float,
    ) -> None:
        """Bring the whole previous release back; raises what the user has to know."""
        message = cause.message if isinstance(cause, AstroError) else "interrupted"
        if isinstance(cause, LockedError):  # somebody else is at work there now
            raise cause
        if isinstance(cause, TargetError):
            raise StrandedError(
                f"release {release.id} is unfinished: {message}",
                hint="the lock stays; `astro deploy` finishes it, `astro deployment rollback` undoes it",
                cause=cause,
            ) from cause
        previous = state.current
        try:
            if previous is None:
                self._report.step("remove what was started")
                self._target.remove_services()
                after = "nothing runs there; database and secrets stay"
            else:
                self._report.step(f"bring release {previous.id} back")
                lock.step("undo", release=str(previous.id), backup=backup)
                self._target.ensure_base(previous, secrets, self._report, lock)
                if backup and self._target.database_heads(previous) != previous.heads:
                    self._restore(previous, backup, lock)
                self._target.roll(previous, services_of(previous), lock, options.wait)
                after = f"release {previous.id} runs again"
        except (AstroError, KeyboardInterrupt) as exc:
            raise StrandedError(
                f"release {release.id} failed ({message}), and going back failed as well: {exc}",
                hint="`astro deployment ps` shows what runs; `astro deployment rollback` tries again",
                cause=cause if isinstance(cause, AstroError) else Interrupted("interrupted"),
            ) from cause
        failed = replace(release, result=FAILED, error=message, seconds=round(seconds, 1))
        self._target.record(failed)
        if isinstance(cause, AstroError):
            cause.message = f"release {release.id} failed: {message}; {after}"
            cause.hint = "correct the cause, then deploy again"
            return
        raise Interrupted(f"interrupted; {after}", hint="`astro deploy` starts anew") from cause

    def _say_unfinished(self, left: Unfinished | None) -> None:
        if left is not None:
            self._report.warn(
                f"`{left.purpose}` of {left.who} ended in the middle (step: {left.step}"
                f"{f', release {left.release}' if left.release else ''}); this run takes over"
            )

    def _goal(self, number: int | None, state: State, left: Unfinished | None) -> Release:
        live = [release for release in state.releases if release.result == LIVE]
        if not live:
            raise UsageError("there is no release to go back to", hint="`astro deploy` makes one")
        if number is None:
            if left is not None:  # the running one was never finished: the last that was is the way back
                return live[-1]
            if len(live) < 2:
                raise UsageError("there is no earlier release", hint="see `astro deployment releases`")
            return live[-2]
        goal = next((release for release in live if release.id == number), None)
        if goal is None:
            known = ", ".join(str(release.id) for release in live[-10:])
            raise UsageError(f"there is no verified release {number}", hint=f"choose from: {known}")
        return goal

    def _backup_between(self, goal: Release, state: State) -> str:
        """The backup made by the first migration after a release."""
        later = (release for release in state.releases if release.id > goal.id and release.backup)
        found = next(later, None)
        if found is None:
            raise AstroError(
                f"there is no backup from before the migration after release {goal.id}",
                hint="restore one of your own, then deploy that version",
            )
        return found.backup

    @property
    def _url(self) -> str:
        return self._deployment.publish.base_url


def services_of(release: Release) -> tuple[str, ...]:
    """The names of all that a release replaces, `BARRIER` first."""
    return tuple(service.name for service in stack.services_of(release))


def _secrets_of(goal: Release, current: Release) -> dict[str, str]:
    """The user's secrets of `goal`; keys, login and database are the deployment's, whatever its release."""
    kept = {role: name for role, name in {**goal.secrets, **current.secrets}.items() if role != stack.USER}
    return kept | {role: name for role, name in goal.secrets.items() if role == stack.USER}


def _companion_tag(name: str, image_id: str) -> str:
    return f"{name}-{image_id[7:19]}"


def _is_older(built: Built, current: Release) -> bool:
    one, other = (
        [int(part) for part in re.findall(r"\d+", version)[:3]]
        for version in (built.airflow_version, current.airflow_version)
    )
    return one < other


def _differ_in_dags_alone(one: Release, other: Release) -> bool:
    """Whether the services of two releases are the same."""
    parts = ("image", "configuration", "secrets", "companions")
    return all(getattr(one, part) == getattr(other, part) for part in parts)
