"""What a deployment lives on, as the workflow above sees it: its verbs, and the values that pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from astro_cli.domain.releases import LIVE
from astro_cli.foundation.errors import AstroError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from astro_cli.deploy.dag_bundle import Bundle
    from astro_cli.domain.releases import Release
    from astro_cli.runtime.engine import LogLine, LogQuery, Report


class RollError(AstroError):
    """A service of a release did not come up."""

    code = "unhealthy"
    exit_code = 5


class StrandedError(AstroError):
    """A deploy ended in the middle and could not go back: its lock stays, and says to the next what was begun.

    It is of the kind of its cause: a lost connection, or a service that did not come up.
    """

    def __init__(self, message: str, *, hint: str, cause: AstroError | None = None) -> None:
        super().__init__(message, hint=hint, details=cause.details if cause else ())
        if cause is not None:
            self.code, self.exit_code = cause.code, cause.exit_code


@dataclass(frozen=True)
class ServiceState:
    """One service on the target.

    Attributes:
        release: the release it should run, or None for what no release replaces.
        running: how many of `wanted` run and are healthy.
        draining: old ones that finish their tasks.
        containers: ids of those that run.
        error: why the newest one died, as the engine says.
        nodes: where those run, on a target with several.
    """

    name: str
    release: int | None
    wanted: int
    running: int
    draining: int = 0
    image: str = ""
    containers: tuple[str, ...] = ()
    error: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unfinished:
    """What a deploy that never ended left behind.

    Attributes:
        who: user and machine.
        step: the last thing that it began.
        release: the one it was putting there.
        backup: file with the database as it was, if it may have been migrated since.
    """

    who: str
    purpose: str
    step: str
    release: int | None = None
    backup: str = ""


class Lock(Protocol):
    """Held while something on the target is changed."""

    unfinished: Unfinished | None

    def step(self, name: str, **marks: str) -> None:
        """Write down what is about to happen, so that whoever comes after a crash knows."""

    def beat(self) -> None:
        """Say that the holder still lives; cheap, to be called from every wait."""


@dataclass(frozen=True)
class State:
    """What is on a target: every recorded release, the services, whether a lock is there, whose it is."""

    releases: tuple[Release, ...] = ()
    services: tuple[ServiceState, ...] = ()
    locked_by: str = ""

    @property
    def current(self) -> Release | None:
        """The release that was verified last, which is the running one unless something is unfinished."""
        return next((each for each in reversed(self.releases) if each.result == LIVE), None)

    @property
    def next_id(self) -> int:
        """Number of the next release."""
        return max((each.id for each in self.releases), default=0) + 1

    def runs(self, release: Release) -> bool:
        """Whether every service runs just this release."""
        return any(service.release is not None for service in self.services) and not self.behind(release)

    def behind(self, release: Release) -> tuple[ServiceState, ...]:
        """The services that do not run just this release, or not as often as they should."""
        mine = (service for service in self.services if service.release is not None)
        return tuple(
            service
            for service in mine
            if service.release != release.serving or service.running < service.wanted
        )


@dataclass(frozen=True)
class Difference:
    """One object that is not as it should be.

    Attributes:
        action: `create`, `change` or `remove`.
        fields: what changes in it, each as `path: old → new`.
    """

    action: str
    kind: str
    name: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Secrets:
    """Secret values on their way to the target; never printed.

    Attributes:
        user: the user's variables.
        database: SQLAlchemy address of a database of the user's; empty for the bundled one.
        certificate: PEM text, or empty.
        authority: PEM text of the registry's authority, for containers; no secret, but found in the same way.
    """

    user: Mapping[str, str] = field(default_factory=dict, repr=False)
    database: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    authority: str = ""


class Target(Protocol):
    """One deployment on its target, connected.

    Every method raises `TargetError` when the target cannot be reached any more.
    """

    def check(self, *, changing: bool = False) -> None:
        """That the target can be used, and nothing on it is somebody else's.

        Args:
            changing: whether it will be changed, for which one may need to be allowed more.
        """

    def state(self) -> State:
        """What is there; changes nothing."""

    def platform(self) -> str:
        """What kind of machine it is, such as `linux/amd64`; empty where that is not known."""

    def changed_secrets(self, secrets: Secrets) -> tuple[str, ...]:
        """Names whose values differ from what the target has."""

    def differences(self, release: Release) -> tuple[Difference, ...]:
        """What putting a release there would change, as far as the target can tell beforehand."""

    def lock(self, purpose: str, wait: float) -> AbstractContextManager[Lock]:
        """Hold the deployment; raises `LockedError` after `wait` seconds."""

    def unlock(self) -> Unfinished | None:
        """Take the lock away from whoever has it; what was begun under it, or None when it was free."""

    def bring_image(self, image_id: str, tags: Sequence[str], report: Report) -> str:
        """Have a local image on the target; returns how its engine calls it, by digest or id."""

    def ensure_secrets(self, secrets: Secrets, *, first: bool) -> tuple[dict[str, str], str]:
        """Have every secret; returns their names by role, and the admin's password if it is new."""

    def make_keys(self) -> str:
        """New keys, with which what the old ones encrypted can still be read; returns the secret's name."""

    def reencrypt(self, release: Release) -> None:
        """Encrypt everything in the database with the newest key."""

    def ensure_base(self, release: Release, secrets: Secrets, report: Report, lock: Lock) -> None:
        """Have what releases stand on: network, volumes, database, proxy."""

    def database_heads(self, release: Release) -> str:
        """Migration heads of the metadata database; empty for an empty one."""

    def backup(self, release: Release, name: str, *, drop: Sequence[str] = ()) -> str:
        """Write the metadata database to a file on the target, then remove those in `drop`; returns its name."""

    def backups(self, release: Release) -> tuple[str, ...]:
        """Names of the backups on the target, by name."""

    def restore(self, release: Release, name: str) -> None:
        """Put a backup in the metadata database's place; services must be stopped."""

    def migrate(self, release: Release) -> None:
        """Migrate the metadata database with the release's image."""

    def logs(self, query: LogQuery) -> Iterator[LogLine]:
        """Lines of the services, in order of time."""

    def publish_dags(self, release: Release, bundle: Bundle) -> None:
        """Bring a version of the DAGs there, and let a release's services take it."""

    def point_dags(self, release: Release, digest: str) -> None:
        """Let a release's services take a version of the DAGs that was brought there before."""

    def dags_digest(self, release: Release) -> str:
        """The version that a release's services are told to take; empty when there is none."""

    def dags_seen(self, release: Release) -> str:
        """The version that the release's dag-processor has read last; empty when it has read none."""

    def dags_behind(self, release: Release) -> int:
        """How many DAGs the database still has from another version; 0 also where that cannot be told."""

    def roll(self, release: Release, services: Sequence[str], lock: Lock, seconds: float) -> None:
        """Replace services, and wait until all run healthy; raises `RollError` with the dead one's last lines."""

    def remove_services(self) -> None:
        """Remove every service that a release replaces."""

    def stop(self, lock: Lock) -> None:
        """End every service, the database and the proxy; data stays."""

    def ask(self, path: str) -> dict[str, object] | None:
        """The deployment's own API through its proxy; None when it does not answer with success."""

    def record(self, release: Release) -> None:
        """Append to the list of releases."""

    def prune(self, keep: int) -> None:
        """Remove secrets and images of releases that cannot be returned to, and let their DAGs go."""

    def destroy(self, report: Report, wait: float) -> None:
        """Remove everything of the deployment, data included."""

    def run_inside(self, service: str, command: Sequence[str], *, interactive: bool) -> int:
        """Run a command beside a service, with its environment, on this terminal; returns its exit code."""

    def forwarded_api(self) -> AbstractContextManager[str]:
        """Address on this machine of the deployment's API, whose own port need not be reachable."""

    def admin_password(self) -> str:
        """The admin's password; empty with an auth manager of the user's own."""
