"""The context, the rewritten Dockerfile, the host's settings and the inputs hash: all without an engine."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from astro_cli.domain import build_context, host_settings, image
from astro_cli.foundation.errors import ProjectError

if TYPE_CHECKING:
    from pathlib import Path


def rules(*lines: str) -> build_context.IgnoreRules:
    return build_context.IgnoreRules("\n".join(lines))


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


def archive(files: tuple[build_context.ContextFile, ...]) -> bytes:
    stream = io.BytesIO()
    build_context.write_context(files, stream)
    return stream.getvalue()


def test_the_context_holds_what_dockerignore_leaves_and_keeps_links(tmp_path: Path) -> None:
    files = build_context.project_context(project(tmp_path))

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
    before = archive(build_context.project_context(folder))
    os.utime(folder / "dags/a.py", (1, 1))
    (folder / "dags/a.py").chmod(0o600)

    assert archive(build_context.project_context(folder)) == before


def hash_of(folder: Path, **changes: object) -> str:
    options = {
        "engine_image_id": "sha256:1",
        "settings": host_settings.HostSettings(),
        "mounted": ("dags", "plugins"),
        **changes,
    }
    return image.inputs_hash("FROM x\n", build_context.project_context(folder), **options)  # type: ignore[arg-type]


def test_the_inputs_hash_changes_with_what_a_build_would_use(tmp_path: Path) -> None:
    folder = project(tmp_path)
    before = hash_of(folder)
    changed = {
        hash_of(folder, engine_image_id="sha256:2"),
        hash_of(folder, settings=host_settings.HostSettings(ca_bundle=b"x")),
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

    proxied = host_settings.HostSettings(proxies=(("http_proxy", "http://proxy.invalid"),))
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
EOF
COPY <<-'END' <<TWO /x
\tRUN inside
\tEND
FROM inside
TWO
LABEL a="RUN x"
from scratch
ONBUILD RUN later
RUN \\
  last"""

REWRITTEN = """\
# RUN not this
ARG BASE=x
FROM ${BASE} AS one
ARG K=v
RUN --mount=type=cache,target=/c echo a \\
  # RUN a comment
  && RUN=1 \\

  echo b
run --mount=type=cache,target=/c --network=none ["true"]
RUN --mount=type=cache,target=/c <<EOF
RUN inside
EOF
COPY <<-'END' <<TWO /x
\tRUN inside
\tEND
FROM inside
TWO
LABEL a="RUN x"
from scratch
ARG K=v
ONBUILD RUN later
RUN --mount=type=cache,target=/c \\
  last"""


def test_every_run_gets_the_mounts_and_every_stage_the_arguments() -> None:
    assert host_settings.with_host_settings(DOCKERFILE, ["type=cache,target=/c"], {"K": "v"}) == REWRITTEN


def test_the_escape_directive_is_followed() -> None:
    text = "# escape=`\nFROM x\nRUN a `\n RUN b\nRUN c \\\nRUN d\n"
    out = host_settings.with_host_settings(text, ["m"], {})
    assert out == "# escape=`\nFROM x\nRUN --mount=m a `\n RUN b\nRUN --mount=m c \\\nRUN --mount=m d\n"


def test_without_settings_a_dockerfile_stays_as_it_is() -> None:
    assert host_settings.with_host_settings(DOCKERFILE, [], {}) == DOCKERFILE


def settings(environ: dict[str, str], folder: Path, **options: object) -> host_settings.HostSettings:
    places = {"pip_configs": (), "certificates": folder / "none", "system_bundle": folder / "none"}
    return host_settings.host_settings(environ, **{**places, **options})  # type: ignore[arg-type]


def test_indexes_come_from_the_environment_before_pips_files(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://file.invalid/simple\n"
        "extra-index-url =\n  file:///disk\n  https://more.invalid\n"
    )

    from_file = settings({}, tmp_path, pip_configs=(config,))
    from_both = settings({"PIP_INDEX_URL": "https://env.invalid/simple"}, tmp_path, pip_configs=(config,))

    assert from_file.pip_conf == (
        "[global]\nindex-url = https://file.invalid/simple\nextra-index-url = https://more.invalid\n"
    )
    assert from_both.uv_toml == (
        '[[index]]\nurl = "https://more.invalid"\n'
        '[[index]]\nurl = "https://env.invalid/simple"\ndefault = true\n'
    )


def test_uv_index_names_are_dropped_and_the_hosts_disk_is_skipped(tmp_path: Path) -> None:
    found = settings(
        {"UV_INDEX": "corp=https://c.invalid/s file:///opt", "PIP_INDEX_URL": "file:///x"}, tmp_path
    )

    assert found.pip_conf == "[global]\nextra-index-url = https://c.invalid/s\n"


def test_certificates_of_the_machine_are_added_to_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/corp.crt").write_text("CORP\n")
    (tmp_path / "bundle").write_text("PUBLIC\n")

    found = settings({}, tmp_path, certificates=tmp_path / "extra", system_bundle=tmp_path / "bundle")

    assert found.ca_bundle == b"PUBLIC\nCORP\n"


def test_proxies_keep_both_spellings_and_stay_out_of_the_files(tmp_path: Path) -> None:
    found = settings({"HTTPS_PROXY": "http://a", "no_proxy": "b", "HTTP_PROXY": ""}, tmp_path)

    assert found.proxies == (("HTTPS_PROXY", "http://a"), ("no_proxy", "b"))
    assert found.files() == {}
    assert found.image() is None


def test_settings_are_mounted_from_an_image_of_their_own() -> None:
    found = host_settings.HostSettings(ca_bundle=b"x", apt_mirror="https://m.invalid")

    assert found.mounts()[0] == f"type=bind,from={found.image()},target=/run/build"
    assert found.arguments()["SSL_CERT_FILE"] == "/run/build/ca.crt"
    assert "PIP_CONFIG_FILE" not in found.arguments()
