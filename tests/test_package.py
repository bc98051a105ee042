"""The wheel and the sdist: complete, the same bytes however they are built, and nothing in them but ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import uv
from packaging.requirements import Requirement

from astro_cli import __version__
from astro_cli.foundation import yamlfile

ROOT = Path(__file__).parent.parent
NEEDED = {
    "astro_cli/cli.py",
    "astro_cli/py.typed",
    "astro_cli/runtime/inside/supervisor.py",
    "astro_cli/runtime/postgres.lock",
    "astro_cli/images/Dockerfile",
    "astro_cli/images/requirements.lock",
    "astro_cli/images/migrations.json",
}


UNTRACKED = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "dist", "site")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, in which nobody edits meanwhile."""
    folder = tmp_path_factory.mktemp("checkout") / "astro"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*UNTRACKED))
    return folder


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The sdist, the wheel made from it, and the wheel made from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    for name, options in (("a", []), ("b", ["--wheel"])):
        done = subprocess.run(
            [uv.find_uv_bin(), "build", "--quiet", *options, "--out-dir", folder / name, checkout],
            env=environ,
            text=True,
            capture_output=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    (sdist,), (first,), (second,) = (
        (folder / "a").glob("*.tar.gz"),
        (folder / "a").glob("*.whl"),
        (folder / "b").glob("*.whl"),
    )
    return sdist, first, second


def test_the_sdist_and_the_checkout_give_the_same_wheel_bit_for_bit(built: tuple[Path, Path, Path]):
    _, first, second = built
    assert first.read_bytes() == second.read_bytes()


def test_the_wheel_holds_all_that_astro_reads_of_itself_and_no_more(
    built: tuple[Path, Path, Path], checkout: Path
):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        assert all(info.date_time[:3] == (2023, 11, 14) for info in wheel.infolist())
    assert names >= NEEDED
    data = {
        path.relative_to(checkout).as_posix()
        for path in (checkout / "astro_cli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    data |= {
        f"astro_cli/{path.relative_to(checkout).as_posix()}"
        for path in (checkout / "images").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == data
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_building_and_testing_take(built: tuple[Path, Path, Path]):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        assert {member.uid for member in sdist} == {0}
    assert {"install.sh", "LICENSE", "SECURITY.md", "CHANGELOG.md", "mkdocs.yml", "scripts/test"} <= names
    assert {
        "images/Dockerfile",
        "astro_cli/templates/default/template.yaml",
        "tests/test_package.py",
    } <= names
    assert not [
        name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/", "site/"))
    ]


@pytest.mark.parametrize(
    "workflow", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem
)
def test_a_workflow_may_only_read_unless_a_job_says_why(workflow: Path):
    text = workflow.read_text()
    told = yamlfile.parse(text, name=workflow.name).plain()
    assert told["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    for job in told["jobs"].values():
        assert job["timeout-minutes"] <= 90
        for name, right in job.get("permissions", {}).items():
            assert f"{name}: {right}" in text
            assert right != "write" or workflow.stem == "release"


def test_the_lock_holds_every_dependency_with_hashes_and_within_its_bounds():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text, "it names an index of whoever made it"
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    locked = re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE)
    for wanted in map(Requirement, requires("astro-cli") or ()):
        if wanted.marker is not None:  # of an extra
            continue
        versions = [version for name, version in locked if name == wanted.name]
        assert versions, wanted
        assert [version for version in versions if version not in wanted.specifier] == []


def test_the_changelog_has_the_version_and_the_hooks_exist():
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    told = yamlfile.parse((ROOT / ".pre-commit-config.yaml").read_text(), name="f").plain()
    (local,) = told["repos"]
    assert {hook["id"] for hook in local["hooks"]} == {"ruff", "ruff-format", "mypy", "reference", "secrets"}
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        yamlfile.parse(form.read_text(), name=form.name)
