"""Talks to a sandbox's REST API. One of two modules that import httpx; the other is `deploy/registry.py`."""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import quote

import httpx

from astro_cli.domain import airflow
from astro_cli.domain.dagrun import Backfill, Dag, DagFile, Dependency, ImportFault, PoolUse, Run, Task
from astro_cli.foundation.errors import AstroError, UnhealthyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

PAGE = 100  # the most that the API gives at once
ANY = "~"  # the API's word for "of any DAG" or "of any run"
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


class NotFoundError(AstroError):
    """Airflow has nothing of that name."""


class ConflictError(AstroError):
    """Airflow has that already, or something that excludes it."""


_Words = ParamSpec("_Words")
_Given = TypeVar("_Given")


def _understood(method: Callable[_Words, _Given]) -> Callable[_Words, _Given]:
    """The method of `AirflowApi`, by which an answer of another shape than Airflow's is an UnhealthyError."""

    @wraps(method)
    def asked(*words: _Words.args, **more: _Words.kwargs) -> _Given:
        try:
            return method(*words, **more)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise _stranger(str(getattr(words[0], "_url", ""))) from exc

    return asked


def _stranger(url: str) -> UnhealthyError:
    return UnhealthyError(f"what answers at {url} is not Airflow's API", hint="see `astro airflow ps`")


class AirflowApi:
    """One Airflow's API, at `url` (for example `http://localhost:8080`). Proxies are never used: it is local.

    A sandbox needs no login; a deployment does, by `token`.

    Whatever fails to answer is an `UnhealthyError`, whatever Airflow refuses another `AstroError`.
    """

    def __init__(
        self,
        url: str,
        *,
        seconds: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        token: str = "",
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._client = httpx.Client(
            base_url=url, timeout=seconds, trust_env=False, follow_redirects=False, transport=transport
        )
        if token:
            self._client.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> AirflowApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def is_ready(self, *, instance_name: str, version: str) -> bool:
        """Whether this is our Airflow and each of its components says that it is healthy.

        An open port proves nothing: any program may hold it. So the answer must also carry the version and
        the instance name of the sandbox.
        """
        try:
            health = self._client.get(airflow.HEALTH_PATH, timeout=2.0).json()
            if any(health[name]["status"] != "healthy" for name in COMPONENTS):
                return False
            told = self._client.get("/api/v2/version").json()["version"]
            name = self._client.get("/ui/config").json()["instance_name"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False
        return bool(told == version and name == instance_name)

    @_understood
    def log_in(self, user: str, password: str) -> None:
        """Have every later request made by a user of Airflow's own simple login.

        Raises:
            AstroError: Airflow refuses.
        """
        body = {"username": user, "password": password}
        try:
            answer = self._client.post("/auth/token", json=body)
            token = answer.raise_for_status().json()["access_token"]
        except (httpx.HTTPError, ValueError, KeyError) as exc:
            raise AstroError(f"Airflow did not let {user} in: {exc}") from exc
        self._client.headers["Authorization"] = f"Bearer {token}"

    @_understood
    def upsert(self, collection: str, entities: Sequence[dict[str, Any]]) -> None:
        """Create or overwrite `entities` in one request.

        Args:
            collection: `connections`, `variables` or `pools`.
            entities: bodies as the API's create calls take them.

        Raises:
            AstroError: Airflow refused one of them; nothing else is known about the rest.
        """
        if not entities:
            return
        action = {"action": "create", "action_on_existence": "overwrite", "entities": list(entities)}
        try:
            response = self._client.patch(f"/api/v2/{collection}", json={"actions": [action]})
        except httpx.HTTPError as exc:
            raise UnhealthyError(
                f"lost the connection to Airflow while writing {collection}: {exc}",
                hint="see `astro airflow ps`, then run `astro airflow start` again",
            ) from exc
        problems = _problems(response)
        if problems:
            raise AstroError(
                f"Airflow refused the {collection}: {problems[0]}",
                hint="correct the file, then run `astro airflow start` again",
                details=tuple(problems[1:]),
            )

    # DAGs, runs and tasks

    @_understood
    def dags(self) -> tuple[Dag, ...]:
        """Every DAG whose file is there."""
        return tuple(Dag.from_api(body) for body in self._all("/api/v2/dags", "dags"))

    @_understood
    def dag(self, dag_id: str) -> Dag:
        """One DAG; NotFoundError when it was never parsed."""
        return Dag.from_api(self._get(f"/api/v2/dags/{_part(dag_id)}"))

    @_understood
    def dag_files(self) -> dict[str, DagFile]:
        """What Airflow knows of every DAG file, by its path below `dags`."""
        files: dict[str, DagFile] = {}
        for body in self._all("/api/v2/dags", "dags"):
            path, file = str(body["relative_fileloc"]), DagFile.from_api(body)
            known = files.get(path)
            # A DAG that the file no longer has is listed for a while, with the time when it still had it.
            if known is None or known.parsed_at < file.parsed_at:
                files[path] = file
        return files

    def reparse(self, token: str) -> None:
        """Have a DAG file parsed at once, and the folder searched for new ones."""
        with suppress(ConflictError, NotFoundError):  # asked for already; or it vanished meanwhile
            self._call("PUT", f"/api/v2/parseDagFile/{_part(token)}")

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs begin."""
        self._call("PATCH", f"/api/v2/dags/{_part(dag_id)}", json={"is_paused": False})

    @_understood
    def runs(
        self, dag_id: str = ANY, *, limit: int = PAGE, **filters: str | Sequence[str]
    ) -> tuple[Run, ...]:
        """The newest runs, newest first; filters as the API names them, such as `state` and `run_type`."""
        path = f"/api/v2/dags/{_part(dag_id)}/dagRuns"
        return tuple(
            Run.from_api(body) for body in self._all(path, "dag_runs", most=limit, order_by="-id", **filters)
        )

    @_understood
    def run(self, dag_id: str, run_id: str) -> Run:
        """One run."""
        return Run.from_api(self._get(_run_path(dag_id, run_id)))

    @_understood
    def task_ids(self, dag_id: str) -> tuple[str, ...]:
        """The tasks that a DAG has now."""
        found = self._get(f"/api/v2/dags/{_part(dag_id)}/tasks")
        return tuple(str(each["task_id"]) for each in found["tasks"])

    def clear_task(self, dag_id: str, run_id: str, task_id: str, map_index: int | None) -> None:
        """Have one task of a run done again, or one instance of a mapped task; what comes after it stays."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id if map_index is None else [task_id, map_index]],
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self._call("POST", f"/api/v2/dags/{_part(dag_id)}/clearTaskInstances", json=body)

    @_understood
    def trigger(
        self, dag_id: str, *, logical_date: str | None, conf: Mapping[str, Any], run_id: str | None = None
    ) -> Run:
        """Make a run, by default with an id of Airflow's; ConflictError when the DAG has one for that date."""
        body = {"logical_date": logical_date, "conf": dict(conf)}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return Run.from_api(self._call("POST", f"/api/v2/dags/{_part(dag_id)}/dagRuns", json=body))

    @_understood
    def tasks(
        self, dag_id: str, run_id: str, *, limit: int | None = None, **filters: str | Sequence[str]
    ) -> tuple[Task, ...]:
        """The task instances of a run; `ANY` run is every one of the DAG. Filters as the API names them."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances"
        return tuple(Task.from_api(body) for body in self._all(path, "task_instances", most=limit, **filters))

    @_understood
    def count_tasks(self, state: str, **filters: str) -> int:
        """How many task instances of any DAG are in a state; filters as the API names them."""
        found = self._get(f"{_run_path(ANY, ANY)}/taskInstances", {"state": state, "limit": 1, **filters})
        return int(found["total_entries"] or 0)

    @_understood
    def dependencies(self, task: Task) -> tuple[Dependency, ...]:
        """What keeps a task instance from running; empty for one that has run."""
        found = self._get(f"{_task_path(task)}/dependencies", {"map_index": task.map_index})
        return tuple(Dependency(each["name"], each["reason"]) for each in found["dependencies"])

    @_understood
    def log(self, task: Task, try_number: int) -> tuple[Mapping[str, Any] | str, ...]:
        """The messages of one try so far, for `dagrun.log_lines`; NotFoundError before it began."""
        found = self._get(
            f"{_task_path(task)}/logs/{try_number}",
            {"map_index": task.map_index, "full_content": "true"},
            accept="application/json",
        )
        return tuple(found["content"])

    # the state of Airflow

    @_understood
    def health(self) -> dict[str, str]:
        """The components and what each says of itself: `healthy`, `unhealthy` or `unknown`."""
        found = self._get(airflow.HEALTH_PATH)
        return {name: (found.get(name) or {}).get("status") or "unknown" for name in COMPONENTS}

    @_understood
    def heartbeats(self) -> dict[str, str | None]:
        """The last sign of life of each component that gives one: an ISO 8601 time, or None before the first."""
        found = self._get(airflow.HEALTH_PATH)
        signs = {name: (found.get(name) or {}).get(f"latest_{name}_heartbeat") for name in COMPONENTS}
        return {name: sign for name, sign in signs.items() if name != COMPONENTS[0]}

    @_understood
    def import_faults(self) -> tuple[ImportFault, ...]:
        """The DAG files that cannot be imported."""
        found = self._all("/api/v2/importErrors", "import_errors")
        return tuple(ImportFault(each["filename"], each["stack_trace"]) for each in found)

    @_understood
    def pool_uses(self) -> tuple[PoolUse, ...]:
        """How full each pool is."""
        found = self._all("/api/v2/pools", "pools")
        return tuple(PoolUse(each["name"], each["slots"], each["open_slots"]) for each in found)

    @_understood
    def option(self, section: str, name: str) -> str | None:
        """A value of Airflow's configuration; None where it is not shown."""
        try:
            found = self._get(
                f"/api/v2/config/section/{_part(section)}/option/{_part(name)}", accept="application/json"
            )
            return str(found["sections"][0]["options"][0]["value"])
        except (NotFoundError, LookupError):
            return None

    # backfills

    @_understood
    def backfill_dates(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        """The logical dates a backfill would run; `body` as the API's `BackfillPostBody`."""
        found = self._call("POST", "/api/v2/backfills/dry_run", json=dict(body))
        return tuple(each["logical_date"] or each["partition_key"] for each in found["backfills"])

    @_understood
    def create_backfill(self, body: Mapping[str, Any]) -> Backfill:
        """Begin a backfill; ConflictError when one of this DAG goes on."""
        return _backfill(self._call("POST", "/api/v2/backfills", json=dict(body)))

    @_understood
    def backfill(self, backfill_id: int) -> Backfill:
        """One backfill."""
        return _backfill(self._get(f"/api/v2/backfills/{backfill_id}"))

    # objects

    @_understood
    def objects(self, collection: str) -> tuple[dict[str, Any], ...]:
        """Every entry of `connections`, `variables` or `pools`, secrets masked by Airflow."""
        return tuple(dict(each) for each in self._all(f"/api/v2/{collection}", collection))

    # the wire

    def _all(
        self, path: str, key: str, *, most: int | None = None, **filters: str | Sequence[str]
    ) -> list[dict[str, Any]]:
        """The entries of a collection, page by page; at most `most` of them."""
        found: list[dict[str, Any]] = []
        while True:
            limit = PAGE if most is None else min(PAGE, most - len(found))
            page = self._get(path, {"limit": limit, "offset": len(found), **filters})
            entries = page[key]
            found += entries
            enough = most is not None and len(found) >= most
            if enough or len(entries) < limit or len(found) >= (page.get("total_entries") or 0):
                return found

    def _get(self, path: str, query: Mapping[str, Any] | None = None, *, accept: str = "*/*") -> Any:  # noqa: ANN401 - JSON
        return self._call("GET", path, params=query, headers={"accept": accept})

    def _call(self, method: str, path: str, **options: Any) -> Any:  # noqa: ANN401 - httpx's and JSON
        look = "see `astro airflow ps` and `astro airflow logs api-server`"
        try:
            response = self._client.request(method, path, **options)
        except httpx.TimeoutException as exc:
            raise UnhealthyError(
                f"Airflow's API at {self._url} did not answer within {self._seconds:.0f} seconds", hint=look
            ) from exc
        except httpx.HTTPError as exc:
            raise UnhealthyError(
                f"there is no connection to Airflow's API at {self._url}: {exc or type(exc).__name__}",
                hint=look,
            ) from exc
        if response.is_server_error:
            raise UnhealthyError(f"Airflow's API failed: {_refusal(response)}", hint=look)
        if response.is_error:
            if _detail(response) is None:
                raise _stranger(self._url)
            kind = {404: NotFoundError, 409: ConflictError}.get(response.status_code, AstroError)
            raise kind(f"Airflow refused: {_refusal(response)}")
        try:
            return response.json()
        except (ValueError, RecursionError) as exc:
            raise _stranger(self._url) from exc


def _part(text: str) -> str:
    """One part of a path, whatever is in it."""
    return quote(text, safe="~")


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{_part(dag_id)}/dagRuns/{_part(run_id)}"


def _task_path(task: Task) -> str:
    return f"{_run_path(task.dag_id, task.run_id)}/taskInstances/{_part(task.task_id)}"


def _backfill(body: Mapping[str, Any]) -> Backfill:
    return Backfill(body["id"], body["dag_id"], body["completed_at"])


def _refusal(response: httpx.Response) -> str:
    """The reason in an error answer, in a sentence."""
    detail = _detail(response)
    if detail is None:
        return f"HTTP {response.status_code}"
    if isinstance(detail, dict):
        detail = detail.get("reason") or detail.get("message") or detail
    if isinstance(detail, list):
        detail = "; ".join(
            f"{'.'.join(str(part) for part in each.get('loc', ())[1:])}: {each.get('msg')}"
            if isinstance(each, dict)
            else str(each)
            for each in detail
        )
    return str(detail).splitlines()[0] if str(detail) else f"HTTP {response.status_code}"


def _detail(response: httpx.Response) -> Any:  # noqa: ANN401 - JSON
    """What Airflow gives as a reason with every error; None where it is not Airflow that answers."""
    try:
        return response.json()["detail"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _problems(response: httpx.Response) -> list[str]:
    try:
        body = response.json()
    except ValueError:
        if response.is_error:
            return [f"HTTP {response.status_code}"]
        raise
    if response.is_error:
        detail = body.get("detail", body) if isinstance(body, dict) else body
        return [str(detail)]
    return [str(error.get("error", error)) for error in (body.get("create") or {}).get("errors") or []]
