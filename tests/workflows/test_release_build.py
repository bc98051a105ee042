"""What of a project a release is made from, and what DAGs alone cannot bring."""

from __future__ import annotations

import pytest

from astro_cli.domain.releases import Release
from astro_cli.foundation.errors import GateError
from astro_cli.workflows.release_build import dag_files, environment_files, require_same_environment


def release(environment: dict[str, str]) -> Release:
    return Release(7, "", "sha256:1", "c", "3.3.2", "h", {}, environment=environment)


def test_dags_stand_on_packages_the_dockerfile_and_plugins(tmp_path):
    for name in (
        "dags/a.py",
        "include/b.py",
        "plugins/sub/p.py",
        "requirements.txt",
        "Dockerfile",
        "README.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert set(dag_files(tmp_path)) == {"dags/a.py"}
    assert set(environment_files(tmp_path)) == {"Dockerfile", "plugins/sub/p.py", "requirements.txt"}


def test_dags_alone_are_refused_where_something_they_stand_on_is_changed_new_or_gone():
    current = release({"requirements.txt": "1", "plugins/p.py": "1", "Dockerfile": "1"})
    with pytest.raises(GateError, match=r"since release 7: packages\.txt, plugins/p\.py, requirements\.txt"):
        require_same_environment(current, {"requirements.txt": "2", "packages.txt": "1", "Dockerfile": "1"})


def test_dags_alone_are_let_through_where_nothing_else_changed_or_that_is_not_known():
    files = {"requirements.txt": "1"}
    require_same_environment(release(files), dict(files))
    require_same_environment(release({}), files)
    require_same_environment(release(files), {})
