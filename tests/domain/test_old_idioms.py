"""Old idioms, one by one, in the style of the DAGs that were public in 2018."""

from __future__ import annotations

import pytest

from astro_cli.domain.old_idioms import in_python, in_settings
from astro_cli.domain.scaffold import list_templates, own_template

DAG_2018 = """
from airflow import DAG
from airflow.models import Variable, TaskInstance
from airflow.operators import GithubToS3Operator
from airflow.operators.dummy_operator import DummyOperator
from airflow.contrib.hooks.salesforce_hook import SalesforceHook
from airflow.utils.db import provide_session

default_args = {'owner': 'airflow', 'email_on_failure': False, 'sla': HOUR}
dag = DAG('github', schedule_interval='@hourly', default_args=default_args)

def branch(execution_date, **kwargs):
    return kwargs['tomorrow_ds'] + kwargs.get('next_ds')

@provide_session
def reset(session=None):
    session.query(TaskInstance).delete()

load = S3ToRedshiftOperator(
    task_id='load',
    provide_context=True,
    s3_key='github/{{ ds }}/'
           '{{ next_execution_date }}.json',
    trigger_rule='dummy',
)
"""
PLUGIN_2018 = """
from airflow.plugins_manager import AirflowPlugin
from flask import Blueprint
from flask_admin import BaseView

class ReportOperator(BaseOperator):
    def execute(self, context):
        self.xcom_push(context, 'date', context['execution_date'])

class ReportPlugin(AirflowPlugin):
    name = 'report'
    operators = [ReportOperator]
    admin_views = [View()]
    flask_blueprints = [Blueprint('report', __name__)]
"""


def found(source: str) -> list[tuple[int, str]]:
    return [(place.line, place.idiom.word) for place in in_python(source)]


def test_a_dag_of_2018_gets_one_finding_for_each_old_idiom():
    assert found(DAG_2018) == [
        (3, "airflow.models.TaskInstance"),
        (4, "airflow.operators"),
        (5, "airflow.operators.dummy_operator"),
        (6, "airflow.contrib.hooks.salesforce_hook"),
        (7, "airflow.utils.db"),
        (9, "email_on_failure"),
        (9, "sla"),
        (10, "schedule_interval"),
        (12, "execution_date"),
        (13, "next_ds"),
        (13, "tomorrow_ds"),
        (21, "provide_context"),
        (22, "next_execution_date"),
        (24, "dummy"),
    ]


def test_a_plugin_of_2018_gets_one_finding_for_each_old_idiom():
    assert found(PLUGIN_2018) == [
        (3, "flask.Blueprint"),
        (4, "flask_admin"),
        (8, "execution_date"),
        (8, "xcom_push"),
        (12, "operators"),
        (13, "admin_views"),
        (14, "flask_blueprints"),
    ]


def test_every_finding_says_what_to_write_instead():
    assert all(place.idiom.instead and place.idiom.message for place in in_python(DAG_2018 + PLUGIN_2018))


def test_what_works_but_looks_old_does_not_break():
    (place,) = in_python("from airflow.models import DagRun")
    assert not place.idiom.breaks


@pytest.mark.parametrize(
    "source",
    [
        "execution_date = 1",
        "print('execution_date')",
        "row['sla']; settings = {'sla': 1}",
        "from .operators import X",
        "from airflow.providers.standard.operators.bash import BashOperator",
        "class Plugin: operators = []",
        "def f(timetable): ...",
        "f'{{ {x} }} next_ds'",
    ],
)
def test_what_only_sounds_alike_is_left_alone(source: str):
    assert found(source) == []


@pytest.mark.parametrize("template", list_templates())
def test_our_own_templates_have_no_old_idiom(template: str):
    for path, entry in own_template(template).files.items():
        if path.suffix == ".py":
            assert found(entry.content.decode()) == [], path


def test_python_2_is_said_with_its_line():
    (place,) = in_python("x = 1\nprint 'hello'\n")
    assert place.line == 2
    assert "no Python 3" in place.idiom.message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("AIRFLOW__CORE__EXECUTOR=SequentialExecutor", "SequentialExecutor"),
        ("ENV AIRFLOW__CORE__EXECUTOR=MesosExecutor", "MesosExecutor"),
        ("[core]\nexecutor = CeleryKubernetesExecutor", "CeleryKubernetesExecutor"),
        ("  - AIRFLOW__CORE__SQL_ALCHEMY_CONN=postgresql://x", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"),
    ],
)
def test_executors_and_options_that_are_gone_are_found_in_settings(text: str, word: str):
    assert [place.idiom.word for place in in_settings(text)] == [word]


def test_executors_that_are_there_and_comments_are_left_alone():
    assert in_settings("AIRFLOW__CORE__EXECUTOR=LocalExecutor\n# executor = MesosExecutor\n") == []
