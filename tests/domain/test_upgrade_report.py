"""What an upgrade test says of what it found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from astro_cli.domain.parse_report import ParsedFile, ParseReport, Problem
from astro_cli.domain.upgrade_report import (
    TITLE,
    DagTest,
    Finding,
    Migration,
    PackageChange,
    UpgradeReport,
    as_data,
    as_markdown,
    compare_packages,
    installed,
    read_findings,
    shortened,
    summary,
)


def parsed(path: str, *dag_ids: str, error: str = "", warning: str = "") -> ParsedFile:
    errors = (Problem("import", error, error="ImportError", file=path, line=2),) if error else ()
    warnings = (Problem("python", warning, file=path),) if warning else ()
    return ParsedFile(path, dag_ids, len(dag_ids), 0.1, errors, warnings)


def parsing(*files: ParsedFile) -> ParseReport:
    return ParseReport(files, 1.0)


FINE = UpgradeReport(
    project="shop",
    now="3.3.2",
    then="3.4.0",
    python_now="3.13.1",
    python_then="3.13.1",
    migration=Migration("migrated", "aaa", "bbb", 2.5),
    requirements="",
    parsed_now=parsing(parsed("dags/a.py", "a")),
    parsed_then=parsing(parsed("dags/a.py", "a")),
    tests=None,
    findings=(),
    findings_missing="",
    packages=(),
)


def test_nothing_breaks_when_all_goes_well():
    assert FINE.breaks == ()
    assert as_data(FINE)["ok"] is True
    assert "nothing was found that breaks" in list(summary(FINE))
    assert "**Nothing was found that breaks.**" in as_markdown(FINE, "2026-11-22")


def test_a_file_that_fails_only_with_the_other_version_breaks_with_its_place_in_the_report():
    report = replace(FINE, parsed_then=parsing(parsed("dags/a.py", error="no RetryPolicy")))
    assert report.breaks == ("dags/a.py cannot be imported: ImportError: no RetryPolicy",)
    assert "error: dags/a.py:2: ImportError: no RetryPolicy" in as_markdown(report, "today")


def test_a_file_that_fails_with_both_versions_is_told_and_breaks_nothing():
    broken = parsing(parsed("dags/a.py", "a"), parsed("dags/b.py", error="old"))
    report = replace(FINE, parsed_now=broken, parsed_then=broken)
    assert report.breaks == ()
    assert "- dags/b.py: ImportError: old" in as_markdown(report, "today")
    assert "  DAG files     2 parsed, 0 broken, 1 broken with 3.3.2 already" in list(summary(report))


def test_a_dag_that_vanishes_without_an_error_breaks():
    report = replace(FINE, parsed_then=parsing(parsed("dags/a.py")))
    assert report.breaks == ("the DAG a is no longer found",)


def test_a_project_without_any_dag_is_no_success():
    assert replace(FINE, parsed_now=parsing(), parsed_then=parsing()).breaks == ("there is no DAG to check",)


@pytest.mark.parametrize("state", ["failed", "newer"])
def test_a_database_that_cannot_be_migrated_breaks_with_its_last_lines_in_the_report(state: str):
    report = replace(FINE, migration=Migration(state, reason="it is too new", lines=("boom```", "bang")))
    assert report.breaks == ("the metadata database cannot be migrated: it is too new",)
    assert "````text\nboom```\nbang\n````" in as_markdown(report, "today")


def test_an_untested_database_is_said_wherever_success_is():
    report = replace(FINE, migration=Migration("untested", reason="the sandbox is not running"))
    assert report.breaks == ()
    assert "nothing was found that breaks; the database was not tested" in list(summary(report))
    assert "breaks; the database was not tested.**" in as_markdown(report, "today")


def test_requirements_that_cannot_be_installed_break_and_say_that_no_dag_was_checked():
    report = replace(FINE, requirements='requirement "x==1" cannot be installed', parsed_then=None)
    assert report.breaks == ('requirement "x==1" cannot be installed',)
    assert as_data(report)["dags"] is None
    assert any("not checked" in line for line in summary(report))


def test_a_failed_test_breaks_with_its_log_in_the_report():
    report = replace(FINE, tests=(DagTest("a", False, 3.0, ("KeyError: 'price'",)), DagTest("b", True, 1.0)))
    assert report.breaks == ("the test of a fails",)
    text = as_markdown(report, "today")
    assert "| a | **failed** | 3.0 |" in text
    assert "KeyError: 'price'" in text


def test_only_warnings_that_are_new_are_told():
    same = "dags/a.py:3: UserWarning: old"
    report = replace(
        FINE,
        parsed_now=parsing(parsed("dags/a.py", "a", warning=same)),
        parsed_then=parsing(parsed("dags/a.py", "a", warning=same), parsed("dags/b.py", "b", warning="new")),
    )
    assert [one.message for one in report.new_warnings] == ["new"]


def test_paths_of_the_environment_stay_out_of_sentences():
    error = (
        "cannot import name 'X' from 'airflow.sdk' (/home/me/env/lib/site-packages/airflow/sdk/__init__.py)"
    )
    report = replace(FINE, parsed_then=parsing(parsed("dags/a.py", error=error)))
    assert report.breaks == (
        "dags/a.py cannot be imported: ImportError: cannot import name 'X' from 'airflow.sdk'",
    )


def test_packages_are_compared_by_normal_names_and_own_and_major_ones_are_marked():
    now = installed(
        ["Uses_Dots==1.2", "same==1", "gone==1.0", "minor==2.1", "git @ https://x/y@abc", "-e /x"]
    )
    then = installed(["uses.dots==2.0", "same==1", "minor==2.2", "git @ https://x/y@def", "new==1!1"])
    changes = compare_packages(now, then, ["uses-dots[extra]>=1  ", "-r more.txt", "minor"])
    assert changes == (
        PackageChange("git", "https://x/y@abc", "https://x/y@def", own=False),
        PackageChange("gone", "1.0", None, own=False),
        PackageChange("minor", "2.1", "2.2", own=True),
        PackageChange("new", None, "1!1", own=False),
        PackageChange("uses-dots", "1.2", "2.0", own=True),
    )
    assert [one.name for one in changes if one.major] == ["uses-dots"]
    rows = [
        line for line in as_markdown(replace(FINE, packages=changes), "t").splitlines() if "yours" in line
    ]
    assert rows == ["| uses-dots | 1.2 | 2.0 | yours, **major** |", "| minor | 2.1 | 2.2 | yours |"]


def test_ruffs_findings_keep_place_and_fix_and_pipes_do_not_end_a_cell():
    told = [
        {
            "code": "AIR301",
            "filename": "/p/dags/a.py",
            "location": {"row": 5, "column": 1},
            "message": "`a|b` is removed",
            "fix": {"message": "Use `schedule`"},
        },
        {"code": None, "filename": "/p/dags/Z.py", "location": {"row": 1}, "message": "broken", "fix": None},
    ]
    findings = read_findings(told, "/p")
    assert findings == (
        Finding("syntax", "dags/Z.py", 1, "broken", ""),
        Finding("AIR301", "dags/a.py", 5, "`a|b` is removed", "Use `schedule`"),
    )
    text = as_markdown(replace(FINE, findings=findings), "today")
    assert "| dags/a.py:5 | AIR301 | `a\\|b` is removed | Use `schedule` |" in text


def test_ruff_that_could_not_run_is_said():
    report = replace(FINE, findings=None, findings_missing="the package index cannot be reached")
    assert "  ruff          not run: the package index cannot be reached" in list(summary(report))
    assert report.breaks == ()


def test_uvs_explanation_is_shortened_to_its_innermost_cause():
    said = (
        "error: No solution found when resolving dependencies",
        "  cause: Because the current Python version (3.14.1) does not satisfy Python>=3.9,<3.13 and x==3.0.6",
        "         depends on Python>=3.9,<3.13, we can conclude that x==3.0.6 cannot be used.",
    )
    assert shortened(said) == "the current Python version (3.14.1) does not satisfy Python>=3.9,<3.13"


def test_a_report_begins_with_the_line_by_which_the_next_one_knows_it():
    assert as_markdown(FINE, "today").startswith(f"{TITLE}: shop, Airflow 3.3.2 to 3.4.0\n")
