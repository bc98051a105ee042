"""Looks at everything a sandbox stands on, each thing for itself, and says what to do about what is wrong.

Every check runs in a thread of its own with the same deadline: an engine or network that hangs costs that check and
no other, and a check that breaks is a finding like any other.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import astro_cli
from astro_cli.domain import image
from astro_cli.domain.airflow import DEFAULT_VERSION, SUPPORTED_VERSIONS
from astro_cli.domain.envfile import load_env
from astro_cli.domain.host_settings import host_settings
from astro_cli.domain.objects import load_objects
from astro_cli.domain.project import locate, read_project
from astro_cli.domain.services import DEFAULT_PORT
from astro_cli.domain.settings import load_settings
from astro_cli.domain.state import SandboxState
from astro_cli.foundation import paths, ports, process
from astro_cli.foundation.errors import AstroError, EngineError, ProjectError, TargetError
from astro_cli.foundation.redact import Redactor, without_password
from astro_cli.runtime.engine_http import EngineReader, NotFound, find_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from astro_cli.workflows.leftovers import Leftover

CHECK_SECONDS = 10.0
"""What all checks together may take; what is not done then is given up."""
ANSWER_SECONDS = 6.0
"""For one answer of the engine or of a server."""
GIB = 1024**3
LITTLE_DISK, LOW_DISK = 1 * GIB, 5 * GIB
LITTLE_MEMORY, LOW_MEMORY = 1 * GIB, 2 * GIB
CLOCK_SECONDS, CLOCK_WRONG_SECONDS = 5.0, 60.0
OLDEST_DOCKER = (20, 10)

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        message: what is so, in a sentence without full stop; never with a secret in it.
        fix: what to do about it; empty where all is well.
        exit_code: of a problem, as in `errors`.
        repair: does what is safe to be done unasked, with `--fix`.
    """

    check: str
    level: Level
    message: str
    fix: str = ""
    exit_code: int = 1
    repair: Callable[[], None] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Place:
    """What is looked at.

    Attributes:
        start: the folder in or below the project, if there is one.
        leftovers: finds sandboxes of gone projects.
    """

    environ: Mapping[str, str]
    start: Path
    leftovers: Callable[[], Sequence[Leftover]] = tuple
    clock: Callable[[], float] = time.time

    @cached_property
    def root(self) -> Path | None:
        """The project's folder."""
        return locate(self.start)

    def reader(self) -> EngineReader:
        """The engine's door, which loses patience soon.

        Raises:
            EngineError: nothing points to an engine.
        """
        return EngineReader(find_reader(self.environ).endpoint, patience=ANSWER_SECONDS)


Check = tuple[str, "Callable[[Place], Iterator[Finding]]"]


def examine(
    place: Place, checks: Sequence[Check] | None = None, *, seconds: float = CHECK_SECONDS
) -> tuple[Finding, ...]:
    """Every check's findings, in the checks' order. Takes at most `seconds`, raises nothing."""
    chosen = CHECKS if checks is None else checks
    told: list[list[Finding]] = [[] for _ in chosen]

    def look(at: int, name: str, check: Callable[[Place], Iterator[Finding]]) -> None:
        try:
            for finding in check(place):
                told[at].append(finding)
        except AstroError as exc:
            told[at].append(Finding(name, "problem", exc.message, exc.hint or "", exc.exit_code))
        except Exception as exc:  # noqa: BLE001 - one check that breaks must not take the others along
            told[at].append(
                Finding(name, "problem", f"the check broke: {type(exc).__name__}: {exc}", _REPORT)
            )

    threads = [
        threading.Thread(target=look, args=(at, name, check), daemon=True)
        for at, (name, check) in enumerate(chosen)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    found = []
    for (name, _), thread, lines in zip(chosen, threads, told, strict=True):
        thread.join(max(deadline - time.monotonic(), 0.0))
        found += list(lines)
        if thread.is_alive():
            found.append(
                Finding(name, "problem", f"no answer within {seconds:.0f} seconds", "see whether it hangs")
            )
    clean = Redactor()
    return tuple(
        replace(one, message=clean.clean(one.message), fix=clean.clean(one.fix or _what_to_do(one)))
        for one in found
    )


def _what_to_do(finding: Finding) -> str:
    """For an error that is its own explanation: whatever is not well has a way on."""
    return "" if finding.level == "ok" else "correct that, then run `astro doctor` again"


_REPORT = "please report it; `astro doctor --bundle FILE` collects what helps"


def exit_code(findings: Sequence[Finding]) -> int:
    """0 without a problem, else the first problem's own."""
    return next((each.exit_code for each in findings if each.level == "problem"), 0)


# the checks


def _versions(_: Place) -> Iterator[Finding]:
    system = os.uname()
    python = sys.version.split()[0]
    yield Finding(
        "astro", "ok", f"astro {astro_cli.__version__}, Python {python}, {system.sysname} {system.machine}"
    )


def _engine(place: Place) -> Iterator[Finding]:
    """The engine answers, is young enough, and lets us in."""
    try:
        reader = place.reader()
        info = reader.info()
    except EngineError as exc:
        hint = exc.hint or ""
        if load_settings(place.environ, project_root=None).text("sandbox.engine") != "docker":
            yield Finding("engine", "warning", f"{exc.message}; sandboxes run as local processes", hint)
        else:
            yield Finding("engine", "problem", exc.message, hint, exc.exit_code)
        return
    old = info.name == "Docker" and _numbers(info.version) < OLDEST_DOCKER
    yield Finding(
        "engine",
        "warning" if old else "ok",
        f"{info.name} {info.version} ({info.platform}) at {info.address}, from {reader.endpoint.source}",
        f"astro is tested with Docker {OLDEST_DOCKER[0]}.{OLDEST_DOCKER[1]} and newer: update it"
        if old
        else "",
    )


def _resources(place: Place) -> Iterator[Finding]:
    """Memory and processors of the engine (of its virtual machine, where it has one), and disks."""
    try:
        told = place.reader().json("/info")
    except EngineError:
        told = {}
    if told.get("MemTotal"):
        memory = int(told["MemTotal"])
        yield Finding(
            "memory",
            _level(memory, LITTLE_MEMORY, LOW_MEMORY),
            f"the engine has {memory / GIB:.1f} GiB of memory and {told.get('NCPU', '?')} processors",
            "give its virtual machine more (a sandbox needs half a GiB, and your tasks theirs)"
            if memory < LOW_MEMORY
            else "",
        )
    free = _memory_free()
    if free is not None:
        yield Finding(
            "memory",
            "ok" if free >= GIB / 2 else "warning",
            f"{free / GIB:.1f} GiB of memory are free on this machine",
            "end what is not needed, or lower `sandbox.parallelism`" if free < GIB / 2 else "",
        )
    folders = [("astro's files", paths.state_dir()), ("the cache", paths.cache_dir())]
    if place.root is not None:
        folders.append(("the project", place.root))
    if told.get("DockerRootDir") and Path(told["DockerRootDir"]).is_dir():
        folders.append(("the engine", Path(told["DockerRootDir"])))
    seen: dict[int, str] = {}
    for what, folder in folders:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        device = there.stat().st_dev
        if device in seen:
            continue
        seen[device] = what
        left = shutil.disk_usage(there).free
        yield Finding(
            "disk",
            _level(left, LITTLE_DISK, LOW_DISK),
            f"{left / GIB:.1f} GiB are free for {what} ({there})",
            "`astro clean` removes what is of no more use" if left < LOW_DISK else "",
        )
    if told and place.reader().endpoint.socket is not None and "the engine" not in dict(folders):
        yield Finding(
            "disk", "ok", "the engine's disk is not on this machine; how full it is, it does not tell"
        )


def _files(_: Place) -> Iterator[Finding]:
    """astro's own folders can be written, and secrets in them are private."""
    for folder in (paths.state_dir(), paths.cache_dir(), paths.log_dir(), paths.user_config_file().parent):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            owner = there.stat().st_uid
            fix = f'`sudo chown -R "$(id -u)" {there}` (user {owner} owns it)'
            yield Finding("permissions", "problem", f"{there} cannot be written to", fix)
    secret = [paths.user_config_file(), *paths.state_dir().glob("sandboxes/*/secrets.json")]
    secret += paths.state_dir().glob("sandboxes/*/snapshots/*")
    open_files = [file for file in secret if file.is_file() and file.stat().st_mode & 0o077]
    for file in open_files:
        yield Finding(
            "permissions",
            "warning",
            f"others may read {file}",
            f"`chmod 600 {file}`",
            repair=partial(_make_private, file),
        )
    if not open_files:
        yield Finding("permissions", "ok", "astro's own files are for you alone")


def _make_private(file: Path) -> None:
    if not file.is_symlink():
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _ports(place: Place) -> Iterator[Finding]:
    """The port that the project's web UI would get."""
    settings = load_settings(place.environ, project_root=place.root)
    wanted = settings.number("sandbox.port")
    remembered = None
    if place.root is not None:
        state = SandboxState(place.root)
        remembered = state.get("port") if state.known_id else None
    port = wanted or (remembered if isinstance(remembered, int) else DEFAULT_PORT)
    if ports.is_free(port):
        yield Finding("ports", "ok", f"port {port} is free")
        return
    holder = _sandbox_at(place, port) or ports.holder(port) or "another program"
    if place.root is not None and f"({place.root})" in holder:
        yield Finding("ports", "ok", f"port {port} is this project's own")
        return
    if wanted is not None:
        fix = f"stop it, or `astro config set sandbox.port {ports.next_free(port + 1)}`"
        yield Finding("ports", "problem", f"port {port}, which is asked for, is held by {holder}", fix)
    else:
        fix = f"nothing to do: `start` takes {ports.next_free(port + 1)}, or what `--port` says"
        yield Finding("ports", "warning", f"port {port} is held by {holder}", fix)


def _sandbox_at(place: Place, port: int) -> str | None:
    from astro_cli.runtime.docker import DockerEngine
    from astro_cli.runtime.standalone import StandaloneEngine

    for kind in (StandaloneEngine, DockerEngine):
        engine = kind(place.environ, lambda: load_settings(place.environ, project_root=place.root))
        with suppress(EngineError):
            if holder := engine.port_holder(port):
                return holder
    return None


_INDEX_FIX = "if you need a proxy, set HTTPS_PROXY; if you have an index of your own, UV_DEFAULT_INDEX"


def _network(place: Place) -> Iterator[Finding]:
    """The package index answers; certificates and proxies that are named make sense."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"):
        named = place.environ.get(name)
        if named and not Path(named).is_file():
            yield Finding(
                "certificates", "problem", f"{name} names {named}, which is no file", f"`unset {name}`"
            )
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        values = {place.environ[name] for name in (upper, upper.lower()) if place.environ.get(name)}
        if len(values) > 1:
            fix = "programs disagree on which counts: give both the same value"
            yield Finding("proxy", "warning", f"{upper} and {upper.lower()} differ", fix)
        elif values and upper != "NO_PROXY":
            yield Finding("proxy", "ok", f"{upper} is {without_password(values.pop())}")
    host = host_settings(place.environ)
    index = re.search(r"^index-url = (\S+)", host.pip_conf, re.MULTILINE)
    if index:
        yield from _reaches("package index", index[1], host.ca_bundle)
    else:
        yield _default_index(place)


def _default_index(place: Place) -> Finding:
    """Only uv knows where it looks when nobody told it, so uv is asked for a package, and installs nothing."""
    from astro_cli.runtime.venv import uv_program

    words = ("pip", "install", "--dry-run", "--no-deps", "--no-cache", "--quiet")
    environ = {**place.environ, "UV_HTTP_TIMEOUT": f"{ANSWER_SECONDS:.0f}", "UV_HTTP_RETRIES": "0"}
    with tempfile.TemporaryDirectory() as folder:
        done = process.run([str(uv_program(place.environ)), *words, "--target", folder, "pip"], env=environ)
    if done.code == 0:
        return Finding("package index", "ok", "uv's default package index answers")
    reason = done.lines[-1].strip() if done.lines else f"uv ended with {done.code}"
    message = f"uv's default package index does not answer: {reason}; what is built already works without it"
    return Finding("package index", "warning", message, _INDEX_FIX, TargetError.exit_code)


def _reaches(check: str, url: str, ca_bundle: bytes) -> Iterator[Finding]:
    import ssl

    shown = without_password(url)
    try:
        context = ssl.create_default_context(cadata=ca_bundle.decode("ascii", "ignore") or None)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        parts = urlsplit(url)
        plain = url.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)
        with opener.open(urllib.request.Request(plain, method="HEAD"), timeout=ANSWER_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass  # it answers, and a login or another method is not ours to try
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        if isinstance(reason, ssl.SSLCertVerificationError):
            fix = "name your company's certificates: `export SSL_CERT_FILE=/path/to/bundle.pem`"
        else:
            fix = _INDEX_FIX
        message = f"{shown} does not answer: {reason}; what is built already works without it"
        yield Finding(check, "warning", message, fix, TargetError.exit_code)
        return
    yield Finding(check, "ok", f"{shown} answers")


def _base_image(place: Place) -> Iterator[Finding]:
    """Engine images are there, or what they are built on is within reach of the engine."""
    try:
        reader = place.reader()
        version = DEFAULT_VERSION
        if place.root is not None and (place.root / "Dockerfile").is_file():
            text = (place.root / "Dockerfile").read_text(encoding="utf-8", errors="replace")
            version = image.dockerfile_version(text) or version
        names = (image.engine_image(version), image.postgres_image(version))
        if all(_has_image(reader, name) for name in names):
            yield Finding("images", "ok", f"the images for Airflow {version} are built")
            return
        base = load_settings(place.environ, project_root=place.root).text("image.base") or ""
        if _has_image(reader, base):
            yield Finding("images", "ok", f"the first start builds images on {base}, which is here")
            return
    except EngineError:
        return  # told by the check of the engine
    try:
        reader.read(f"/distribution/{base}/json")
    except (AstroError, OSError) as exc:
        yield Finding(
            "images",
            "warning",
            f"the engine cannot reach the base image {base}: {exc}",
            f"`docker pull {base}` shows why (the engine has a proxy and certificates of its own); "
            "or name a copy with `astro config set image.base …`",
            TargetError.exit_code,
        )
    else:
        yield Finding("images", "ok", f"the first start builds images on {base}, which the engine reaches")


def _has_image(reader: EngineReader, name: str) -> bool:
    try:
        reader.read(f"/images/{name}/json")
    except NotFound:
        return False
    return True


def _clock(place: Place) -> Iterator[Finding]:
    """The engine's clock and this machine's agree: a virtual machine's may stop while a laptop sleeps."""
    try:
        reader = place.reader()
        before = place.clock()
        told = str(reader.json("/info").get("SystemTime") or "")
    except EngineError:
        return
    between = (before + place.clock()) / 2
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", told)
    if found is None:
        return
    engine = datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")).timestamp()
    apart = abs(engine - between)
    wrong = apart > CLOCK_SECONDS
    level: Level = "problem" if apart > CLOCK_WRONG_SECONDS else "warning" if wrong else "ok"
    message = f"the engine's clock is {apart:.0f} seconds off this machine's" if wrong else "the clocks agree"
    yield Finding("clock", level, message, "restart the engine, or its virtual machine" if wrong else "")


def _project(place: Place) -> Iterator[Finding]:
    """Everything that `start` would read, read."""
    root = place.root
    if root is None:
        yield Finding("project", "ok", f"{place.start} is in no project")
        return
    project = read_project(root)
    load_settings(place.environ, project_root=root)
    well = True
    for name, fix in (("dags", "`mkdir dags`"), ("Dockerfile", "`astro airflow init` writes it")):
        if not (root / name).exists():
            well = False
            yield Finding("project", "problem", f"{root / name} does not exist", fix, ProjectError.exit_code)
        elif not os.access(root / name, os.R_OK):
            well = False
            fix = f"`chmod u+r {root / name}`"
            yield Finding("project", "problem", f"{root / name} cannot be read", fix, ProjectError.exit_code)
    environment: dict[str, str] = {}
    if (root / ".env").exists():
        environment = load_env(root / ".env", place.environ, name=".env")
    objects = root / "airflow_settings.yaml"
    if objects.exists():
        load_objects(objects, {**place.environ, **environment}, name=objects.name)
    if (root / "Dockerfile").is_file():
        version = image.dockerfile_version(
            (root / "Dockerfile").read_text(encoding="utf-8", errors="replace")
        )
        if version is not None and version not in SUPPORTED_VERSIONS:
            well = False
            fix = f"write one of {', '.join(SUPPORTED_VERSIONS)} into the Dockerfile's FROM line"
            message = f"this astro has no engine for Airflow {version}"
            yield Finding("project", "problem", message, fix, ProjectError.exit_code)
    yield from _committed_secrets(root)
    if well:
        yield Finding("project", "ok", f"{project.name} ({root}) is well-formed")


def _committed_secrets(root: Path) -> Iterator[Finding]:
    try:
        done = process.ask(
            ["git", "-C", str(root), "ls-files", "--", ".env", "secrets"],
            "",
            env=os.environ,
            seconds=ANSWER_SECONDS,
        )
    except OSError:
        return
    for name in done.lines if done.code == 0 else ():
        fix = f"`git rm --cached {name}`, and change the secrets in it"
        yield Finding("project", "warning", f"{name} is in git", fix)


def _leftovers(place: Place) -> Iterator[Finding]:
    """Sandboxes and volumes of projects that are gone."""
    found = place.leftovers()
    for each in found:
        fix = "`astro clean --data` removes it with its data; or run astro once where the project is now"
        yield Finding("leftovers", "warning", f"the sandbox of {each.name} is left over: {each.why}", fix)
    if not found:
        yield Finding("leftovers", "ok", "every sandbox and volume has its project")


CHECKS: tuple[Check, ...] = (
    ("astro", _versions),
    ("engine", _engine),
    ("project", _project),
    ("permissions", _files),
    ("resources", _resources),
    ("ports", _ports),
    ("network", _network),
    ("images", _base_image),
    ("clock", _clock),
    ("leftovers", _leftovers),
)


def _level(amount: float, little: float, low: float) -> Level:
    return "problem" if amount < little else "warning" if amount < low else "ok"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _memory_free() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def as_json(finding: Finding) -> dict[str, Any]:
    """For `--json`."""
    return {
        "check": finding.check,
        "level": finding.level,
        "message": finding.message,
        "fix": finding.fix or None,
        "fixable": finding.repair is not None,
    }
