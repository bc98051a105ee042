"""Every hour: what is new at GitHub goes to S3 as it is, a file for each organisation and kind of object.

Twelve task instances side by side. GitHub tells the ETag of each page; the next run sends it back, and for what
has not changed GitHub answers "304" without content: that task is *skipped*. When GitHub says "not so fast", the
task is tried again after as long as GitHub says.
"""

import json
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import Asset, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from include.github_stats import BUCKET, OBJECTS, OF_ORG, OF_REPO
from include.github_stats.github import GithubHook, WhenGithubSays

ORGS = Path(__file__).parents[1] / "include" / "github_stats" / "orgs.yaml"

raw = Asset("github_raw")


@task
def what_to_fetch() -> list[dict]:
    """Each organisation with each kind of object."""
    import yaml

    return [{"org": org, "kind": kind} for org in yaml.safe_load(ORGS.read_text()) for kind in OBJECTS]


@task(retries=3, retry_delay=timedelta(seconds=2), retry_policy=WhenGithubSays(), max_active_tis_per_dag=4)
def fetch(org: str, kind: str, *, run_id: str) -> str:
    """Write what is new to S3; returns the key."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    s3, github = S3Hook(), GithubHook()
    notes = f"etags/{org}/{kind}.json"
    known = json.loads(s3.read_key(notes, BUCKET)) if s3.check_for_key(notes, BUCKET) else {}
    if kind in OF_ORG:
        places = [(None, OF_ORG[kind].format(org=org))]
    else:
        names = [one["name"] for page in github.pages(OF_ORG["repos"].format(org=org), {}) for one in page]
        places = [(name, OF_REPO[kind].format(org=org, repo=name)) for name in names]
    lines = [
        json.dumps({"repo": repo, "item": item})
        for repo, path in places
        for page in github.pages(path, known)
        for item in page
    ]
    if not lines:
        raise AirflowSkipException("nothing is new")
    key = f"raw/{org}/{kind}/{run_id}.jsonl"
    s3.load_string("\n".join(lines), key, BUCKET, replace=True)
    s3.load_string(
        json.dumps(known), notes, BUCKET, replace=True
    )  # last: what is not kept is asked for again
    return key


@task(outlets=[raw], trigger_rule="none_failed_min_one_success")
def tell(keys: list[str], *, outlet_events) -> int:
    """Start the load with the files of this run."""
    outlet_events[raw].extra["keys"] = [key for key in keys if key]
    return len(outlet_events[raw].extra["keys"])


@dag(
    schedule="@hourly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=2)},
    tags=["github"],
    doc_md=__doc__,
)
def github_extract():
    tell(fetch.expand_kwargs(what_to_fetch()))


github_extract()
