"""`astro deploy`, also `astro airflow deploy`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from astro_cli.commands.options import Deployment, LockWait, obj

if TYPE_CHECKING:
    from astro_cli.deploy.target import Difference
    from astro_cli.domain.releases import Plan
    from astro_cli.foundation.console import Console
    from astro_cli.remote import Remote
    from astro_cli.runtime.engine import Report
    from astro_cli.workflows.deployment import Outcome

EDGE_SECONDS = 180.0
"""How long a worker outside may take until the deployment has heard of it."""


def deploy(
    ctx: typer.Context,
    name: Deployment = None,
    dags: Annotated[
        bool, typer.Option("--dags", help="Only the DAGs and `include`: nothing restarts.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change; change nothing.")
    ] = False,
    pytest: Annotated[bool, typer.Option("--pytest", help="Run the project's tests first.")] = False,
    skip_checks: Annotated[
        bool, typer.Option("--skip-checks", help="Run no gate; the release says so.")
    ] = False,
    require_clean: Annotated[
        bool, typer.Option("--require-clean", help="Refuse changes that are not committed.")
    ] = False,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="REF", help="Deploy this image of the local engine; build none.", show_default=False
        ),
    ] = None,
    description: Annotated[
        str, typer.Option(help="A line for the list of releases.", show_default=False)
    ] = "",
    wait: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time a service may take to start.")
    ] = 300,
    lock_wait: LockWait = 0,
) -> None:
    """Build the project, check it, and put it on a deployment as a new release; or leave everything as it was."""
    from astro_cli.deploy import dag_bundle
    from astro_cli.remote import Remote
    from astro_cli.workflows import release_build
    from astro_cli.workflows.gates import Gates

    app = obj(ctx)
    console = app.console
    remote = Remote(app, name)
    wanted = remote.deployment
    if require_clean or wanted.require_clean:
        release_build.require_clean(release_build.git_revision(app.project.root))
    secrets = None if dags else remote.secrets()
    with console.progress() as report:
        report.step(f"look at {wanted.where}")
        with remote.opened(report) as deployer:
            built = remote.build(image, report)
            state = deployer.state()
            plan = deployer.plan(built, secrets, state) if secrets else deployer.plan_dags(built, state)
            deployer.check(built, state)
            if dry_run:
                objects = () if dags else deployer.differences(built, plan, state)
                shown = [asdict(each) for each in objects]
                data = {"deployment": wanted.name, "plan": _plan_data(plan), "objects": shown}
                console.result(data, lambda: _show_plan(console, plan, objects))
                return
            if state.current is not None and deployer.is_live(plan, state):
                running = state.current.id
                console.result(
                    {"changed": False, "release": running, "url": wanted.publish.base_url},
                    lambda: console.line(f"{wanted.name} is up to date: release {running} runs this already"),
                )
                return
            gates: list[str] = []
            if dags and state.current is not None and not skip_checks:
                release_build.require_same_environment(state.current, built.environment)
            if not skip_checks:
                checks = Gates(
                    app.docker.api,
                    built.image_id,
                    built.companions["postgres"],
                    ignored=dag_bundle.ignored(app.project.root),
                )
                checks.parse(report)
                gates.append("parse")
                if pytest or wanted.pytest:
                    checks.pytest(report)
                    gates.append("pytest")
            options = remote.options(description=description, wait=wait, lock_wait=lock_wait)
            passed = tuple(gates)
            if secrets is None:
                outcome = deployer.deploy_dags(built, options, gates=passed, skipped=skip_checks)
            else:
                outcome = deployer.deploy(built, secrets, options, gates=passed, skipped=skip_checks)
        follow(remote, report)
    show_outcome(console, wanted.name, outcome)


def follow(remote: Remote, report: Report) -> None:
    """Bring the machines outside to the release that is live now; what fails there does not make it less so."""
    from astro_cli.foundation.errors import AstroError

    if not remote.deployment.edge:
        return
    try:
        with remote.target() as target:
            remote.edge(target, report).follow(EDGE_SECONDS)
    except AstroError as exc:
        report.warn(f"the machines outside could not be looked after: {exc.message}")


def show_outcome(console: Console, name: str, outcome: Outcome) -> None:
    """Print what runs now, and a new password if a person reads it."""
    release = outcome.release
    data = {
        "changed": outcome.changed,
        "release": release.id,
        "image": release.image,
        "revision": release.revision,
        "dirty": release.dirty,
        "url": outcome.url,
        "plan": _plan_data(outcome.plan),
    }
    again = f"`astro deployment inspect {name} --show-password`"

    def show() -> None:
        console.line(f"release {release.id} is live on {name}: {outcome.url}")
        if outcome.password and sys.stdout.isatty():
            console.line(f"log in as admin with the password {outcome.password} (again: {again})")
        elif outcome.password:  # a CI system keeps what is written here
            console.line(f"log in as admin; {again} tells the password")

    console.result(data, show)


def _plan_data(plan: Plan) -> dict[str, object]:
    return {
        "current": plan.current,
        "image": plan.image,
        "dags": {"added": plan.added, "changed": plan.changed, "removed": plan.removed},
        "settings": plan.settings,
        "secrets": plan.secrets,
        "migration": plan.migration,
        "nothing": plan.nothing,
    }


def _show_plan(console: Console, plan: Plan, objects: tuple[Difference, ...]) -> None:
    if plan.nothing and not objects:
        console.line(f"nothing would change: release {plan.current} runs this already")
        return
    if plan.nothing:
        console.line(f"release {plan.current} runs this already, but the cluster was changed by others:")
        _show_objects(console, objects)
        return
    console.line("first release" if plan.current is None else f"against release {plan.current}:")
    for sign, names in (("+", plan.added), ("~", plan.changed), ("-", plan.removed)):
        for name in names:
            console.line(f"  {sign} {name}")
    for line in plan.settings:
        console.line(f"  configuration  {line}")
    for name in plan.secrets:
        console.line(f"  secret         {name}")
    console.line(f"  image          {'new' if plan.image else 'unchanged'}")
    if plan.migration:
        console.line("  database       is backed up, then migrated")
    if plan.image or plan.settings or plan.secrets:
        console.line("  restarts       every service of Airflow")
    _show_objects(console, objects)


def _show_objects(console: Console, objects: tuple[Difference, ...]) -> None:
    for each in objects:
        console.line(f"  {each.action:10} {each.kind}/{each.name}")
        for field in each.fields:
            console.line(f"      {field}")
