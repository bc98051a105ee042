"""Which database of a sandbox can go on being used."""

from __future__ import annotations

import pytest

from astro_cli.domain.airflow import check_database
from astro_cli.foundation.errors import ProjectError


@pytest.mark.parametrize("made_by", ["3.3.2", "3.3.1", "3.0.10", "0"])
def test_a_database_of_the_same_or_an_older_airflow_goes_on(made_by: str):
    check_database("17", made_by, postgres_major="17", airflow_version="3.3.2")


@pytest.mark.parametrize("made_by", ["3.3.3", "3.3.10", "4.0.0"])
def test_a_database_of_a_newer_airflow_cannot_go_back(made_by: str):
    with pytest.raises(ProjectError, match=f"made by Airflow {made_by}, the project now has Airflow 3.3.2"):
        check_database("17", made_by, postgres_major="17", airflow_version="3.3.2")


@pytest.mark.parametrize("made_by", ["16", "18", None])
def test_a_database_of_another_postgres_is_refused(made_by: str | None):
    with pytest.raises(ProjectError, match=f"made by Postgres {made_by}, this astro runs Postgres 17"):
        check_database(made_by, "3.3.2", postgres_major="17", airflow_version="3.3.2")
