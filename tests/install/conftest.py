"""A release folder behind a loopback web server, and machines (a home and a PATH) to install it on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]

# What install.sh may call beside bash; anything else it needs is a defect that only PATH control shows.
# fmt: off
BASIC_TOOLS = (
    "awk", "bash", "cat", "cp", "cut", "dirname", "env", "grep", "head", "id", "ln", "mkdir", "mktemp", "mv",
    "readlink", "rm", "rmdir", "sed", "tail", "tr",
)
# fmt: on


# ---- release -------------------------------------------------------------------------------------


def write_wheel(folder: Path, version: str, *, code: str = "", requires: str = "") -> None:
    """A wheel that looks to installers like ours but needs no index: `astro` prints its version."""
    info = f"astro_cli-{version}.dist-info"
    requirement = f"Requires-Dist: {requires}\n" if requires else ""
    main = f"def main():\n    print('astro {version}')\n"
    files = {
        "astro_cli/__init__.py": "",
        "astro_cli/cli.py": code or main,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: astro-cli\nVersion: {version}\n{requirement}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nastro = astro_cli.cli:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"astro_cli-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


@dataclass(frozen=True)
class Release:
    """A served release folder; `requests` lists the paths asked for so far."""

    folder: Path
    url: str
    requests: list[str]


class _Handler(SimpleHTTPRequestHandler):
    """Serves files; `/to/URL…` redirects, as release hosts do."""

    def __init__(self, *args: object, requests: list[str], **kwargs: object) -> None:
        self.requests = requests
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


def serve(folder: Path) -> Iterator[Release]:
    requests: list[str] = []
    handler = partial(_Handler, requests=requests, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield Release(folder, f"http://127.0.0.1:{server.server_port}", requests)
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def release(shared: Path) -> Iterator[Release]:
    """Releases 0.1.0, 0.2.0 (the newest), 0.3.0 that does not start and 0.4.0 that cannot be installed."""
    folder = shared / "release"
    folder.mkdir()
    write_wheel(folder, "0.1.0")
    write_wheel(folder, "0.2.0")
    write_wheel(folder, "0.3.0", code="raise SystemExit('it is broken')\n")
    write_wheel(folder, "0.4.0", requires="nowhere @ file:///nowhere/nowhere-1-py3-none-any.whl")
    sums = {
        wheel.name: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in sorted(folder.glob("*.whl"))
    }
    sums["astro_cli-0.5.0-py3-none-any.whl"] = "0" * 64  # not what is served
    write_wheel(folder, "0.5.0")
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    (folder / "VERSION").write_text("0.2.0\n")
    shutil.copy(ROOT / "install.sh", folder)
    yield from serve(folder)


# ---- machines ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """A folder that every user of this machine can enter (pytest's own are private to one)."""
    path = Path(tempfile.mkdtemp(prefix="astro-install-tests-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def tools(shared: Path) -> dict[str, Path]:
    """Folders for PATH, one for each thing a machine may or may not have."""
    folders = {name: shared / "tools" / name for name in ("basic", "curl", "wget", "python", "uv", "pipx")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for name in BASIC_TOOLS:
        link_tool(folders["basic"], name)
    for name in ("runuser", "sha256sum", "shasum"):  # which of them depends on the system
        if shutil.which(name):
            link_tool(folders["basic"], name)
    for name in ("curl", "wget"):
        if shutil.which(name):
            link_tool(folders[name], name)
    write_tool(folders["python"] / "python3", f'exec {system_python()} "$@"')
    uv = shutil.which("uv")
    assert uv, "uv is not on PATH; scripts/test puts it there"
    shutil.copy(uv, folders["uv"] / "uv")  # a copy: the original may be in a home that others cannot enter
    return folders


@pytest.fixture(scope="session")
def pipx(shared: Path, tools: dict[str, Path]) -> None:
    """Puts pipx into its folder."""
    venv = shared / "pipx-environment"
    subprocess.run(["uv", "venv", "--quiet", "--python", system_python(), venv], check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", venv / "bin/python", "pipx"], check=True)
    write_tool(tools["pipx"] / "pipx", f'PIPX_SHARED_LIBS={shared}/pipx-shared exec {venv}/bin/pipx "$@"')


def system_python() -> str:
    """A Python outside any virtual environment that every user can run."""
    check = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))"
    for python in (
        "/usr/bin/python3",
        "/usr/local/bin/python3",
        getattr(sys, "_base_executable", sys.executable),
    ):
        if (
            Path(python).exists()
            and subprocess.run([python, "-c", check], capture_output=True).returncode == 0
        ):
            return python
    pytest.fail("no Python 3.10 or newer with venv")


def link_tool(folder: Path, name: str) -> None:
    target = shutil.which(name)
    assert target, f"{name} is needed to run install.sh at all"
    (folder / name).symlink_to(target)


def write_tool(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@dataclass
class Machine:
    """A home, a PATH and a release server; `user` (root only) runs things as somebody else."""

    home: Path
    tools: dict[str, Path]
    release: Release
    has: tuple[str, ...] = ("basic", "curl", "python", "uv")
    user: str | None = None
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return ":".join(str(self.tools[name]) for name in self.has)

    @property
    def launcher(self) -> Path:
        return self.home / ".local/bin/astro"

    def environment(self, **changes: str | None) -> dict[str, str]:
        """What the user's shell has: certificates, proxies and index settings of the host pass through."""
        keep = {
            name: value
            for name, value in os.environ.items()
            if name.upper().endswith(("_PROXY", "_CERT", "_CERT_FILE", "_CERT_DIR", "_CA_BUNDLE"))
            or name.startswith(("PIP_", "UV_"))
        }
        wanted: Mapping[str, str | None] = {
            **keep,
            "HOME": str(self.home),
            "PATH": self.path,
            "ASTRO_INSTALL_URL": self.release.url,
            **self.environ,
            **changes,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def run(self, *command: str, stdin: str = "", **changes: str | None) -> subprocess.CompletedProcess[str]:
        as_user = ["runuser", "-u", self.user, "--"] if self.user else []
        env = self.environment(**changes)
        given = ["env", "-i", *(f"{name}={value}" for name, value in env.items())]
        return subprocess.run(
            [*as_user, *given, *command], input=stdin, capture_output=True, text=True, timeout=600, cwd="/"
        )

    def pipe(self, *arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        """`cat install.sh | bash -s -- ARGUMENTS`."""
        script = (self.release.folder / "install.sh").read_text()
        return self.run("bash", "-s", "--", *arguments, stdin=script, **changes)

    def install(self, *arguments: str, **changes: str | None) -> str:
        done = self.pipe(*arguments, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def astro(self) -> str:
        """What the installed command prints."""
        return self.run(str(self.launcher)).stdout.strip()

    def tree(self) -> dict[str, str]:
        """Everything in the home but caches and logs: path → what it is, so that two trees compare."""
        found: dict[str, str] = {}
        for path in sorted(self.home.rglob("*")):
            name = str(path.relative_to(self.home))
            if name.startswith((".cache", ".local/state/pipx")) or "__pycache__" in name:
                continue
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_dir():
                found[name] = "folder"
            else:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def owners(self) -> set[int]:
        return {path.lstat().st_uid for path in [self.home, *self.home.rglob("*")]}


@pytest.fixture
def machine(shared: Path, tools: dict[str, Path], release: Release) -> Iterator[Machine]:
    """A fresh machine with curl, Python and uv, for the user who runs the tests."""
    home = Path(tempfile.mkdtemp(prefix="home-", dir=shared))
    yield Machine(home, tools, release)
    shutil.rmtree(home)


@pytest.fixture
def user_machine(shared: Path, tools: dict[str, Path], release: Release) -> Iterator[Machine]:
    """The same for a freshly made unprivileged user."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a user")
    name = f"astro-test-{os.getpid()}"
    home = shared / f"home-of-{name}"
    subprocess.run(
        ["useradd", "--create-home", "--home-dir", home, "--shell", "/bin/bash", name],
        check=True,
        capture_output=True,
    )
    try:
        yield Machine(home, tools, release, user=name)
    finally:
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)
        shutil.rmtree(home)
