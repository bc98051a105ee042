"""What Airflow code of 2018 says that Airflow 3 does not understand, and how it is said today.

Ruff's rules for Airflow look at uses of names that it can follow. This looks at what they leave out: imports by way
of plugins, names that only templates and contexts hold, sessions, plugins' attributes, executors in settings.
Whether something breaks was tried with Airflow 3.3.2.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Idiom:
    """An old way of saying something.

    Attributes:
        word: the name that stands in the code.
        message: what is wrong with it.
        instead: the modern way.
        breaks: it fails, or says nothing any more; else it only could be said better.
    """

    word: str
    message: str
    instead: str
    breaks: bool = True


@dataclass(frozen=True)
class Place:
    """An idiom and the line it was found on, from 1."""

    line: int
    idiom: Idiom


_SESSION = (
    "tasks cannot reach Airflow's database",
    "use `airflow.sdk` (`Variable`, `Connection`, the task's context), the REST API, or a retry policy",
)
_BY_PLUGIN = "plugins no longer bring {what} here"
_FLASK = "Airflow has no Flask any more: plugins bring FastAPI apps and views"
_VIEWS = "`fastapi_apps` and `external_views`; see `astro airflow init --template plugin`"

_MODULES: tuple[tuple[str, str, str], ...] = (
    *(
        (
            rf"airflow\.{what}",
            _BY_PLUGIN.format(what=what),
            "import from the module the class is in: `from my_package.my_module import …`",
        )
        for what in ("operators", "hooks", "sensors", "executors", "macros")
    ),
    (
        r"airflow\.operators\.bash_operator",
        "moved",
        "`@task.bash`, or `airflow.providers.standard.operators.bash`",
    ),
    (
        r"airflow\.operators\.(dummy|dummy_operator)",
        "renamed",
        "`airflow.providers.standard.operators.empty`",
    ),
    (
        r"airflow\.operators\.python_operator",
        "moved",
        "`@task`, or `airflow.providers.standard.operators.python`",
    ),
    (r"airflow\.operators\.subdag(_operator)?", "sub-DAGs are gone", "`@task_group`"),
    (r"airflow\.operators\.email_operator", "moved", "`airflow.providers.smtp.operators.smtp`"),
    (
        r"airflow\.operators\.dagrun_operator",
        "moved",
        "`airflow.providers.standard.operators.trigger_dagrun`",
    ),
    (
        r"airflow\.operators\.latest_only_operator",
        "moved",
        "`airflow.providers.standard.operators.latest_only`",
    ),
    (
        r"airflow\.operators\.(postgres|mysql|sqlite|mssql|jdbc|oracle)_operator",
        "moved",
        "`SQLExecuteQueryOperator` of `airflow.providers.common.sql.operators.sql`",
    ),
    (r"airflow\.operators\.(http_operator|\w+_to_\w+|\w+_operator)", "moved", "the provider's package"),
    (r"airflow\.hooks\.base_hook", "moved", "`from airflow.sdk import BaseHook`"),
    (r"airflow\.hooks\.\w+_hook", "moved", "the provider's package: `airflow.providers.….hooks.…`"),
    (r"airflow\.sensors\.base_sensor_operator", "moved", "`from airflow.sdk import BaseSensorOperator`"),
    (
        r"airflow\.sensors\.s3_prefix_sensor",
        "gone",
        "`S3KeySensor(wildcard_match=True)` of `airflow.providers.amazon.aws.sensors.s3`",
    ),
    (r"airflow\.sensors\.\w+_sensor", "moved", "the provider's package: `airflow.providers.….sensors.…`"),
    (
        r"airflow\.contrib(\..*)?",
        "gone",
        "the provider's package: `pip install apache-airflow-providers-…`",
    ),
    (r"airflow\.utils\.dates", "gone", "a fixed `datetime(2026, 1, 1)` as start date"),
    (r"airflow\.utils\.(db|session)", *_SESSION),
    (r"airflow\.utils\.decorators", "gone", "leave `@apply_defaults` out: it always applies"),
    (r"airflow\.www(\..*)?", _FLASK, _VIEWS),
    (r"airflow\.executors\.(sequential_executor|mesos_executor|dask_executor)", "gone", "`LocalExecutor`"),
    (r"flask_admin(\..*)?|flask_appbuilder(\..*)?|flask_wtf(\..*)?", _FLASK, _VIEWS),
)
"""A module's whole name, what is wrong with it, and what to import instead; the first that fits counts."""

_NAMES = {
    **{
        ("airflow.models", name): (*_SESSION, False)
        for name in ("DagRun", "TaskInstance", "XCom", "DagBag", "DagModel")
    },
    ("airflow", "settings"): (*_SESSION, False),
    ("airflow", "macros"): ("moved", "`from airflow.sdk import macros`", False),
    ("flask", "Blueprint"): (_FLASK, _VIEWS, True),
}
"""Names that are imported from modules which are still there."""

_ARGUMENTS = {
    "schedule_interval": Idiom("schedule_interval", "`schedule_interval` is gone", "`schedule=`"),
    "timetable": Idiom("timetable", "`timetable` is gone", "`schedule=`"),
    "provide_context": Idiom(
        "provide_context",
        "`provide_context` is gone",
        "leave it out, or use `@task`: the context is always there",
    ),
    "concurrency": Idiom("concurrency", "`concurrency` is gone", "`max_active_tasks=`"),
    "task_concurrency": Idiom("task_concurrency", "`task_concurrency` is gone", "`max_active_tis_per_dag=`"),
    "sla": Idiom("sla", "SLAs are gone", "`deadline=DeadlineAlert(…)` on the DAG"),
    "sla_miss_callback": Idiom(
        "sla_miss_callback", "SLAs are gone", "`deadline=DeadlineAlert(…)` on the DAG"
    ),
    "default_view": Idiom("default_view", "`default_view` is gone", "leave it out"),
    "orientation": Idiom("orientation", "`orientation` is gone", "leave it out"),
    "fail_stop": Idiom("fail_stop", "`fail_stop` is renamed", "`fail_fast=`"),
    "full_filepath": Idiom("full_filepath", "`full_filepath` is gone", "leave it out"),
    **{
        name: Idiom(
            name,
            f"`{name}` is on its way out",
            "`on_failure_callback=[send_smtp_notification(…)]`",
            breaks=False,
        )
        for name in ("email_on_failure", "email_on_retry")
    },
}
"""Arguments of DAGs and tasks, also where they stand in `default_args`."""

_RULES = {"dummy": "always", "none_failed_or_skipped": "none_failed_min_one_success"}

_DATES = "`logical_date`; for the hour or day that a run is about, `data_interval_start`"
_CONTEXT = {
    "execution_date": _DATES,
    "next_execution_date": "`data_interval_end`",
    "prev_execution_date": "`prev_data_interval_start_success`",
    "prev_execution_date_success": "`prev_data_interval_start_success`",
    "next_ds": "`{{ data_interval_end | ds }}`",
    "next_ds_nodash": "`{{ data_interval_end | ds_nodash }}`",
    "prev_ds": "`{{ macros.ds_add(ds, -1) }}`",
    "prev_ds_nodash": "`{{ macros.ds_add(ds, -1) }}`, with `ds_format`",
    "tomorrow_ds": "`{{ macros.ds_add(ds, 1) }}`",
    "tomorrow_ds_nodash": "`{{ macros.ds_add(ds, 1) }}`, with `ds_format`",
    "yesterday_ds": "`{{ macros.ds_add(ds, -1) }}`",
    "yesterday_ds_nodash": "`{{ macros.ds_add(ds, -1) }}`, with `ds_format`",
}
"""Names that the context of a task no longer has."""
_CONTEXT_WORD = re.compile(rf"\b({'|'.join(sorted(_CONTEXT, key=len, reverse=True))})\b")
_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)

_PLUGIN = {
    **dict.fromkeys(
        ("operators", "hooks", "sensors", "executors"),
        "leave it out, and import the classes from the module they are in",
    ),
    **dict.fromkeys(
        ("flask_blueprints", "admin_views", "menu_links", "appbuilder_views", "appbuilder_menu_items"), _VIEWS
    ),
}
"""Attributes of an `AirflowPlugin`."""

EXECUTORS = {
    "SequentialExecutor": "`LocalExecutor` with AIRFLOW__CORE__PARALLELISM=1, which is what Airflow silently takes",
    "MesosExecutor": "`LocalExecutor` in a sandbox; Celery, Kubernetes or Edge elsewhere",
    "DaskExecutor": "`LocalExecutor` in a sandbox; Celery, Kubernetes or Edge elsewhere",
    "DebugExecutor": "`astro airflow test` or `dag.test()`",
    "CeleryKubernetesExecutor": "both in one list: `CeleryExecutor,KubernetesExecutor`",
    "LocalKubernetesExecutor": "both in one list: `LocalExecutor,KubernetesExecutor`",
}
_OPTIONS = {
    "AIRFLOW__CORE__SQL_ALCHEMY_CONN": "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL",
    "AIRFLOW__SCHEDULER__MAX_THREADS": "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES",
    "AIRFLOW__CORE__NON_POOLED_TASK_SLOT_COUNT": "the pool `default_pool`",
    "AIRFLOW__WEBSERVER__AUTHENTICATE": "AIRFLOW__CORE__AUTH_MANAGER",
}
SETTINGS_FILES = (".env", "Dockerfile", "airflow.cfg", "docker-compose.yml", "docker-compose.yaml")
"""Where executors and options are set."""


def in_python(source: str) -> list[Place]:
    """The old idioms of a Python file, by line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in strings: not what was asked
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as exc:
        message = f"this is no Python 3: {getattr(exc, 'msg', exc)}"
        return [Place(getattr(exc, "lineno", None) or 1, Idiom("", message, "`2to3`, or by hand, first"))]
    found = {(place.line, place.idiom.word): place for node in ast.walk(tree) for place in _of(node)}
    return sorted(found.values(), key=lambda place: (place.line, place.idiom.word))


def in_settings(text: str) -> list[Place]:
    """The executors and options of Airflow in a settings file that are gone."""
    return [Place(number, idiom) for number, line in enumerate(text.splitlines(), 1) for idiom in _set(line)]


def _set(line: str) -> Iterator[Idiom]:
    if line.lstrip().startswith("#"):
        return
    for name, instead in EXECUTORS.items():
        if re.search(rf"executor\W.*\b{name}\b", line, re.IGNORECASE):
            yield Idiom(name, f"`{name}` is gone", instead)
    for name, option in _OPTIONS.items():
        if re.search(rf"\b{name}\b", line):
            yield Idiom(name, f"`{name}` is gone", f"`{option}`")


def _of(node: ast.AST) -> Iterator[Place]:
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from _imports(node.lineno, node.module, [alias.name for alias in node.names])
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield from _imports(node.lineno, alias.name, [])
    elif isinstance(node, ast.Call):
        yield from _call(node)
    elif isinstance(node, ast.Dict):
        yield from _defaults(node)
    elif isinstance(node, ast.Subscript):
        yield from _key(node.slice, node.value)
    elif isinstance(node, ast.arguments):
        for argument in (*node.args, *node.kwonlyargs):
            if argument.arg in _CONTEXT:
                yield Place(argument.lineno, _context(argument.arg))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _templates(node)
    elif isinstance(node, ast.ClassDef):
        yield from _plugin(node)


def _imports(line: int, module: str, names: Iterable[str]) -> Iterator[Place]:
    for pattern, message, instead in _MODULES:
        if re.fullmatch(pattern, module):
            yield Place(line, Idiom(module, _said(module, message), instead))
            return
    for name in names:
        if (module, name) in _NAMES:
            message, instead, breaks = _NAMES[module, name]
            word = f"{module}.{name}"
            yield Place(line, Idiom(word, _said(word, message), instead, breaks))


def _said(word: str, message: str) -> str:
    return f"`{word}` is {message}" if " " not in message else f"`{word}`: {message}"


def _call(node: ast.Call) -> Iterator[Place]:
    for keyword in node.keywords:
        if keyword.arg in _ARGUMENTS:
            yield Place(keyword.value.lineno, _ARGUMENTS[keyword.arg])
        if keyword.arg == "trigger_rule" and isinstance(keyword.value, ast.Constant):
            rule = str(keyword.value.value)
            if rule in _RULES:
                message = f"the trigger rule `{rule}` is gone"
                yield Place(keyword.value.lineno, Idiom(rule, message, f"`{_RULES[rule]}`"))
    if not isinstance(node.func, ast.Attribute) or not node.args:
        return
    if node.func.attr == "get":
        yield from _key(node.args[0], node.func.value)
    first = node.args[0]
    if node.func.attr in ("xcom_push", "xcom_pull") and isinstance(first, ast.Name) and first.id == "context":
        word = node.func.attr
        yield Place(
            node.lineno,
            Idiom(word, f"operators have no `{word}` of their own any more", f'`context["ti"].{word}(…)`'),
        )


def _defaults(node: ast.Dict) -> Iterator[Place]:
    """A dictionary of default arguments is told by its `owner` or `start_date`."""
    keys = {key.value: key.lineno for key in node.keys if isinstance(key, ast.Constant)}
    if {"owner", "start_date"} & set(keys):
        for name, idiom in _ARGUMENTS.items():
            if name in keys:
                yield Place(keys[name], idiom)


def _key(key: ast.expr, mapping: ast.expr) -> Iterator[Place]:
    if isinstance(key, ast.Constant) and key.value in _CONTEXT and isinstance(mapping, ast.Name):
        yield Place(key.lineno, _context(str(key.value)))


def _templates(node: ast.Constant) -> Iterator[Place]:
    text = str(node.value)
    for template in _TEMPLATE.finditer(text):
        for word in _CONTEXT_WORD.finditer(template[0]):
            line = node.lineno + text.count("\n", 0, template.start() + word.start())
            yield Place(line, _context(word[0]))


def _context(word: str) -> Idiom:
    return Idiom(word, f"the context of a task has no `{word}` any more", _CONTEXT[word])


def _plugin(node: ast.ClassDef) -> Iterator[Place]:
    if not any(ast.unparse(base).endswith("AirflowPlugin") for base in node.bases):
        return
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id in _PLUGIN:
                message = f"`{target.id}` of a plugin says nothing any more"
                yield Place(statement.lineno, Idiom(target.id, message, _PLUGIN[target.id]))
