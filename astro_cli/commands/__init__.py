"""The commands, a file each: parse, one call, show the result. This table is read without importing them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class CommandSpec(NamedTuple):
    """One command: the word, what it does in a line, its function, options of the parser, and its file.

    `file` is named where it is not the word itself.
    """

    name: str
    summary: str
    function: str
    settings: Mapping[str, Any] = MappingProxyType({})
    file: str = ""

    @property
    def module(self) -> str:
        """The module that holds the function."""
        return f"astro_cli.commands.{self.file or self.name}"


class GroupSpec(NamedTuple):
    """A word with commands below it, such as `object import`."""

    name: str
    summary: str
    commands: tuple[CommandSpec, ...]
    groups: tuple[GroupSpec, ...] = ()


PASS_THROUGH = {"ignore_unknown_options": True, "allow_interspersed_args": False}

AIRFLOW_COMMANDS = (
    CommandSpec("init", "Write a new project.", "init"),
    CommandSpec("start", "Start the sandbox, or bring it up to date.", "start"),
    CommandSpec("stop", "Stop the sandbox; its data stays.", "stop"),
    CommandSpec("restart", "Restart one service, or everything.", "restart"),
    CommandSpec("scale", "Have more or fewer Celery workers.", "scale"),
    CommandSpec("kill", "Remove the sandbox with all its data.", "kill"),
    CommandSpec("ps", "Show services, health, memory and the URL.", "ps"),
    CommandSpec("top", "Show live how Airflow is doing.", "top"),
    CommandSpec("logs", "Show what the services wrote.", "logs"),
    CommandSpec("parse", "Check every DAG file in a moment.", "parse"),
    CommandSpec("test", "Run a DAG once, leaving no trace.", "test"),
    CommandSpec("pytest", "Run the project's tests in the sandbox.", "pytest", PASS_THROUGH),
    CommandSpec("debug", "Stop in a task's code with your debugger.", "debug"),
    CommandSpec("watch", "Parse on save; the UI follows at once.", "watch"),
    CommandSpec("trigger", "Start a run of a DAG, and wait for it.", "trigger"),
    CommandSpec("runs", "Show the runs of one DAG or all.", "runs"),
    CommandSpec("tasks", "Show the tasks of a run.", "tasks"),
    CommandSpec("mail", "Show the mails that the sandbox caught.", "mail"),
    CommandSpec("why", "Say why nothing is running.", "why"),
    CommandSpec("backfill", "Run a DAG for past dates.", "backfill"),
    CommandSpec(
        "upgrade-check", "Name old idioms, and the modern way.", "upgrade_check", file="upgrade_check"
    ),
    CommandSpec("upgrade-test", "Try another Airflow; touch nothing.", "upgrade_test", file="upgrade_test"),
    CommandSpec("bash", "Open a shell beside a service.", "bash"),
    CommandSpec("run", "Run any `airflow` command.", "run", PASS_THROUGH),
    CommandSpec("build", "Build the project's image; start nothing.", "build"),
    CommandSpec("deploy", "Put the project on a deployment.", "deploy"),
    CommandSpec("list", "Show every sandbox on this machine.", "list_sandboxes"),
    CommandSpec("poweroff", "Stop every sandbox on this machine.", "poweroff"),
)
"""The commands of `astro airflow`, in the order of `--help`."""

AIRFLOW_GROUPS = (
    GroupSpec(
        "object",
        "Connections, variables and pools: file and sandbox.",
        (
            CommandSpec(
                "import", "Write the file's objects to the sandbox.", "import_objects", file="object"
            ),
            CommandSpec("export", "Show the sandbox's objects as a file.", "export", file="object"),
            CommandSpec("validate", "Check the file; needs no sandbox.", "validate", file="object"),
            CommandSpec("diff", "Compare the file with the sandbox.", "diff", file="object"),
        ),
    ),
    GroupSpec(
        "snapshot",
        "Save the metadata database, and go back to it.",
        (
            CommandSpec("save", "Save the database as it is now.", "save", file="snapshot"),
            CommandSpec("restore", "Go back to a snapshot.", "restore", file="snapshot"),
            CommandSpec("list", "Show the snapshots.", "list_snapshots", file="snapshot"),
            CommandSpec("delete", "Remove a snapshot.", "delete", file="snapshot"),
            CommandSpec("export", "Write a snapshot to a file.", "export", file="snapshot"),
            CommandSpec("import", "Take over a snapshot from a file.", "import_snapshot", file="snapshot"),
        ),
    ),
)
"""The groups below `astro airflow`."""

TOP_LEVEL = ("init", "start", "stop", "logs", "deploy")
"""Those that are also reachable directly below `astro`."""

ROOT_COMMANDS = (
    *(spec for spec in AIRFLOW_COMMANDS if spec.name in TOP_LEVEL),
    CommandSpec("doctor", "Look at all that a sandbox stands on.", "doctor"),
    CommandSpec("clean", "Remove what is of no more use.", "clean"),
    CommandSpec("version", "Show the versions of astro, Airflow and the engine.", "version"),
)
"""The commands of `astro` itself, besides the group `airflow`."""

ROOT_GROUPS = (
    GroupSpec(
        "deployment",
        "Where the project is deployed, and what runs there.",
        (
            CommandSpec("add", "Declare a deployment.", "add", file="deployment"),
            CommandSpec("list", "Show the declared deployments.", "list_deployments", file="deployment"),
            CommandSpec(
                "inspect", "Show all of one deployment's configuration.", "inspect", file="deployment"
            ),
            CommandSpec("remove", "Take one out of the configuration.", "remove", file="deployment"),
            CommandSpec("ps", "Show what runs there.", "ps", file="deployment"),
            CommandSpec("logs", "Show what the services wrote.", "logs", file="deployment_inside"),
            CommandSpec("releases", "Show every release.", "releases", file="deployment"),
            CommandSpec("rollback", "Go back to an earlier release.", "rollback", file="deployment"),
            CommandSpec("run", "Run any `airflow` command there.", "run", PASS_THROUGH, "deployment_inside"),
            CommandSpec("bash", "Open a shell beside a service.", "bash", file="deployment_inside"),
            CommandSpec("stop", "End all services; data stays.", "stop", file="deployment"),
            CommandSpec("start", "Start the services again.", "start", file="deployment"),
            CommandSpec(
                "rotate-keys", "New keys; encrypt everything anew.", "rotate_keys", file="deployment"
            ),
            CommandSpec("backup", "Save the metadata database.", "backup", file="deployment"),
            CommandSpec("restore", "Go back to a backup.", "restore", file="deployment"),
            CommandSpec("unlock", "Take the lock from a run that is gone.", "unlock", file="deployment"),
            CommandSpec("destroy", "Remove it from its host, with its data.", "destroy", file="deployment"),
        ),
        (
            GroupSpec(
                "object",
                "Connections, variables and pools: file and deployment.",
                (
                    CommandSpec(
                        "import",
                        "Write the file's objects there.",
                        "import_objects",
                        file="deployment_object",
                    ),
                    CommandSpec("export", "Show its objects as a file.", "export", file="deployment_object"),
                    CommandSpec("diff", "Compare the file with it.", "diff", file="deployment_object"),
                ),
            ),
            GroupSpec(
                "edge",
                "Workers on machines outside.",
                (
                    CommandSpec("start", "Start them, or update them.", "start", file="deployment_edge"),
                    CommandSpec(
                        "stop", "End them when their tasks are done.", "stop", file="deployment_edge"
                    ),
                    CommandSpec("file", "Write one for Docker Compose.", "file", file="deployment_edge"),
                ),
            ),
            GroupSpec(
                "variables",
                "The environment variables of what is deployed.",
                (
                    CommandSpec("list", "Show them.", "list_variables", file="deployment_variables"),
                    CommandSpec("set", "Set some.", "set_variables", file="deployment_variables"),
                    CommandSpec("remove", "Take some away.", "remove_variables", file="deployment_variables"),
                ),
            ),
        ),
    ),
    GroupSpec(
        "config",
        "The settings of astro itself, and where each comes from.",
        (
            CommandSpec("list", "Show every setting.", "list_settings", file="config"),
            CommandSpec("get", "Show one setting.", "get", file="config"),
            CommandSpec("set", "Write a setting to a file.", "set_setting", file="config"),
            CommandSpec("unset", "Take a setting out of a file.", "unset", file="config"),
        ),
    ),
    GroupSpec(
        "export",
        "The project as files for other tools.",
        (
            CommandSpec("compose", "As a file for Docker Compose.", "export_compose", file="export"),
            CommandSpec(
                "helm-values", "As values for Airflow's Helm chart.", "export_helm_values", file="export"
            ),
        ),
    ),
    GroupSpec(
        "ci",
        "Workflows for CI systems.",
        (CommandSpec("init", "Write a small workflow that deploys.", "ci_init", file="ci"),),
    ),
)
"""The groups below `astro` itself, besides `airflow`."""
