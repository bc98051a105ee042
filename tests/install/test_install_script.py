"""install.sh for real: piped into bash from a loopback server, on machines that have this and lack that."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT, Machine, Release, serve, write_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = {
    "uv": ("basic", "curl", "python", "uv"),
    "pipx": ("basic", "curl", "python", "pipx"),
    "venv": ("basic", "curl", "python"),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, machine: Machine) -> str:
    """Gives the machine one back end alone; the test runs once for each."""
    if request.param == "pipx":
        request.getfixturevalue("pipx")
    machine.has = BACKENDS[request.param]
    return str(request.param)


def assert_one_error(done: subprocess.CompletedProcess[str], message: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert done.returncode != 0
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], done.stderr
    assert message in lines[0]


# ---- what works ----------------------------------------------------------------------------------


def test_each_back_end_installs_upgrades_repairs_and_uninstalls(machine: Machine, backend: str) -> None:
    before = machine.tree()

    said = machine.install("--version", "0.1.0")
    assert f"installing with {backend}" in said
    assert "astro 0.1.0 is installed\n" in said
    assert str(machine.launcher) in said
    assert machine.astro() == "astro 0.1.0"

    said = machine.install()
    assert "astro 0.2.0 is installed (before: 0.1.0)" in said
    assert machine.astro() == "astro 0.2.0"

    environment = machine.launcher.readlink().parents[1]
    shutil.rmtree(environment / "lib")
    assert machine.astro() == ""
    machine.install()
    assert machine.astro() == "astro 0.2.0"

    said = machine.install("--uninstall")
    assert f"removed {machine.launcher}" in said
    assert not machine.launcher.is_symlink()
    assert not environment.exists()
    files = {path for path, kind in machine.tree().items() if path not in before and kind != "folder"}
    assert all(path.startswith((".local/share/uv/", ".local/share/pipx/")) for path in files), files
    assert not [path for path in files if path.endswith((".py", ".whl", "/astro"))]
    assert "astro is not installed" in machine.install("--uninstall")


def test_a_failed_install_leaves_the_previous_one_working(machine: Machine, backend: str) -> None:
    machine.install("--version", "0.1.0")
    before = machine.tree()

    cannot_install = machine.pipe("--version", "0.4.0")
    assert f"error: {backend} could not install astro\nhint: " in cannot_install.stderr
    assert cannot_install.returncode == 1
    assert machine.tree() == before

    does_not_start = machine.pipe("--version", "0.3.0")
    assert_one_error(does_not_start, "the installed astro does not start")
    assert "it is broken" in does_not_start.stderr
    assert "the previous installation is unchanged" in does_not_start.stderr
    assert machine.tree() == before
    assert machine.astro() == "astro 0.1.0"


def test_a_failed_first_install_leaves_nothing(machine: Machine) -> None:
    machine.has = BACKENDS["venv"]
    assert machine.pipe("--version", "0.3.0").returncode == 1
    assert machine.tree() == {}


def test_an_interrupted_upgrade_leaves_the_previous_one_working(machine: Machine, shared: Path) -> None:
    machine.install("--version", "0.1.0")
    before = machine.tree()
    slow = shared / "tools" / "slow-uv"
    slow.mkdir()
    real = machine.tools["uv"] / "uv"
    # The real uv, but the shell above it is told to stop just when the new one is in place.
    write_tool(slow / "uv", f'{real} "$@" || exit; [ "$2" != install ] || kill -TERM $PPID')
    machine.tools = {**machine.tools, "uv": slow}

    done = machine.pipe("--version", "0.2.0")

    assert done.returncode == 143
    assert machine.tree() == before
    assert machine.astro() == "astro 0.1.0"


def test_a_better_back_end_takes_over_and_the_old_environment_goes(machine: Machine) -> None:
    machine.has = BACKENDS["venv"]
    machine.install()
    old = machine.launcher.readlink().parents[1]
    machine.has = BACKENDS["uv"]

    said = machine.install()

    assert f"removed {old}" in said
    assert not old.exists()
    assert machine.astro() == "astro 0.2.0"


def test_an_unprivileged_user_installs_and_owns_everything(user_machine: Machine) -> None:
    assert user_machine.user
    user_machine.install()
    assert user_machine.astro() == "astro 0.2.0"
    assert user_machine.owners() == {pwd.getpwnam(user_machine.user).pw_uid}


def test_sudo_installs_for_the_user_who_called_it(user_machine: Machine) -> None:
    """`curl … | sudo bash` with the real sudo: its environment is nearly empty and its PATH is root's."""
    sudo = shutil.which("sudo")
    if not sudo:
        pytest.skip("sudo is not installed")
    user = user_machine.user
    assert user
    local_bin = user_machine.home / ".local/bin"  # where uv's own installer puts it, and sudo does not look
    local_bin.mkdir(parents=True)
    shutil.copy(user_machine.tools["uv"] / "uv", local_bin)
    subprocess.run(["chown", "-R", user, user_machine.home / ".local"], check=True)
    rule = Path("/etc/sudoers.d") / user
    rule.write_text(f"{user} ALL=(ALL:ALL) NOPASSWD: ALL\n")
    script = (user_machine.release.folder / "install.sh").read_text()
    address = f"ASTRO_INSTALL_URL={user_machine.release.url}"
    try:
        done = user_machine.run(sudo, address, "bash", stdin=script)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "installing with uv" in done.stdout
        assert user_machine.astro() == "astro 0.2.0"
        assert user_machine.owners() == {pwd.getpwnam(user).pw_uid}

        done = user_machine.run(sudo, address, "bash", "-s", "--", "--uninstall", stdin=script)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not user_machine.launcher.is_symlink()
    finally:
        rule.unlink()


def test_what_sudo_sets_is_enough_to_install_for_its_caller(machine: Machine, user_machine: Machine) -> None:
    assert user_machine.user
    uid = pwd.getpwnam(user_machine.user).pw_uid

    machine.install(SUDO_USER=user_machine.user, SUDO_UID=str(uid))

    assert user_machine.astro() == "astro 0.2.0"
    assert user_machine.owners() == {uid}
    assert machine.tree() == {}, "something went to the home of root"


def test_says_the_line_to_add_when_path_lacks_local_bin(machine: Machine) -> None:
    line = 'export PATH="$HOME/.local/bin:$PATH"'
    assert line in machine.install()
    assert line not in machine.install(PATH=f"{machine.path}:{machine.home}/.local/bin")


def test_says_when_another_astro_comes_first_on_path(machine: Machine, shared: Path) -> None:
    other = shared / "other-astro"
    other.mkdir()
    write_tool(other / "astro", "echo another tool of that name")
    assert f"Your PATH finds another astro first: {other}/astro" in machine.install(
        PATH=f"{other}:{machine.path}"
    )


def test_xdg_data_home_is_used(machine: Machine) -> None:
    data = machine.home / "data"
    machine.install(XDG_DATA_HOME=str(data))
    assert machine.launcher.readlink() == data / "uv/tools/astro-cli/bin/astro"
    assert (data / "astro/cli/astro_cli-0.2.0-py3-none-any.whl").is_file()


@pytest.mark.parametrize("client", ["curl", "wget"])
def test_follows_redirects(machine: Machine, client: str) -> None:
    if not list(machine.tools[client].iterdir()):
        pytest.skip(f"{client} is not installed")
    machine.has = ("basic", client, "python", "uv")
    url = machine.release.url
    machine.install(ASTRO_INSTALL_URL=f"{url}/to/{url}")
    assert machine.astro() == "astro 0.2.0"


def test_wget_does_not_follow_a_redirect_to_plain_http(machine: Machine) -> None:
    if not list(machine.tools["wget"].iterdir()):
        pytest.skip("wget is not installed")
    machine.has = ("basic", "wget", "python", "uv")
    done = machine.pipe(ASTRO_INSTALL_URL=f"{machine.release.url}/to/http://192.0.2.1")
    assert_one_error(done, "refusing to download from http://192.0.2.1/VERSION")
    assert machine.tree() == {}


def test_help_says_what_it_does_and_does_nothing(machine: Machine) -> None:
    assert "--uninstall" in machine.install("--help")
    assert machine.tree() == {}


# ---- what is refused -----------------------------------------------------------------------------


def test_a_download_cut_at_any_byte_does_nothing(machine: Machine) -> None:
    script = (machine.release.folder / "install.sh").read_text()
    whole = len(script.rstrip())
    asked = len(machine.release.requests)
    for cut in [*range(0, whole - 40, 300), *range(whole - 40, whole)]:
        machine.run("bash", stdin=script[:cut])
    assert machine.tree() == {}
    assert machine.release.requests[asked:] == []
    assert machine.run("bash", stdin=script[:whole]).returncode == 0


def test_a_wrong_checksum_changes_nothing(machine: Machine) -> None:
    assert_one_error(
        machine.pipe("--version", "0.5.0"), "the SHA-256 of astro_cli-0.5.0-py3-none-any.whl is "
    )
    assert machine.tree() == {}

    machine.install("--version", "0.1.0")
    before = machine.tree()
    assert_one_error(
        machine.pipe("--version", "0.5.0"), "the SHA-256 of astro_cli-0.5.0-py3-none-any.whl is "
    )
    assert machine.tree() == before
    assert machine.astro() == "astro 0.1.0"


@pytest.mark.parametrize(
    ("has", "arguments", "environ", "message"),
    [
        (None, ["--version", "9.9.9"], {}, "there is no release 9.9.9 at http://127.0.0.1:"),
        (None, ["--version", "../../etc"], {}, "'../../etc' is not a release"),
        (None, ["--version"], {}, "--version needs a release"),
        (None, ["--frobnicate"], {}, "unknown option '--frobnicate'"),
        (None, [], {"HOME": None}, "HOME is not set"),
        (None, [], {"HOME": "/nowhere"}, "the home folder /nowhere does not exist"),
        (None, [], {"ASTRO_INSTALL_URL": None}, "does not know where the releases are"),
        (None, [], {"ASTRO_INSTALL_URL": "http://127.0.0.1:1"}, "cannot download http://127.0.0.1:1/VERSION"),
        (
            None,
            [],
            {"ASTRO_INSTALL_URL": "http://192.0.2.1/astro"},
            "refusing to download from http://192.0.2.1",
        ),
        (None, [], {"ASTRO_INSTALL_URL": "http://127.0.0.1.example.org"}, "refusing to download from"),
        (None, [], {"ASTRO_INSTALL_URL": "http://localhost:80@example.org/"}, "refusing to download from"),
        (("basic", "uv"), [], {}, "neither curl nor wget was found"),
        (("basic", "curl"), [], {}, "Python 3.10 or newer was not found"),
    ],
)
def test_bad_input_is_one_error_and_nothing_made(
    machine: Machine,
    has: tuple[str, ...] | None,
    arguments: list[str],
    environ: dict[str, str | None],
    message: str,
) -> None:
    machine.has = has or machine.has
    assert_one_error(machine.pipe(*arguments, **environ), message)
    assert machine.tree() == {}


def test_a_python_without_ensurepip_names_the_package_to_install(machine: Machine, shared: Path) -> None:
    bare = shared / "tools" / "bare-python"
    bare.mkdir()
    real = machine.tools["python"] / "python3"
    write_tool(bare / "python3", f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec {real} "$@"')
    write_tool(bare / "apt-get", "exit 1")
    machine.tools = {**machine.tools, "python": bare}
    machine.has = BACKENDS["venv"]

    done = machine.pipe()

    assert_one_error(done, "cannot make virtual environments")
    assert "hint: sudo apt-get install python3." in done.stderr
    assert machine.tree() == {}


def test_a_command_of_somebody_else_is_not_overwritten(machine: Machine) -> None:
    machine.launcher.parent.mkdir(parents=True)
    machine.launcher.write_text("another tool of that name")
    before = machine.tree()

    assert_one_error(machine.pipe(), f"{machine.launcher} exists and is not from this installer")
    machine.install("--uninstall")

    assert machine.tree() == before


def test_a_home_that_cannot_be_written_is_one_error(user_machine: Machine) -> None:
    os.chown(user_machine.home, 0, 0)
    before = user_machine.tree()
    assert_one_error(user_machine.pipe(), f"cannot write to {user_machine.home}/.local/bin")
    assert user_machine.tree() == before


# ---- the real package ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_release(shared: Path) -> Iterator[Release]:
    """This checkout, built by scripts/build-release."""
    folder = shared / "real-release"
    folder.mkdir()
    for served in serve(folder):
        subprocess.run([ROOT / "scripts/build-release", folder, served.url], check=True, capture_output=True)
        yield served


def test_a_built_release_knows_its_own_address_and_runs(machine: Machine, real_release: Release) -> None:
    machine.release = real_release
    pipe = f"curl -fsSL {real_release.url}/install.sh | bash"
    done = machine.run("bash", "-o", "pipefail", "-c", pipe, ASTRO_INSTALL_URL=None)
    assert done.returncode == 0, done.stdout + done.stderr

    version = (real_release.folder / "VERSION").read_text().strip()
    shown = machine.run(str(machine.launcher), "version")
    assert shown.returncode == 0, shown.stderr
    assert version in shown.stdout


def test_a_checkout_installs_itself_and_stays_as_it_is(machine: Machine, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    before = sorted(checkout.rglob("*"))

    done = machine.run(str(checkout / "install.sh"), ASTRO_INSTALL_URL=None)

    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.run(str(machine.launcher), "version").returncode == 0
    assert sorted(checkout.rglob("*")) == before
