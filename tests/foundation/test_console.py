from __future__ import annotations

import io
import json

import pytest

from astro_cli.foundation.console import Console
from astro_cli.foundation.errors import ProjectError


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def piped() -> Console:
    return Console(io.StringIO(), io.StringIO(), {})


def written(stream: object) -> str:
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


ERROR = ProjectError("it is broken", hint="mend it", details=("first line", "second line"))


def test_an_error_is_its_details_then_one_sentence_then_the_way_out():
    console = piped()
    console.error(ERROR)
    assert written(console.err) == "  first line\n  second line\nerror: it is broken\nhint: mend it\n"
    assert written(console.out) == ""


def test_with_json_an_error_is_one_document_on_stdout():
    console = piped()
    console.json = True
    console.command = "airflow start"
    console.error(ERROR)
    answer = json.loads(written(console.out))
    assert answer == {
        "version": 1,
        "command": "airflow start",
        "ok": False,
        "error": {
            "code": "project",
            "message": "it is broken",
            "hint": "mend it",
            "details": ["first line", "second line"],
            "exit_code": 3,
        },
    }
    assert written(console.err) == ""


def test_with_json_a_result_is_one_document_and_notes_are_silent():
    console = piped()
    console.json = True
    console.note("beside")
    console.result({"n": 1}, lambda: console.line("for people"))
    assert json.loads(written(console.out))["data"] == {"n": 1}
    assert written(console.err) == ""


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_a_terminal_gets_colours_unless_they_are_declined(environ: dict[str, str], coloured: bool):
    console = Console(Terminal(), Terminal(), environ)
    console.error(ERROR)
    console.table(("SERVICE", "HEALTH"), [("scheduler", "healthy")])
    assert ("\x1b[" in written(console.err)) is coloured
    assert ("\x1b[" in written(console.out)) is coloured


def test_a_table_without_a_terminal_is_aligned_columns():
    console = piped()
    console.table(("SERVICE", "UP"), [("postgres", "3s"), ("api-server", "2s")])
    assert written(console.out) == "SERVICE     UP\npostgres    3s\napi-server  2s\n"


def test_a_table_on_a_terminal_shows_brackets_as_they_are():
    console = Console(Terminal(), Terminal(), {"COLUMNS": "80"})
    console.table(("FOLDER",), [("/srv/[red]shop[/red]",)])
    assert "/srv/[red]shop[/red]" in written(console.out)


def test_progress_without_a_terminal_is_a_line_a_step():
    console = piped()
    with console.progress() as progress:
        progress.step("build")
        progress.detail("step 1")
    assert written(console.err) == "   0s  build\n"


def test_progress_with_verbose_shows_the_details():
    console = piped()
    console.verbose = True
    with console.progress() as progress:
        progress.step("build")
        progress.detail("step 1")
    assert written(console.err) == "   0s  build\n         step 1\n"


def test_progress_with_json_says_nothing():
    console = piped()
    console.json = True
    with console.progress() as progress:
        progress.step("build")
    assert written(console.out) + written(console.err) == ""


def test_progress_on_a_terminal_gives_the_cursor_back():
    console = Console(Terminal(), Terminal(), {})
    with pytest.raises(KeyboardInterrupt), console.progress() as progress:
        progress.step("[bold]build")
        raise KeyboardInterrupt
    assert written(console.err).rfind("\x1b[?25h") > written(console.err).rfind("\x1b[?25l")


def test_nothing_is_written_over_a_live_line():
    """What both streams show on one terminal: the line is taken away before anything else is said."""
    screen = Terminal()
    console = Console(screen, screen, {})
    with console.progress() as progress:
        progress.step("build")
        progress.warn("take care")
        progress.step("ask")
        console.result({}, lambda: console.line("the plan"))
    for words in ("warning:", "the plan"):
        before = screen.getvalue().partition(words)[0]
        assert before.rfind("\x1b[2K") > max(before.rfind("build"), before.rfind("ask")), words
    assert "ask" not in screen.getvalue().partition("the plan")[2]
