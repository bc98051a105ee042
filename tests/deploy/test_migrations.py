"""A release whose Airflow has one migration more: as a newer Airflow, made from the one that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from astro_cli.foundation import labels
from tests.deploy.deployed import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deploy.deployed import Deployed

MIGRATION = """\
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = depends_on = None
airflow_version = "9.9.9"


def upgrade():
    op.execute("CREATE TABLE shop_mark (id integer)")
    {then}


def downgrade():
    raise NotImplementedError
"""
DOCKERFILE = """
USER root
COPY migration.py /tmp/migration.py
WORKDIR /tmp
RUN cp migration.py "$(python -c 'import airflow; print(*airflow.__path__)')/migrations/versions/9999_shop.py"
WORKDIR /opt/airflow
LABEL {label}={revision}
USER astro
"""


def sql(live: Deployed, statement: str) -> str:
    """What the deployed database answers."""
    program = ["psql", "-qAt", "-U", "airflow", "-h", "/tmp", "-d", "airflow", "-c", statement]
    return live.inside("postgres", program)


def heads(live: Deployed) -> str:
    return sql(live, "SELECT version_num FROM alembic_version")


@pytest.fixture
def settled(live: Deployed) -> Iterator[Deployed]:
    """The deployment as it is; afterwards the project is again what it was."""
    live.take_back()
    live.deploy()
    dockerfile = live.astro.folder / "Dockerfile"
    text = dockerfile.read_text()
    yield live
    dockerfile.write_text(text)
    (live.astro.folder / "migration.py").unlink(missing_ok=True)


def add_migration(live: Deployed, revision: str, then: str) -> None:
    dockerfile = live.astro.folder / "Dockerfile"
    live.astro.write("migration.py", MIGRATION.format(revision=revision, before=heads(live), then=then))
    live.astro.write(
        "Dockerfile",
        dockerfile.read_text() + DOCKERFILE.format(label=labels.MIGRATION_HEADS, revision=revision),
    )


def test_a_migration_that_fails_replaces_nothing(settled: Deployed) -> None:
    before, head = settled.containers(), heads(settled)
    add_migration(settled, "shopfails", 'op.execute("SELECT no_such_function()")')
    assert settled.astro.json("deploy", NAME, "--dry-run")["plan"]["migration"] is True
    error = settled.deploy(code=1)
    assert "migration" in error["message"]
    assert "no_such_function" in "\n".join(error["details"])
    assert settled.containers() == before, "services were replaced"
    assert heads(settled) == head
    assert sql(settled, "SELECT to_regclass('shop_mark')") == ""
    assert settled.releases()[-1]["result"] == "failed"
    assert settled.step() == ""
    assert settled.run()


def test_a_migration_is_backed_up_and_a_rollback_over_it_brings_the_backup(settled: Deployed) -> None:
    head, release, before = heads(settled), settled.release(), settled.run()
    settled.request("POST", "/api/v2/variables", json={"key": f"before-{release}", "value": "encrypted"})
    add_migration(settled, "shopworks", "pass")
    settled.deploy()
    assert heads(settled) == "shopworks"
    assert settled.run() == before
    settled.request("POST", "/api/v2/variables", json={"key": f"after-{release}", "value": "late"})
    refused = settled.astro("deployment", "rollback", code=2)
    assert "--restore-database" in refused.stderr
    assert heads(settled) == "shopworks"
    settled.astro("deployment", "rollback", "--restore-database")
    assert heads(settled) == head
    assert settled.variable(f"before-{release}") == "encrypted", "the Fernet key did not survive"
    assert settled.variable(f"after-{release}") is None
    assert settled.run() == before
