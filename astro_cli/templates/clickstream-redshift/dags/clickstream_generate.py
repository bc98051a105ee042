"""Puts two hours of made-up events of every customer into S3, and returns what must then arrive in the warehouse.

Some files come late: a run with `{"late": true}` brings those.
"""

import json
from datetime import datetime

from airflow.sdk import Variable, dag, task

from include.clickstream import BUCKET, VARIABLE, marker_of


@task
def generate(params: dict) -> dict:
    """Write the files; returns the sheet of what must arrive."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from include.clickstream.generate import files, hours, sheet

    customers, when = json.loads(Variable.get(VARIABLE)), hours(params["first_hour"], params["hours"])
    made = files(customers, when)
    s3 = S3Hook()
    for file in made:
        if file.kind == ("late" if params["late"] else "present"):
            s3.load_bytes(file.content, file.key, BUCKET, replace=True)
    for customer in customers:
        for hour in when:
            s3.load_string("", marker_of(customer["name"], hour), BUCKET, replace=True)
    expected = sheet(made, late=params["late"])
    print(json.dumps(expected, indent=2))
    return expected


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"first_hour": "2026-01-01T00", "hours": 2, "late": False},
    is_paused_upon_creation=False,
    tags=["clickstream"],
    doc_md=__doc__,
)
def clickstream_generate():
    generate()


clickstream_generate()
