"""Everything astro prints. stdout is data, stderr is the rest; rich is loaded only for a terminal."""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rich.status import Status

    from astro_cli.foundation.errors import AstroError

ENVELOPE_VERSION = 1
RESET = "\x1b[0m"
SERVICE_COLOURS = ("36", "33", "32", "35", "34", "96")


class Console:
    """The terminal of one run of astro.

    Args:
        out: where data goes.
        err: where messages go.
        environ: `NO_COLOR` and `TERM=dumb` turn colours off, as does a stream that is no terminal.
    """

    def __init__(self, out: TextIO, err: TextIO, environ: Mapping[str, str]) -> None:
        self.out = out
        self.err = err
        self.json = False
        self.verbose = False
        self.command = ""
        self._dumb = environ.get("TERM") == "dumb"
        self._plain = bool(environ.get("NO_COLOR")) or self._dumb
        self._progress: Progress | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at stderr."""
        return self.err.isatty()

    @property
    def can_redraw(self) -> bool:
        """Whether data goes to a terminal that can write over what it shows."""
        return self.out.isatty() and not self._dumb

    def coloured(self, stream: TextIO) -> bool:
        """Whether `stream` shows colours."""
        return stream.isatty() and not self._plain

    def style(self, text: str, code: str, stream: TextIO) -> str:
        """`text` in the ANSI style `code`, where `stream` shows colours."""
        return f"\x1b[{code}m{text}{RESET}" if self.coloured(stream) else text

    # data

    def result(self, data: Mapping[str, Any], show: Callable[[], None] | None = None) -> None:
        """The command's answer: one JSON envelope with `--json`, else whatever `show` prints."""
        if self._progress is not None:
            self._progress.end()
        if self.json:
            self._envelope({"ok": True, "data": dict(data)})
        elif show is not None:
            show()

    def line(self, text: str = "") -> None:
        """A line of data."""
        self.out.write(f"{text}\n")
        self.out.flush()

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under a header: a rich table on a terminal, aligned columns elsewhere."""
        if self.coloured(self.out):
            from rich.console import Console as RichConsole
            from rich.table import Table

            table = Table(*header, box=None, header_style="bold", pad_edge=False)
            for row in rows:
                table.add_row(*(_health_colour(cell) for cell in row))
            RichConsole(file=self.out).print(table)
            return
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        for row in [header, *rows]:
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def live(self, frames: Iterable[Sequence[str]]) -> None:
        """Lines of data, each frame in the place of the one before; only where `can_redraw`."""
        from rich.console import Console as RichConsole
        from rich.live import Live
        from rich.text import Text

        screen = RichConsole(file=self.out, highlight=False, no_color=self._plain)
        with Live(console=screen, auto_refresh=False) as shown:
            for frame in frames:
                shown.update(Text.from_ansi("\n".join(frame)), refresh=True)

    # messages

    def note(self, text: str = "") -> None:
        """A message beside the data; silent with `--json`."""
        if not self.json:
            self._say(text)

    def warn(self, text: str) -> None:
        """Something to know, which stops nothing."""
        self._say(f"{self.style('warning:', '1;33', self.err)} {text}")

    def error(self, error: AstroError) -> None:
        """The end of a failed command: `error:` and `hint:` lines, or the JSON envelope."""
        if self.json:
            self._envelope(
                {
                    "ok": False,
                    "error": {
                        "code": error.code,
                        "message": error.message,
                        "hint": error.hint,
                        "details": list(error.details),
                        "exit_code": error.exit_code,
                    },
                }
            )
            return
        for detail in error.details:
            self._say(f"  {detail}")
        self._say(f"{self.style('error:', '1;31', self.err)} {error.message}")
        if error.hint:
            self._say(f"{self.style('hint:', '1;36', self.err)} {error.hint}")

    def progress(self) -> Progress:
        """Shows the steps of something slow; use it as a context manager. A result ends it."""
        self._progress = Progress(self)
        return self._progress

    def _say(self, text: str) -> None:
        with self._progress.aside() if self._progress is not None else nullcontext():
            self.err.write(f"{text}\n")
            self.err.flush()

    def _envelope(self, body: Mapping[str, Any]) -> None:
        json.dump({"version": ENVELOPE_VERSION, "command": self.command, **body}, self.out, indent=2)
        self.line()


class Progress:
    """A `runtime.engine.Report` on the terminal: one live line on a terminal, a line a step elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._began = time.monotonic()
        self._step = ""

    def __enter__(self) -> Progress:
        console = self._console
        if console.coloured(console.err) and not console.json and not console.verbose:
            from rich.console import Console as RichConsole
            from rich.status import Status

            self._status = Status("", console=RichConsole(file=console.err, highlight=False))
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the live line away for good."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the live line away while something else is written."""
        status = self._status
        if status is not None:
            status.stop()
        yield
        if status is not None:
            status.start()

    def step(self, text: str) -> None:
        """A new step has begun."""
        self._step = text
        if self._status is not None:
            from rich.markup import escape

            self._status.update(f"{escape(text)} [dim]{self._elapsed()}[/dim]")
        elif not self._console.json:
            self._console.note(f"{self._elapsed():>5}  {text}")

    def detail(self, text: str) -> None:
        """A line of output within the step: live on a terminal, printed with `--verbose`."""
        if self._status is not None:
            from rich.markup import escape

            room = max(shutil.get_terminal_size().columns - len(self._step) - 12, 20)  # one line, never two
            self._status.update(f"{escape(self._step)} [dim]{self._elapsed()}  {escape(text[:room])}[/dim]")
        elif self._console.verbose:
            self._console.note(f"         {text}")

    def warn(self, text: str) -> None:
        """Something the user should know, which stops nothing."""
        self._console.warn(text)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:.0f}s"


def service_colour(service: str) -> str:
    """A steady ANSI colour for a service's lines in a merged log."""
    return SERVICE_COLOURS[sum(service.encode()) % len(SERVICE_COLOURS)]


def _health_colour(cell: str) -> str:
    from rich.markup import escape

    colours = {"healthy": "green", "running": "green", "starting": "yellow", "partial": "yellow"}
    colours |= {"unhealthy": "red", "backoff": "red", "missing": "red"}
    return f"[{colours[cell]}]{cell}[/]" if cell in colours else escape(cell)


def standard_console(environ: Mapping[str, str]) -> Console:
    """The console on this process's own streams."""
    return Console(sys.stdout, sys.stderr, environ)
