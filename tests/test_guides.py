"""What the guides tell to type and to write is what astro understands; the quickstart's blocks are run, too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from astro_cli.cli import build_app
from astro_cli.domain.deployments import parse_deployments
from astro_cli.foundation import yamlfile

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def command_lines(page: Path) -> list[str]:
    """Every call of astro in the page's shell blocks, without what is piped into it or out of it."""
    lines = []
    for block in blocks(page, "sh", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\w+=\S+ )*astro( .*)?$", line.strip())
            if found:
                lines.append(re.split(r" [|>&]|&&|;", line.strip()[line.strip().index("astro") :])[0])
    return lines


LINES = [pytest.param(line, id=f"{page.stem}: {line}") for page in PAGES for line in command_lines(page)]


def test_the_guides_hold_commands():
    assert len(LINES) > 30
    assert sum("astro deploy" in str(line.values[0]) for line in LINES) > 5


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_a_guide_is_one_that_astro_takes(line: str):
    words = shlex.split(line, comments=True)[1:]
    # Help is shown once every command and option before it is known.
    done = CliRunner().invoke(build_app(), [*words, "--help"])
    assert done.exit_code == 0, done.output


def test_a_command_that_astro_does_not_take_would_be_found():
    for words in (["deploy", "--dry-runs"], ["deployment", "realeases"], ["airflow", "strat"]):
        assert CliRunner().invoke(build_app(), [*words, "--help"]).exit_code == 2


def test_the_deployments_in_the_guides_are_read_without_a_complaint():
    read = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            root = yamlfile.parse(block, name=page.name)
            if isinstance(root.value, dict) and "deployments" in root.value:
                assert parse_deployments(root)
                read += 1
    assert read, "there is no example of a deployment any more"
