"""The wheel and the sdist: complete, the same bytes however they are built, and nothing in them but ours."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parent.parent
NEEDED = {
    "astro_cli/cli.py",
    "astro_cli/py.typed",
    "astro_cli/runtime/supervisor.py",
    "astro_cli/runtime/postgres.lock",
    "astro_cli/images/Dockerfile",
    "astro_cli/images/requirements.lock",
    "astro_cli/images/migrations.json",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The sdist, the wheel made from it, and the wheel made from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    for name, options in (("a", []), ("b", ["--wheel"])):
        done = subprocess.run(
            [uv.find_uv_bin(), "build", "--quiet", *options, "--out-dir", folder / name, ROOT],
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


def test_the_wheel_holds_all_that_astro_reads_of_itself_and_no_more(built: tuple[Path, Path, Path]):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        assert all(info.date_time[:3] == (2023, 11, 14) for info in wheel.infolist())
    assert names >= NEEDED
    data = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "astro_cli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    data |= {
        f"astro_cli/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "images").rglob("*")
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
