"""`astro airflow pytest` runs these in the sandbox, on a database of their own, against stand-ins."""

import json
import os
import urllib.request

import github_extract
import github_load
import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk.exceptions import AirflowSkipException

from include.github_stats import BUCKET, row
from include.github_stats.github import GithubHook, RateLimited, WhenGithubSays

STUB = os.environ["ASTRO_SERVICE_HTTP_STUB_URL"]


def stub(method: str, path: str):
    """The stand-in's own controls."""
    with urllib.request.urlopen(urllib.request.Request(f"{STUB}/__stub__/{path}", method=method)) as answer:
        return json.loads(answer.read() or "null")


@pytest.fixture(autouse=True)
def as_at_first():
    """Before and after: GitHub has its bad moments once more, and nothing was asked of it yet."""
    forget()
    yield
    forget()


def forget() -> None:
    stub("POST", "reset")
    s3 = S3Hook()
    s3.delete_objects(BUCKET, s3.list_keys(BUCKET) or [])


def test_every_dag_file_can_be_imported(dag_bag):
    assert dag_bag.import_errors == {}


def test_a_list_is_read_to_its_last_page():
    assert [len(page) for page in GithubHook().pages("repos/acme/anvil/issues", {})] == [3, 3, 2]


def test_not_so_fast_is_an_error_of_its_own_with_the_seconds_to_wait():
    with pytest.raises(RateLimited) as caught:
        list(GithubHook().pages("orgs/globex/members", {}))

    assert WhenGithubSays().evaluate(caught.value, 1, 3).retry_delay.total_seconds() == 1


def test_what_has_not_changed_is_not_sent_again():
    known = {}

    assert [len(page) for page in GithubHook().pages("orgs/acme/repos", known)] == [3]
    assert list(GithubHook().pages("orgs/acme/repos", known)) == []


def test_a_whole_extract_survives_bad_moments_and_loading_it_twice_is_like_once(run_dag):
    run = run_dag("github_extract")
    keys = run.xcom("fetch")

    assert (run.state, len(keys)) == ("success", 12)
    for _ in range(2):
        assert sum(github_load.load.function(key) for key in keys) == 91
        assert PostgresHook("warehouse").get_first("SELECT count(*) FROM github_items")[0] == 91


def test_what_has_not_changed_since_the_last_run_is_skipped():
    fetch = github_extract.fetch.function
    fetch("acme", "repos", run_id="first")

    with pytest.raises(AirflowSkipException):
        fetch("acme", "repos", run_id="second")


@pytest.mark.parametrize(
    ("kind", "item", "expected"),
    [
        ("members", {"id": 1, "login": "wile"}, ("members", 1, "acme", None, "wile", None, None)),
        (
            "pulls",
            {"id": 2, "user": {"login": "sam"}, "created_at": "c", "merged_at": "m", "closed_at": "x"},
            ("pulls", 2, "acme", None, "sam", "c", "m"),
        ),
        (
            "commits",
            {"id": 3, "author": None, "commit": {"date": "d"}},
            ("commits", 3, "acme", None, None, "d", None),
        ),
    ],
)
def test_an_item_becomes_a_row(kind, item, expected):
    assert row(kind, "acme", None, item) == expected
