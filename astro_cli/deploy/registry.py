"""Talks to a container registry without an engine: credentials as Docker keeps them, blobs, manifests and tags.

What it speaks is https://github.com/opencontainers/distribution-spec and Docker's token protocol
(https://distribution.github.io/distribution/spec/auth/token/). The second module that imports httpx.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import httpx

from astro_cli.domain.repository import HUB, HUB_API, HUB_KEY, HUB_NAMES, IDENTITY_TOKEN, Credentials
from astro_cli.foundation import process
from astro_cli.foundation.errors import AstroError, TargetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from astro_cli.foundation.wait import Clock

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_MANIFEST_TYPES = (
    MANIFEST_TYPE,
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_TIMES = httpx.Timeout(60.0, connect=10.0)  # seconds; per read or write, not for a whole transfer
_PAUSES = (0.5, 1.5, 4.0)  # seconds before the second, third and fourth try
_LONGEST_PAUSE = 20.0  # seconds that a registry may ask us to wait
_PASSING = (429, 500, 502, 503, 504)  # answers that may be better a moment later
_HELPER_SECONDS = 60.0  # a helper may ask the user to unlock a key ring
_CHUNK = 1 << 20

LOGIN_HINT = (
    "`docker login {host}` keeps a login; "
    "without a terminal set ASTRO_REGISTRY_USERNAME and ASTRO_REGISTRY_PASSWORD"
)
DENIED_HINT = "this login may not do that: ask for write access to the repository, or name another one"
SIZE_HINT = "a proxy before the registry limits uploads: raise its limit (nginx: `client_max_body_size 0`)"
MISSING_HINT = (
    "check the repository's name, some registries want one made before the first push; "
    "if it is right, look at the registry itself: its disk may be full"
)
TRUST_HINT = "if the registry has your company's certificate, name its authority: SSL_CERT_FILE=/path/ca.pem"
PLAIN_HINT = "it answers without TLS, which is accepted from this machine alone: give it a certificate"
REACH_HINT = "check the registry's name and port, the network, and the proxy settings (HTTPS_PROXY, NO_PROXY)"


# credentials


def find_credentials(host: str, environ: Mapping[str, str]) -> Credentials | None:
    """The login for a registry: ASTRO_REGISTRY_USERNAME and _PASSWORD, else what `docker login` keeps for it.

    Raises:
        TargetError: Docker's configuration cannot be read, or the helper that it names fails.
    """
    username, password = environ.get("ASTRO_REGISTRY_USERNAME"), environ.get("ASTRO_REGISTRY_PASSWORD")
    if password:
        return Credentials(username or IDENTITY_TOKEN, password)
    folder = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or Path.home()) / ".docker")
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        auths, helpers = config.get("auths") or {}, config.get("credHelpers") or {}
        store = config.get("credsStore") or ""
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as exc:
        raise TargetError(
            f"`{path}`, where Docker keeps logins, cannot be read: {exc}",
            hint="correct it, or `docker login` again",
        ) from exc
    keys = _keys(host)
    for key in keys:
        if key in helpers:
            return _from_helper(str(helpers[key]), (key,), environ)
    if store and (found := _from_helper(str(store), keys, environ)):
        return found
    return next((login for key in keys if (login := _from_entry(auths.get(key)))), None)


def _keys(host: str) -> tuple[str, ...]:
    """The names under which Docker keeps the login for a registry."""
    if host in HUB_NAMES:
        return (HUB_KEY, *HUB_NAMES)
    return (host, f"https://{host}", f"http://{host}", f"https://{host}/v1/", f"https://{host}/v2/")


def _from_entry(entry: object) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credentials(IDENTITY_TOKEN, str(token))
    try:
        username, _, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        return None
    return Credentials(username, password.rstrip("\0")) if username else None


def _from_helper(name: str, keys: tuple[str, ...], environ: Mapping[str, str]) -> Credentials | None:
    program = f"docker-credential-{name}"
    for key in keys:
        try:
            answer = process.ask([program, "get"], key, env=environ, seconds=_HELPER_SECONDS)
        except OSError as exc:
            raise TargetError(
                f"`{program}`, which keeps Docker's logins, does not answer: {exc}",
                hint="install it, or set ASTRO_REGISTRY_USERNAME and ASTRO_REGISTRY_PASSWORD",
            ) from exc
        if answer.code:
            if "not found" in answer.output:  # the helpers' protocol has no code for it
                continue
            raise TargetError(
                f"`{program}` failed: {answer.output.strip() or f'exit code {answer.code}'}",
                hint="unlock what keeps the logins, or set ASTRO_REGISTRY_USERNAME and ASTRO_REGISTRY_PASSWORD",
            )
        try:
            found = json.loads(answer.output)
            if found["Secret"]:
                return Credentials(str(found["Username"]), str(found["Secret"]))
        except (ValueError, KeyError, TypeError) as exc:
            raise TargetError(f"`{program}` answered what no credential helper answers") from exc
    return None


# the registry


@dataclass(frozen=True)
class Manifest:
    """One manifest as it was sent, and its digest (`sha256:…`), which has been verified."""

    digest: str
    content: bytes


class Registry:
    """One registry. HTTPS with the system's certificates, or those of SSL_CERT_FILE; plain HTTP on loopback alone.

    Whatever it refuses, and every failure to reach it, is a `TargetError` with the registry's own words.

    Args:
        host: `ADDRESS[:PORT]`.
        authority: PEM text of an authority to trust besides.
        clock: paces the tries.
    """

    def __init__(
        self,
        host: str,
        credentials: Credentials | None,
        *,
        environ: Mapping[str, str],
        authority: str = "",
        clock: Clock = time,
    ) -> None:
        self.host = host
        self._credentials = credentials
        self._clock = clock
        local = _is_loopback(host)
        api = HUB_API if host == HUB else host
        self._client = httpx.Client(
            verify=_trust(environ, authority),
            timeout=_TIMES,
            trust_env=not local,
            headers={"User-Agent": "astro"},
        )
        self._url = f"https://{api}"
        if local and not self._speaks_tls():
            self._url = f"http://{api}"
        self._authorizations: dict[str, str] = {}

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """The manifest of a tag or digest; None when there is none."""
        accept = {"Accept": ", ".join(_MANIFEST_TYPES)}
        answer = self._call("GET", f"/v2/{repository}/manifests/{reference}", repository, headers=accept)
        if answer.status_code == 404:
            return None
        digest = _digest(answer.content)
        if reference.startswith("sha256:") and digest != reference:
            raise TargetError(f"{self.host} sent something else than the manifest {reference}")
        return Manifest(digest, answer.content)

    def put_manifest(self, repository: str, reference: str, content: bytes) -> str:
        """Store a manifest under a tag or its digest; returns its digest."""
        path = f"/v2/{repository}/manifests/{reference}"
        headers = {"Content-Type": MANIFEST_TYPE}
        self._expect(self._call("PUT", path, repository, content=content, headers=headers))
        return _digest(content)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether a repository has a blob."""
        return self._call("HEAD", f"/v2/{repository}/blobs/{digest}", repository).status_code != 404

    def put_blob(self, repository: str, content: bytes) -> str:
        """Store a blob unless it is there; returns its digest."""
        digest = _digest(content)
        if self.has_blob(repository, digest):
            return digest
        path = f"/v2/{repository}/blobs/uploads/"
        begun = self._expect(self._call("POST", path, repository, content=b""))
        where = urljoin(self._url + path, begun.headers.get("Location", ""))
        where += f"{'&' if '?' in where else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        self._expect(self._call("PUT", where, repository, content=content, headers=headers))
        return digest

    # the wire

    def _expect(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code == 404:
            raise TargetError(f"{self.host} refused: {_told(answer)}", hint=MISSING_HINT)
        return answer

    def _call(
        self,
        method: str,
        where: str,
        repository: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer to one request, after as many tries as it takes: a success, or 404."""
        for pause in (*_PAUSES, None):
            try:
                answer = self._authorized(
                    method, urljoin(self._url, where), repository, content, headers or {}
                )
            except httpx.TransportError as exc:
                if pause is None or _is_trust(exc):
                    raise self._unreachable(exc) from exc
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                raise self._unreachable(exc) from exc
            else:
                if answer.is_success or answer.status_code == 404:
                    return answer
                if pause is None or answer.status_code not in _PASSING:
                    raise self._refused(answer)
                pause = max(pause, _asked_to_wait(answer))
            self._clock.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _authorized(
        self, method: str, url: str, repository: str, content: bytes | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        ours = _origin(url) == _origin(self._url)  # an upload may go elsewhere, which must not see the login
        for _ in range(2):
            known = self._authorizations.get(repository)
            sent = {**headers, **({"Authorization": known} if known and ours else {})}
            answer = self._client.request(
                method, url, content=content, headers=sent, follow_redirects=method in ("GET", "HEAD")
            )
            if answer.status_code != 401 or not ours:
                break
            fresh = self._authorization(answer, repository, writing=method not in ("GET", "HEAD"))
            if fresh is None or fresh == known:
                break
            self._authorizations[repository] = fresh
        return answer

    def _authorization(self, refusal: httpx.Response, repository: str, *, writing: bool) -> str | None:
        """What to answer to a 401, for one repository; None when there is nothing to say."""
        scheme, _, rest = refusal.headers.get("WWW-Authenticate", "").partition(" ")
        login = self._credentials
        if scheme.lower() == "basic" and login is not None:
            return f"Basic {base64.b64encode(f'{login.username}:{login.password}'.encode()).decode()}"
        if scheme.lower() != "bearer":
            return None
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = asked.get("realm", "")
        if urlsplit(realm).scheme != "https" and not _is_loopback(urlsplit(realm).netloc):
            raise TargetError(f"{self.host} sends logins to `{realm}`, where they would travel in the open")
        query = {
            "service": asked.get("service", ""),
            "scope": f"repository:{repository}:{'pull,push' if writing else 'pull'}",
            "client_id": "astro",
        }
        if login is not None and login.is_identity_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": login.password}
            answer = self._client.post(realm, data=form)
        else:
            basic = httpx.BasicAuth(login.username, login.password) if login else None
            answer = self._client.get(realm, params=query, auth=basic)
        if answer.status_code in _PASSING:
            raise httpx.ConnectError(f"{realm} answered HTTP {answer.status_code}")
        if not answer.is_success:
            raise self._refused(answer)
        try:
            body = answer.json()
            return f"Bearer {body.get('token') or body['access_token']}"
        except (ValueError, LookupError, AttributeError) as exc:
            raise TargetError(f"`{realm}`, where {self.host} hands out logins, sent no token") from exc

    def _speaks_tls(self) -> bool:
        try:
            self._client.head(f"{self._url}/v2/", timeout=5.0)
        except httpx.TransportError as exc:
            return _is_trust(exc)
        return True

    def _refused(self, answer: httpx.Response) -> AstroError:
        told = _told(answer)
        if answer.status_code == 401:
            what = "wants a login" if self._credentials is None else "refused the login"
            return TargetError(f"{self.host} {what}: {told}", hint=LOGIN_HINT.format(host=self.host))
        hint = {403: DENIED_HINT, 405: DENIED_HINT, 413: SIZE_HINT}.get(answer.status_code)
        if answer.status_code in _PASSING:
            hint = "this is the registry's own trouble: try again later; its log says more"
        return TargetError(f"{self.host} refused: {told}", hint=hint)

    def _unreachable(self, exc: Exception) -> AstroError:
        if _is_trust(exc):
            return TargetError(f"the certificate of {self.host} is not trusted: {exc}", hint=TRUST_HINT)
        hint = PLAIN_HINT if "WRONG_VERSION_NUMBER" in str(exc) else REACH_HINT
        return TargetError(
            f"the registry {self.host} cannot be reached: {exc or type(exc).__name__}", hint=hint
        )


def _trust(environ: Mapping[str, str], authority: str) -> ssl.SSLContext:
    named = environ.get("SSL_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=named or None)
    except OSError as exc:
        raise TargetError(
            f"SSL_CERT_FILE names `{named}`, which holds no certificate: {exc}", hint="correct the variable"
        ) from exc
    if not named and not context.cert_store_stats()["x509_ca"]:  # some Pythons do not know the system's store
        import certifi

        context.load_verify_locations(certifi.where())
    try:
        if authority:
            context.load_verify_locations(cadata=authority)
    except ssl.SSLError as exc:
        raise UsageError(f"the registry's authority is no certificate in PEM: {exc}") from exc
    return context


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or re.fullmatch(r"127(\.\d+){3}", name) is not None


def _is_trust(exc: BaseException | None) -> bool:
    return exc is not None and ("CERTIFICATE_VERIFY_FAILED" in str(exc) or _is_trust(exc.__cause__))


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _told(answer: httpx.Response) -> str:
    """The registry's own words for what is wrong."""
    try:
        error = answer.json()["errors"][0]
        return " ".join(
            str(part) for part in (error.get("code"), error.get("message"), error.get("detail") or "") if part
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"HTTP {answer.status_code} {answer.reason_phrase}".strip()


def _asked_to_wait(answer: httpx.Response) -> float:
    told = answer.headers.get("Retry-After", "")
    return min(float(told), _LONGEST_PAUSE) if told.isdigit() else 0.0
