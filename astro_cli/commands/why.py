"""`astro airflow why`."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from astro_cli.commands.options import obj, started
from astro_cli.commands.tasks import RunId
from astro_cli.commands.trigger import DagId

if TYPE_CHECKING:
    from astro_cli.domain.why import Finding
    from astro_cli.foundation.console import Console


def why(ctx: typer.Context, dag: DagId, run: RunId = None) -> None:
    """Say why nothing of a DAG is running: the one thing to see to first, then whatever else is in the way."""
    from astro_cli.domain.why import explain
    from astro_cli.foundation.errors import AstroError
    from astro_cli.workflows.runs import connect, snapshot

    app = obj(ctx)
    console = app.console
    status = started(app)
    with connect(status) as api:
        seen = snapshot(api, status, dag, run, project=app.project.root)
        findings = explain(replace(seen, served_queues=app.sandbox.served_queues()))
    answer = findings[0]
    if answer.code == "unknown":
        raise AstroError(
            answer.message, hint=answer.hint, details=tuple(each.message for each in findings[1:])
        )
    console.result(
        {"answer": asdict(answer), "also": [asdict(each) for each in findings[1:]]},
        lambda: _show(console, findings),
    )


def _show(console: Console, findings: tuple[Finding, ...]) -> None:
    answer, *others = findings
    console.line(console.style(answer.message, "1", console.out))
    for detail in answer.details:
        console.line(f"    {detail}")
    if answer.hint:
        console.line(f"  {console.style('hint:', '1;36', console.out)} {answer.hint}")
    for other in others:
        console.line(f"  also: {other.message}")
