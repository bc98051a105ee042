"""`astro airflow mail`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from astro_cli.commands.options import obj, started
from astro_cli.foundation.errors import AstroError, UsageError

if TYPE_CHECKING:
    from astro_cli.foundation.console import Console


def mail(
    ctx: typer.Context,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[NUMBER]", min=1, help="Show this one, whole.", show_default=False),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget all of them.")] = False,
) -> None:
    """Show the mails that the service `mail` has caught, the newest first."""
    from astro_cli.workflows.mailbox import Mailbox

    app = obj(ctx)
    if clear and number is not None:
        raise UsageError("--clear forgets all mails", hint="leave the number out")
    box = Mailbox(started(app))
    if clear:
        box.clear()
        app.console.result({"cleared": True}, lambda: app.console.line("all mails are forgotten"))
    elif number is None:
        found = box.all()
        app.console.result(
            {"mails": found, "page": box.page}, lambda: _show_all(app.console, found, box.page)
        )
    else:
        one = box.one(number)
        if one is None:
            raise AstroError(f"there is no mail {number}", hint="see `astro airflow mail`")
        app.console.result(one, lambda: _show(app.console, one))


def _show_all(console: Console, mails: list[dict[str, Any]], page: str) -> None:
    if mails:
        rows = [
            (
                str(each["number"]),
                each["date"] or "-",
                each["from"] or "-",
                ", ".join(each["to"]),
                each["subject"] or "-",
            )
            for each in mails
        ]
        console.table(("MAIL", "DATE", "FROM", "TO", "SUBJECT"), rows)
    else:
        console.line("no mail has come")
    console.note()
    console.note(f"in the browser: {page}")


def _show(console: Console, mail: dict[str, Any]) -> None:
    console.line(f"From: {mail['from']}")
    console.line(f"To: {', '.join(mail['to'])}")
    console.line(f"Subject: {mail['subject']}")
    if mail["date"]:
        console.line(f"Date: {mail['date']}")
    for name in mail["attachments"]:
        console.line(f"Attachment: {name}")
    console.line("")
    console.line((mail["text"] or mail["html"] or "").rstrip("\n"))
