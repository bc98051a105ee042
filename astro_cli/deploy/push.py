"""Pushes an image through the engine, which has its layers, and tells by what name to pull those very bytes."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from astro_cli.deploy.registry import (
    DENIED_HINT,
    LOGIN_HINT,
    REACH_HINT,
    SIZE_HINT,
)
from astro_cli.domain.repository import parse_repository
from astro_cli.foundation.errors import AstroError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Protocol

    from astro_cli.domain.repository import Credentials
    from astro_cli.foundation.wait import Clock
    from astro_cli.runtime.engine import Report

    class PushApi(Protocol):
        """What is used of `runtime.docker_api.DockerApi`."""

        def tag(self, image: str, reference: str) -> None:
            """Give an image another name."""

        def untag(self, reference: str) -> None:
            """Take a name off an image, unless it is the last one."""

        def push(self, reference: str, login: Mapping[str, str] | None) -> Iterator[dict[str, Any]]:
            """Push a tagged image and tell how it goes."""


_PAUSES = (1.0, 4.0, 10.0)  # seconds before the second, third and fourth try
_ENGINE_TRUST_HINT = (
    "the engine does not trust the registry's certificate: "
    "put the authority's into /etc/docker/certs.d/{host}/ca.crt on the engine's machine"
)
_ENGINE_PLAIN_HINT = (
    "the registry has no TLS: give it a certificate, or name it in the engine's insecure-registries"
)
# What engines and registries say, in the order in which it is looked for; True for what may pass by itself.
_WORDS = (
    (r"x509|certificate", _ENGINE_TRUST_HINT, False),
    (r"HTTP response to HTTPS client", _ENGINE_PLAIN_HINT, False),
    (r"\b413\b|too large", SIZE_HINT, False),
    (r"unauthorized|authentication required|no basic auth credentials|\b401\b", LOGIN_HINT, False),
    (r"denied|forbidden|\b403\b", DENIED_HINT, False),
    (r"toomanyrequests|\b429\b|\b50[0234]\b|unavailable|bad gateway", None, True),
    (r"refused|reset|timeout|timed out|EOF|broken pipe|no such host|unreachable|closed", REACH_HINT, True),
)


def image_tags(image_id: str, revision: str, *, dirty: bool = False) -> tuple[str, ...]:
    """The tag of an image: git revision and content. Two builds share one only if they are the same image.

    Args:
        revision: git commit, or empty.
        dirty: whether the project had changes that are in no commit.
    """
    content = image_id.removeprefix("sha256:")[:12]
    return (f"{revision[:12]}{'-dirty' if dirty else ''}-{content}" if revision else content,)


def push(
    api: PushApi,
    image_id: str,
    repository: str,
    tags: Sequence[str],
    credentials: Credentials | None,
    report: Report,
    *,
    clock: Clock = time,
) -> str:
    """Push an image under each of `tags`; returns how to pull it: `REPOSITORY:TAG@sha256:…`.

    The names are taken off the local image again.

    Raises:
        TargetError: the registry cannot be reached or refuses, in its own words.
    """
    host = parse_repository(repository).host
    login = credentials.for_engine if credentials else None
    digest = ""
    for tag in tags:
        reference = f"{repository}:{tag}"
        api.tag(image_id, reference)
        try:
            digest = _push_patiently(api, reference, login, host, report, clock)
        finally:
            api.untag(reference)
    return f"{repository}:{tags[0]}@{digest}"


def _push_patiently(
    api: PushApi, reference: str, login: Mapping[str, str] | None, host: str, report: Report, clock: Clock
) -> str:
    """Push, and again where that may help: layers that arrived are not sent twice."""
    for pause in (*_PAUSES, None):
        digest, error = _follow(api.push(reference, login), report)
        if digest and not error:
            return digest
        problem, passes = _explained(host, error or "the engine told no digest")
        if pause is None or not passes:
            raise problem
        report.warn(f"pushing to {host} failed, once more in {pause:.0f} s: {error}")
        clock.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _follow(told: Iterable[Mapping[str, Any]], report: Report) -> tuple[str, str]:
    """Read what the engine tells of a push to its end: digest and error, of which one is empty."""
    digest = error = ""
    sizes: dict[str, tuple[int, int]] = {}
    for line in told:
        if "errorDetail" in line:
            error = str(line["errorDetail"].get("message") or line.get("error") or "no reason given")
        elif "aux" in line:
            digest = str(line["aux"].get("Digest") or digest)
        elif line.get("status") == "Pushing" and (line.get("progressDetail") or {}).get("total"):
            progress = line["progressDetail"]
            sizes[str(line.get("id"))] = (int(progress["current"]), int(progress["total"]))
            done, total = (sum(column) for column in zip(*sizes.values(), strict=True))
            report.detail(f"{done / 1e6:.1f} of {max(done, total) / 1e6:.1f} MB in {len(sizes)} layers")
        elif line.get("id") and line.get("status") in ("Pushed", "Layer already exists"):
            report.detail(f"{line['id']} {str(line['status']).lower()}")
    return digest, error


def _explained(host: str, text: str) -> tuple[AstroError, bool]:
    said = re.sub(r":\d+\b", "", text)  # a port is no status
    for words, hint, passes in _WORDS:
        if re.search(words, said, re.IGNORECASE):
            filled = hint.format(host=host) if hint else None
            return TargetError(f"{host} did not take the image: {text}", hint=filled), passes
    return TargetError(f"{host} did not take the image: {text}"), False
