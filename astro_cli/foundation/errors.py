"""Every failure astro expects, each with its exit code and a way out.

    AstroError            1  the operation failed
    ├─ UsageError         2  wrong usage
    ├─ ProjectError       3  the project or its configuration is invalid
    ├─ EngineError        4  no engine can run here
    ├─ UnhealthyError     5  still starting when the time was up, or a service died
    ├─ GateError          6  a gate refused (parse, tests, uncommitted changes)
    ├─ TargetError        7  registry or target unreachable, or login refused
    └─ LockedError        8  another run holds the lock

`Interrupted` (130) is raised when Ctrl-C ends an operation in a state that can be named.
"""

from __future__ import annotations


class AstroError(Exception):
    """An expected failure: one sentence, a way out, and what is worth reading below them.

    Args:
        message: what happened, in the user's words, without a trailing full stop.
        hint: the command to run or the thing to change next.
        details: lines to show under the message, such as the last lines of a service.
    """

    code: str = "failed"
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class UsageError(AstroError):
    """The command line asks for something that does not exist or does not fit together."""

    code = "usage"
    exit_code = 2


class ProjectError(AstroError):
    """A file of the project, or a setting, is missing or invalid."""

    code = "project"
    exit_code = 3


class EngineError(AstroError):
    """No engine answers here, or it refuses us."""

    code = "engine"
    exit_code = 4


class UnhealthyError(AstroError):
    """The sandbox is not healthy: time ran out, or a service died."""

    code = "unhealthy"
    exit_code = 5


class GateError(AstroError):
    """A check that guards a deploy refused."""

    code = "gate"
    exit_code = 6


class TargetError(AstroError):
    """A registry or deployment target cannot be reached, or refuses the login."""

    code = "target"
    exit_code = 7


class LockedError(AstroError):
    """Another astro works on the same thing right now."""

    code = "locked"
    exit_code = 8


class Interrupted(AstroError):
    """Ctrl-C: the state that is left behind is known and said."""

    code = "interrupted"
    exit_code = 130
