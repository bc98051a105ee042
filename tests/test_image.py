"""The context, the rewritten Dockerfile, the host's settings and the inputs hash: all without an engine."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from astro_cli import image
from astro_cli.errors import ProjectError


def rules(*lines: str) -> image.IgnoreRules:
    return image.IgnoreRules("\n".join(lines))


@pytest.mark.parametrize(
    ("lines", "name", "ignored"),
    [
        (["logs"], "logs", True),
        (["logs"], "logs/a/b.txt", True),
        (["logs"], "src/logs", False),
        (["/logs/"], "logs/x", True),
        (["*.pyc"], "a.pyc", True),
        (["*.pyc"], "dags/a.pyc", False),
        (["**/*.pyc"], "a.pyc", True),
        (["**/*.pyc"], "dags/deep/a.pyc", True),
        (["**/__pycache__"], "dags/__pycache__/a.pyc", True),
        (["dags/**"], "dags/a/b", True),
        (["dags/**"], "dags", False),
        (["a?c"], "abc", True),
        (["a?c"], "a/c", False),
        (["[a-c]x"], "bx", True),
        (["[^a-c]x"], "bx", False),
        (["*.md", "!README.md"], "README.md", False),
        (["!README.md", "*.md"], "README.md", True),
        (["dir", "!dir/keep.txt"], "dir/keep.txt", False),
        (["dir", "!dir/keep.txt"], "dir/other.txt", True),
        (["# comment", "", "."], "anything", False),
        (["a/../b"], "b", True),
        ([r"a\*b"], "a*b", True),
        ([r"a\*b"], "axb", False),
        (["a.b"], "axb", False),
        (["**"], ".env", True),
    ],
)
def test_dockerignore_rules_are_dockers(lines: list[str], name: str, ignored: bool) -> None:
    assert rules(*lines).ignores(name) is ignored


def test_a_malformed_pattern_is_named_with_its_line() -> None:
    with pytest.raises(ProjectError, match=r"\.dockerignore:2: `\[a`"):
        rules("ok", "[a")


def project(folder: Path) -> Path:
    for name, text in {
        "Dockerfile": "FROM x\n",
        ".dockerignore": "*.log\nsecret\n!secret/public.txt\nDockerfile\n",
        "dags/a.py": "a",
        "x.log": "no",
        "secret/key": "no",
        "secret/public.txt": "yes",
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("dags")
    os.mkfifo(folder / "pipe")
    return folder


def archive(files: tuple[image.ContextFile, ...]) -> bytes:
    stream = io.BytesIO()
    image.write_context(files, stream)
    return stream.getvalue()


def test_the_context_holds_what_dockerignore_leaves_and_keeps_links(tmp_path: Path) -> None:
    files = image.project_context(project(tmp_path))

    with tarfile.open(fileobj=io.BytesIO(archive(files))) as tar:
        entries = {entry.name: entry for entry in tar}
    assert sorted(entries) == [
        ".dockerignore", "Dockerfile", "dags", "dags/a.py", "link", "run.sh", "secret/public.txt",
    ]  # fmt: skip
    assert entries["link"].issym()
    assert entries["link"].linkname == "dags"
    assert (entries["run.sh"].mode, entries["dags/a.py"].mode) == (0o755, 0o644)


def test_the_context_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    folder = project(tmp_path)
    before = archive(image.project_context(folder))
    os.utime(folder / "dags/a.py", (1, 1))
    (folder / "dags/a.py").chmod(0o600)

    assert archive(image.project_context(folder)) == before


def hash_of(folder: Path, **changes: object) -> str:
    options = {
        "engine_image_id": "sha256:1",
        "settings": image.HostSettings(),
        "mounted": ("dags", "plugins"),
        **changes,
    }
    return image.inputs_hash("FROM x\n", image.project_context(folder), **options)  # type: ignore[arg-type]


def test_the_inputs_hash_changes_with_what_a_build_would_use(tmp_path: Path) -> None:
    folder = project(tmp_path)
    before = hash_of(folder)
    changed = {
        hash_of(folder, engine_image_id="sha256:2"),
        hash_of(folder, settings=image.HostSettings(ca_bundle=b"x")),
        hash_of(folder, arguments={"A": "1"}),
    }
    (folder / "run.sh").chmod(0o644)
    changed.add(hash_of(folder))
    (folder / "run.sh").write_text("#!/bin/bash\n")
    changed.add(hash_of(folder))

    assert before not in changed
    assert len(changed) == 5


def test_the_inputs_hash_ignores_mounted_folders_and_proxies(tmp_path: Path) -> None:
    folder = project(tmp_path)
    before = hash_of(folder)
    (folder / "dags/new.py").write_text("new")
    (folder / "y.log").write_text("ignored")

    proxied = image.HostSettings(proxies=(("http_proxy", "http://proxy.invalid"),))
    assert hash_of(folder, settings=proxied) == before


DOCKERFILE = """\
# RUN not this
ARG BASE=x
FROM ${BASE} AS one
RUN echo a \\
  # RUN a comment
  && RUN=1 \\

  echo b
run --network=none ["true"]
RUN <<EOF
RUN inside
