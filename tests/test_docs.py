"""Docs, help and code say the same."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import astro_cli
from astro_cli.cli import build_app
from astro_cli.commands import AIRFLOW_COMMANDS, AIRFLOW_GROUPS, ROOT_COMMANDS, ROOT_GROUPS, CommandSpec
from astro_cli.domain.settings import SETTINGS
from astro_cli.foundation.errors import AstroError

ROOT = Path(__file__).parent.parent
COMMANDS_PAGE = (ROOT / "docs/commands.md").read_text()
SPECS = {
    **{spec.name: spec for spec in (*AIRFLOW_COMMANDS, *ROOT_COMMANDS)},
    **{
        f"{group.name} {spec.name}": spec
        for group in (*AIRFLOW_GROUPS, *ROOT_GROUPS)
        for spec in group.commands
    },
    **{
        f"{group.name} {below.name} {spec.name}": spec
        for group in ROOT_GROUPS
        for below in group.groups
        for spec in below.commands
    },
}


def test_the_version_stands_in_pyproject():
    assert f'\nversion = "{astro_cli.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_every_command_has_a_section_and_every_section_a_command():
    assert set(re.findall(r"^## `([\w -]+)`$", COMMANDS_PAGE, re.MULTILINE)) == set(SPECS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_command_in_the_table_exists_and_has_help(spec: CommandSpec):
    function = getattr(importlib.import_module(spec.module), spec.function)
    assert function.__doc__


def test_every_exit_code_in_use_is_documented():
    codes = {0, *(error.exit_code for error in AstroError.__subclasses__()), AstroError.exit_code}
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", COMMANDS_PAGE, re.MULTILINE)}
    assert documented == codes


def test_every_setting_is_documented():
    page = (ROOT / "docs/project.md").read_text()
    assert {spec.key for spec in SETTINGS} <= set(re.findall(r"`([a-z]+\.[a-z_]+)`", page))


def script(name: str):
    """A script of `scripts/` as a module."""
    loader = SourceFileLoader(name, str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def params_of_commands() -> list[tuple[str, Any]]:
    """The path of every command with each parameter of its own that it shows."""
    reference = script("reference")
    root = get_command(build_app())
    context = root.make_context("astro", ["version"], resilient_parsing=True)
    return [
        (path, param)
        for path, command in reference.commands(root, context, "astro")
        for param in reference.own(command)
        if not param.hidden
    ]


def test_every_option_is_named_in_the_section_of_its_command():
    parts = re.split(r"^## (?:`([\w -]+)`)?", COMMANDS_PAGE, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))

    missing = [
        f"{path} {name}"
        for path, param in params_of_commands()
        for name in [*param.opts, *param.secondary_opts]
        if name.startswith("--")
        and not re.search(rf"{name}(?![\w-])", sections[path.removeprefix("astro ").removeprefix("airflow ")])
    ]

    assert not missing


def test_arguments_stand_in_brackets_if_they_may_be_left_out():
    wrong = [
        f"{path} {param.metavar}"
        for path, param in params_of_commands()
        if param.param_type_name == "argument" and (param.metavar or "").startswith("[") is param.required
    ]

    assert not wrong


def test_the_reference_and_the_drawing_are_up_to_date():
    hint = "run `.venv/bin/python scripts/reference` (and `drawing`)"
    assert (ROOT / "docs/reference.md").read_text() == script("reference").text(), hint
    assert (ROOT / "docs/architecture.svg").read_text() == script("drawing").drawing(), hint


def test_the_site_builds_without_a_warning(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Start in five minutes" in (tmp_path / "index.html").read_text()


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
