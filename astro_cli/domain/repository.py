"""Repositories of images, and the login for a registry."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from astro_cli.foundation.errors import UsageError

HUB, HUB_API, HUB_KEY = "docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"
"""Docker Hub: in names, on the network, and in files with logins."""
IDENTITY_TOKEN = "<token>"  # noqa: S105 - the user name by which Docker's helpers say that the password is a token
HUB_NAMES = ("index.docker.io", HUB, HUB_API)
"""By which people and Docker call it."""
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")


@dataclass(frozen=True)
class Credentials:
    """A login. The user name `<token>` says that the password is an identity token, as Docker's helpers do."""

    username: str
    password: str = field(repr=False)

    @property
    def is_identity_token(self) -> bool:
        """Whether there is no user."""
        return self.username == IDENTITY_TOKEN

    @property
    def for_engine(self) -> dict[str, str]:
        """The login in the words of engines."""
        if self.is_identity_token:
            return {"identitytoken": self.password}
        return {"username": self.username, "password": self.password}


class Repository(NamedTuple):
    """A repository's registry (`ADDRESS[:PORT]`) and its name there."""

    host: str
    name: str

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"

    @property
    def url(self) -> str:
        """Where the registry answers."""
        return f"https://{HUB_API if self.host == HUB else self.host}"


def parse_repository(text: str) -> Repository:
    """Split `registry.example:5000/team/project`; without a registry it is one on Docker Hub.

    Raises:
        UsageError: it is no name of a repository, or carries a tag or digest.
    """
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        host, name = first, rest
    else:
        host, name = HUB, text
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"`{text}` is not a repository's name",
            hint="it is like registry.example/team/project: lower case, without a tag",
        )
    return Repository(HUB if host in HUB_NAMES else host, name)
