"""`astro deployment …`: what the project's deployments are, and what runs on them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from astro_cli.commands.deploy import follow, show_outcome
from astro_cli.commands.options import Deployment, DeploymentOption, LockWait, obj, pairs

if TYPE_CHECKING:
    from astro_cli.deploy.target import State, Target
    from astro_cli.foundation.console import Console
    from astro_cli.remote import Remote
    from astro_cli.runtime.engine import Report


def list_deployments(ctx: typer.Context) -> None:
    """Show the deployments that the project declares."""
    from astro_cli.domain.deployments import read_deployments

    app = obj(ctx)
    known = read_deployments(app.project.root).values()
    rows = [(each.name, each.target, each.where, each.registry or "-") for each in known]

    def show() -> None:
        app.console.table(("NAME", "TARGET", "WHERE", "REGISTRY"), rows)
        if not rows:
            app.console.note("none yet: `astro deployment add prod --host ssh://user@host`")

    names = ("name", "target", "where", "registry")
    app.console.result({"deployments": [dict(zip(names, row, strict=True)) for row in rows]}, show)


def inspect(
    ctx: typer.Context,
    name: Deployment = None,
    show_password: Annotated[
        bool, typer.Option("--show-password", help="Ask the host for the password of `admin`, too.")
    ] = False,
) -> None:
    """Show all that a deployment is configured to be; secrets by name only."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    data = asdict(remote.deployment)
    if show_password:
        with remote.target() as target:
            data["admin_password"] = target.admin_password()

    def show() -> None:
        import yaml

        app.console.line(yaml.safe_dump(_plain(data), sort_keys=False, allow_unicode=True).rstrip())

    app.console.result(data, show)


def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new deployment.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Where it lives: ssh://user@host:port; each of several for a swarm.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="Kind of target: host, swarm or kubernetes.")] = "host",
    registry: Annotated[
        str | None,
        typer.Option(metavar="HOST/REPO", help="Repository to push images to.", show_default=False),
    ] = None,
    registry_authority: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Who signed the registry's certificate.", show_default=False),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Context of the kubeconfig.", show_default=False)
    ] = None,
    kubeconfig: Annotated[
        str | None, typer.Option(metavar="FILE", help="Login to the cluster.", show_default=False)
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="On the cluster.", show_default=False)] = None,
    storage_class: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Of the volumes on the cluster.", show_default=False),
    ] = None,
    storage_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of each volume on the cluster: 20Gi", show_default=False),
    ] = None,
    storage_logs: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Of a shared volume for task logs.", show_default=False),
    ] = None,
    ingress: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Of an Ingress that answers for --url.", show_default=False),
    ] = None,
    service_type: Annotated[
        str | None,
        typer.Option(
            "--service", metavar="TYPE", help="Of the web UI's Service on the cluster.", show_default=False
        ),
    ] = None,
    identity: Annotated[
        str | None, typer.Option(metavar="FILE", help="Private key for ssh.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Public port of the web UI on the host.", show_default=False)
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address of the host to publish it on.", show_default=False),
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="PEM file with chain and key, or secret:NAME.", show_default=False),
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="What people type in their browser.", show_default=False)
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="secret:NAME", help="A database of your own.", show_default=False)
    ] = None,
    drain: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time for running tasks to finish: 30m", show_default=False),
    ] = None,
    parallelism: Annotated[
        int | None, typer.Option(help="Tasks that run at once.", show_default=False)
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="NAME=VALUE", help="A plain variable.", show_default=False),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name of a secret variable.", show_default=False),
    ] = None,
    secret_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with secrets' values.", show_default=False)
    ] = None,
    secret_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="Prints the value of the secret it is given.", show_default=False
        ),
    ] = None,
    ssh_config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Configuration for ssh.", show_default=False)
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(metavar="local|celery|kubernetes", help="Airflow's executor.", show_default=False),
    ] = None,
    workers: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP=N", help="How many Celery workers of a group.", show_default=False),
    ] = None,
    edge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP", help="Machines outside, for the tasks of the queue GROUP.", show_default=False
        ),
    ] = None,
    replicas: Annotated[
        list[str] | None,
        typer.Option(metavar="SERVICE=N", help="How many of a service.", show_default=False),
    ] = None,
    memory: Annotated[
        list[str] | None,
        typer.Option(metavar="SERVICE=2g", help="Memory that a service may take.", show_default=False),
    ] = None,
    cpus: Annotated[
        list[str] | None,
        typer.Option(metavar="SERVICE=1.5", help="CPUs that a service may take.", show_default=False),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Releases to keep for rollbacks.", show_default=False)
    ] = None,
    keep_logs: Annotated[
        str | None, typer.Option(metavar="DAYS", help="Days to keep task logs: 30d", show_default=False)
    ] = None,
    keep_history: Annotated[
        str | None, typer.Option(metavar="DAYS", help="Days to keep runs: 90d", show_default=False)
    ] = None,
    pytest: Annotated[bool, typer.Option("--pytest", help="Each deploy runs the tests first.")] = False,
    require_clean: Annotated[
        bool, typer.Option("--require-clean", help="Each deploy refuses uncommitted changes.")
    ] = False,
) -> None:
    """Write a deployment into .astro/config.yaml; what stands there already stays as it is."""
    import shlex

    from astro_cli.domain.deployments import KUBERNETES, SWARM
    from astro_cli.foundation.errors import UsageError
    from astro_cli.remote import add_deployment

    app = obj(ctx)
    if not host and target != KUBERNETES:
        raise UsageError(
            "a host needs an address", hint="`--host ssh://user@host`, or `--target kubernetes --registry …`"
        )
    limits: dict[str, dict[str, str]] = {}
    for what, given, amount in (("memory", memory, "2g"), ("cpus", cpus, "1.5")):
        for service, value in pairs(given, f"`--{what} scheduler={amount}`").items():
            limits.setdefault(service, {})[what] = value
    publish = {"port": port, "bind": bind, "certificate": certificate, "url": url}
    publish |= {"ingress": ingress, "service": service_type}
    storage = {"class": storage_class, "size": storage_size, "logs": storage_logs}
    retention = {"releases": keep, "logs": keep_logs, "history": keep_history}
    fields: dict[str, Any] = {
        "target": target,
        **({"hosts": host} if target == SWARM else {"host": _only(host or [])}),
        "identity": identity,
        "ssh_config": ssh_config,
        "registry": registry,
        "registry_authority": registry_authority,
        "context": context,
        "kubeconfig": kubeconfig,
        "namespace": namespace,
        "storage": {key: value for key, value in storage.items() if value is not None},
        "executor": executor,
        "workers": {name: {"count": n} for name, n in _counts(workers, "`--workers worker=3`").items()},
        "edge": {group: {} for group in edge or ()},
        "replicas": _counts(replicas, "`--replicas api-server=2`"),
        "resources": limits,
        "parallelism": parallelism,
        "drain": drain,
        "env": pairs(env, "`--env AIRFLOW__CORE__PARALLELISM=32`"),
        "secrets": list(secret or ()),
        "secret_file": secret_file,
        "secret_command": shlex.split(secret_command or ""),
        "database": database,
        "publish": {key: value for key, value in publish.items() if value is not None},
        "retention": {key: value for key, value in retention.items() if value is not None},
        "gates": {
            name: True for name, wanted in (("pytest", pytest), ("require_clean", require_clean)) if wanted
        },
    }
    made = add_deployment(app.project.root, name, {key: value for key, value in fields.items() if value})
    app.console.result(
        {"name": made.name, "where": made.where},
        lambda: app.console.line(
            f"added {made.name}: {made.where}. Next: `astro deploy {made.name} --dry-run`"
        ),
    )


def _only(hosts: list[str]) -> str:
    from astro_cli.foundation.errors import UsageError

    if len(hosts) > 1:
        raise UsageError("only a swarm has several hosts", hint="add `--target swarm`, or name one host")
    return next(iter(hosts), "")


def _counts(given: list[str] | None, example: str) -> dict[str, int | str]:
    return {name: int(n) if n.isdecimal() else n for name, n in pairs(given, example).items()}


def remove(ctx: typer.Context, name: Annotated[str, typer.Argument(help="Name of the deployment.")]) -> None:
    """Take a deployment out of .astro/config.yaml; what runs on its host goes on running (see destroy)."""
    from astro_cli.remote import remove_deployment

    app = obj(ctx)
    remove_deployment(app.project.root, name)
    app.console.result({"name": name}, lambda: app.console.line(f"removed {name} from the configuration"))


def releases(ctx: typer.Context, name: Deployment = None) -> None:
    """Show every release: when, by whom, from which commit, and how it went."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    with Remote(app, name).target() as target:
        state = target.state()
    current = state.current
    rows = []
    for each in reversed(state.releases):
        result = "running" if current is not None and each.id == current.id else each.result
        commit = f"{each.revision[:10]}{'+' if each.dirty else ''}" if each.revision else "-"
        gates = ",".join(each.gates) or ("skipped" if each.skipped else "-")
        what = each.description or each.error
        rows.append(
            (str(each.id), each.time[:19], result, commit, each.who, gates, f"{each.seconds:.0f}s", what)
        )

    def show() -> None:
        app.console.table(("ID", "TIME (UTC)", "RESULT", "COMMIT", "WHO", "GATES", "TOOK", "WHAT"), rows)
        if not rows:
            app.console.note("nothing was deployed yet: `astro deploy`")

    data = [asdict(each) for each in state.releases]
    app.console.result({"current": current.id if current else None, "releases": data}, show)


def rollback(
    ctx: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [ID]",
            help="The deployment, if there are several; the release, if not the one before.",
            show_default=False,
        ),
    ] = None,
    of: DeploymentOption = None,
    restore_database: Annotated[
        bool,
        typer.Option("--restore-database", help="Also take the metadata database back, if it was migrated."),
    ] = False,
    wait: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time a service may take to start.")
    ] = 300,
    lock_wait: LockWait = 0,
) -> None:
    """Go back to an earlier release: its image, its configuration, its secrets."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    name, release = _name_and_release(what or [])
    remote = Remote(app, of or name)
    secrets = remote.certificate()
    with app.console.progress() as report, remote.opened(report) as deployer:
        outcome = deployer.rollback(
            release, secrets, remote.options(wait=wait, lock_wait=lock_wait), restore=restore_database
        )
        follow(remote, report)
    show_outcome(app.console, remote.deployment.name, outcome)


def _name_and_release(words: list[str]) -> tuple[str | None, int | None]:
    """A name begins with a letter, so the two cannot be taken for each other."""
    from astro_cli.foundation.errors import UsageError

    numbers = [int(word) for word in words if word.isdecimal()]
    names = [word for word in words if not word.isdecimal()]
    if len(numbers) > 1 or len(names) > 1:
        raise UsageError("one deployment and one release at most", hint="see `astro deployment releases`")
    return next(iter(names), None), next(iter(numbers), None)


def ps(ctx: typer.Context, name: Deployment = None) -> None:
    """Show the services on a deployment, the release they run, and where the web UI is."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    with app.console.progress() as report, remote.target() as target:
        state = target.state()
        outside = _outside(remote, target, report)
    url = remote.deployment.publish.base_url
    data = {
        "deployment": remote.deployment.name,
        "release": state.current.id if state.current else None,
        "services": [asdict(service) for service in state.services],
        "edge": outside,
        "locked_by": state.locked_by or None,
        "url": url,
    }

    def show() -> None:
        _show_services(app.console, state)
        if remote.deployment.edge:
            _show_outside(app.console, outside)
        _show_summary(app.console, remote.deployment.name, state, url)

    app.console.result(data, show)


def _outside(remote: Remote, target: Target, report: Report) -> list[dict[str, Any]]:
    """The workers outside that Airflow knows; none while it cannot be asked."""
    from astro_cli.foundation.errors import AstroError

    if remote.deployment.edge:
        with suppress(AstroError):
            return remote.edge(target, report).states()
    return []


def _show_outside(console: Console, workers: list[dict[str, Any]]) -> None:
    console.note()
    rows = [
        (
            each["name"],
            each["state"],
            ",".join(each["queues"]),
            str(each["running"]),
            f"{each['seconds']} s ago",
        )
        for each in workers
    ]
    console.table(("EDGE WORKER", "STATE", "QUEUES", "TASKS", "HEARD OF"), rows)


def _show_services(console: Console, state: State) -> None:
    spread = any(service.nodes for service in state.services)
    rows = [
        (
            service.name,
            f"{service.running}/{service.wanted}",
            str(service.release or "-"),
            str(service.draining or "-"),
            *((" ".join(sorted(service.nodes)),) if spread else ()),
            service.error if service.running < service.wanted else "",
        )
        for service in state.services
    ]
    nodes = ("NODES",) if spread else ()
    console.table(("SERVICE", "RUNNING", "RELEASE", "DRAINING", *nodes, "ERROR"), rows)


def _show_summary(console: Console, name: str, state: State, url: str) -> None:
    console.note()
    running = f"release {state.current.id}" if state.current else "no release yet"
    console.note(f"{name}: {running}, {url}")
    if state.locked_by:
        console.note(f"locked: {state.locked_by}")


def unlock(ctx: typer.Context, name: Deployment = None) -> None:
    """Take the lock away from a run that is gone for good, and say what it left."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    with Remote(app, name).target() as target:
        state = target.state()
        if state.locked_by and not app.confirm(f"Take the lock away? {state.locked_by}"):
            app.console.result({"unlocked": False}, lambda: app.console.line("the lock stays"))
            return
        left = target.unlock()

    def show() -> None:
        if left is None:
            app.console.line("it was not locked")
            return
        app.console.line(f"unlocked: `{left.purpose}` of {left.who} had come to the step {left.step}")
        if state.current is not None and not state.runs(state.current):
            app.console.note(
                f"release {state.current.id} was the last that was verified, and not all services run it: "
                "`astro deploy` finishes, `astro deployment rollback` undoes"
            )

    app.console.result({"unlocked": left is not None, "unfinished": asdict(left) if left else None}, show)


def destroy(ctx: typer.Context, name: Deployment = None, lock_wait: LockWait = 0) -> None:
    """Remove a deployment from its host with all its data; the configuration stays."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    wanted = remote.deployment
    app.console.note(f"This removes {wanted.name} from {wanted.where}:")
    app.console.note("  services, metadata database, task logs, backups, secrets and the list of releases")
    if not app.confirm_name(wanted.name):
        app.console.result({"removed": False}, lambda: app.console.line("nothing was removed"))
        return
    with app.console.progress() as report, remote.target() as target:
        _end_outside(remote, target, report)
        target.destroy(report, lock_wait)
    app.console.result(
        {"removed": True}, lambda: app.console.line(f"{wanted.name} is removed from {wanted.where}")
    )


def _end_outside(remote: Remote, target: Target, report: Report) -> None:
    """End the workers on machines outside while the deployment is still there that knows their tasks."""
    from astro_cli.foundation.errors import AstroError

    if not remote.deployment.edge:
        return
    try:
        failed = [each for each in remote.edge(target, report).stop(remote.deployment.edge) if each.error]
    except AstroError as exc:
        report.warn(f"the machines outside were left as they are: {exc.message}")
        return
    for each in failed:
        report.warn(f"the worker on {each.where} was left there: {each.error}")


def stop(ctx: typer.Context, name: Deployment = None, lock_wait: LockWait = 0) -> None:
    """End all services of a deployment, running tasks first; data and releases stay."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    with app.console.progress() as report, remote.opened(report) as deployer:
        deployer.stop(remote.options(lock_wait=lock_wait))
    app.console.result(
        {"stopped": True},
        lambda: app.console.line(f"{remote.deployment.name} is stopped; `astro deployment start` goes on"),
    )


def start(ctx: typer.Context, name: Deployment = None, lock_wait: LockWait = 0) -> None:
    """Start the services of the last verified release again."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    secrets = remote.certificate()
    with app.console.progress() as report, remote.opened(report) as deployer:
        release = deployer.start(secrets, remote.options(lock_wait=lock_wait))
    url = remote.deployment.publish.base_url
    app.console.result(
        {"release": release.id, "url": url},
        lambda: app.console.line(f"release {release.id} runs on {remote.deployment.name}: {url}"),
    )


def rotate_keys(ctx: typer.Context, name: Deployment = None, lock_wait: LockWait = 0) -> None:
    """Make a new Fernet key and API secret, and encrypt connections and variables anew: a new release."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    secrets = remote.certificate()
    with app.console.progress() as report, remote.opened(report) as deployer:
        release = deployer.rotate_keys(secrets, remote.options(lock_wait=lock_wait))
        follow(remote, report)
    app.console.result(
        {"release": release.id},
        lambda: app.console.line(f"release {release.id} of {remote.deployment.name} has new keys"),
    )


def backup(ctx: typer.Context, name: Deployment = None, lock_wait: LockWait = 0) -> None:
    """Write the metadata database to a file on the host."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, name)
    with app.console.progress() as report, remote.opened(report) as deployer:
        file = deployer.backup(remote.options(lock_wait=lock_wait))
    app.console.result({"backup": file}, lambda: app.console.line(file))


def restore(
    ctx: typer.Context,
    backup: Annotated[str, typer.Argument(metavar="BACKUP", help="As `astro deployment backup` printed it.")],
    of: DeploymentOption = None,
    lock_wait: LockWait = 0,
) -> None:
    """Put a backup in the metadata database's place; what happened since is lost."""
    from astro_cli.remote import Remote

    app = obj(ctx)
    remote = Remote(app, of)
    if not app.confirm(f"Replace the metadata database of {remote.deployment.name} by {backup}?"):
        app.console.result({"restored": False}, lambda: app.console.line("nothing was changed"))
        return
    secrets = remote.certificate()
    with app.console.progress() as report, remote.opened(report) as deployer:
        deployer.restore(backup, secrets, remote.options(lock_wait=lock_wait))
    app.console.result({"restored": True, "backup": backup}, lambda: app.console.line(f"restored {backup}"))


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever `asdict` gives
    """Without tuples, and without what is not set."""
    if isinstance(value, dict):
        plain = {key: _plain(each) for key, each in value.items()}
        return {key: each for key, each in plain.items() if each not in (None, "", [], {})}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
