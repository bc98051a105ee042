"""An image pushed by a real engine to a real registry, and every way in which that fails."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from astro_cli.deploy.push import image_tags, push
from astro_cli.domain.repository import Credentials
from astro_cli.foundation.errors import TargetError
from astro_cli.runtime.docker_api import DockerApi
from astro_cli.runtime.endpoint import Endpoint
from tests.deploy.fakes import TOO_LARGE, FakeClock, RecordingReport, RefusingServer
from tests.deploy.registry_server import PASSWORD, USER, RegistryServer


def layer(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def load_image(api: DockerApi, name: str, layers: list[bytes]) -> str:
    """Have an image of these layers on an engine; returns its id."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/x"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(each).hexdigest() for each in layers],
        },
    }
    content = json.dumps(config).encode()
    image_id = hashlib.sha256(content).hexdigest()
    files = {f"{number}/layer.tar": each for number, each in enumerate(layers)}
    manifest = [{"Config": f"{image_id}.json", "RepoTags": [name], "Layers": list(files)}]
    archive = layer({f"{image_id}.json": content, **files, "manifest.json": json.dumps(manifest).encode()})
    for _ in api.client.load_image(archive):
        pass
    return f"sha256:{image_id}"


@pytest.fixture
def api(engine_url: str) -> Iterator[DockerApi]:
    api = DockerApi(Endpoint(engine_url, "the test"))
    yield api
    api.client.close()


@pytest.fixture
def image(api: DockerApi) -> Iterator[str]:
    """A small image with two layers."""
    name = "astro-test-push:1"
    yield load_image(api, name, [layer({"base": os.urandom(300_000)}), layer({"dags/a.py": b"A" * 2000})])
    api.client.remove_image(name, force=True)


def tags_of(api: DockerApi, image: str) -> list[str]:
    return list(api.client.inspect_image(image)["RepoTags"])


pytestmark = pytest.mark.engine


def test_a_pushed_image_is_named_by_its_digest_and_no_name_of_the_registry_stays_here(tmp_path, api, image):
    with RegistryServer(tmp_path) as server:
        report = RecordingReport()
        name = push(api, image, f"{server.host}/team/project", ("one", "two"), None, report)
        repository, _, digest = name.partition("@")
        assert repository == f"{server.host}/team/project:one"
        assert tags_of(api, image) == ["astro-test-push:1"]
        stored = server.data / "docker/registry/v2/repositories/team/project/_manifests/tags"
        for tag in ("one", "two"):
            assert (stored / tag / "current/link").read_text() == digest
        assert any("pushed" in line for line in report.details)


def test_a_second_push_sends_only_the_layer_that_changed(tmp_path, api, image):
    base = layer({"base": os.urandom(300_000)})
    with RegistryServer(tmp_path) as server:
        for letter in (b"A", b"B"):
            made = load_image(api, "astro-test-push:2", [base, layer({"dags/a.py": letter * 2000})])
            uploads = len(server.requests("PUT"))
            push(api, made, f"{server.host}/team/project", ("one",), None, RecordingReport())
        sent = [path for path in server.requests("PUT")[uploads:] if "/blobs/" in path]
        api.client.remove_image("astro-test-push:2", force=True)
        assert len(sent) == 2  # one layer and the image's configuration


@pytest.mark.parametrize("kind", ["password", "tokens"])
def test_a_login_lets_in_and_a_wrong_or_missing_one_is_said_with_the_way_to_log_in(
    tmp_path, api, image, kind
):
    with RegistryServer(tmp_path, **{kind: True}) as server:
        repository = f"{server.host}/team/project"
        assert "@sha256:" in push(
            api, image, repository, ("x",), Credentials(USER, PASSWORD), RecordingReport()
        )
        for login in (None, Credentials(USER, "wrong")):
            with pytest.raises(TargetError) as caught:
                push(api, image, repository, ("x",), login, RecordingReport())
            assert "wrong" not in caught.value.message
            assert "docker login" in str(caught.value.hint), caught.value.message
            assert tags_of(api, image) == ["astro-test-push:1"]


def test_an_authority_that_the_engine_does_not_know_is_said(tmp_path, api, image):
    gateway = api.client.inspect_network("bridge")["IPAM"]["Config"][0]["Gateway"]
    with RegistryServer(tmp_path, address=gateway, tls=True) as server:
        with pytest.raises(TargetError) as caught:
            push(
                api, image, f"{server.host}/team/project", ("x",), None, RecordingReport(), clock=FakeClock()
            )
        assert f"/etc/docker/certs.d/{server.host}/ca.crt" in str(caught.value.hint), caught.value.message


def test_a_registry_that_is_down_is_tried_again_and_then_said(tmp_path, api, image):
    server, clock, report = RegistryServer(tmp_path), FakeClock(), RecordingReport()
    with pytest.raises(TargetError, match=r"did not take the image: .*connection refused") as caught:
        push(api, image, f"{server.host}/team/project", ("x",), None, report, clock=clock)
    assert "check the registry's name and port" in str(caught.value.hint)
    assert len(report.warnings) == 3
    assert clock.slept == [1.0, 4.0, 10.0]


def test_a_registry_that_comes_back_gets_the_image(tmp_path, api, image):
    server = RegistryServer(tmp_path)

    class Waiting(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 2:
                server.start()

    try:
        name = push(api, image, f"{server.host}/t/p", ("x",), None, RecordingReport(), clock=Waiting())
        assert "@sha256:" in name
    finally:
        server.stop()


@pytest.mark.long  # an engine itself waits 50 seconds for a registry that is gone
def test_a_registry_that_dies_in_the_middle_gets_the_rest_when_it_is_back(tmp_path, api):
    image = load_image(api, "astro-test-push:large", [layer({"base": os.urandom(60_000_000)})])
    server = RegistryServer(tmp_path)

    class Killing(RecordingReport):
        def detail(self, text: str) -> None:
            if " MB in " in text and not self.details:
                server.stop()
            super().detail(text)

    class Reviving(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 1:
                server.start()

    report, clock = Killing(), Reviving()
    try:
        with server:
            name = push(api, image, f"{server.host}/team/project", ("x",), None, report, clock=clock)
            assert name.startswith(f"{server.host}/team/project:x@sha256:")
            assert report.details
            assert clock.slept
    finally:
        api.client.remove_image("astro-test-push:large", force=True)


def test_a_proxy_that_takes_no_large_uploads_is_named_as_the_cause(api, image):
    with RefusingServer(TOO_LARGE) as host:
        with pytest.raises(TargetError) as caught:
            push(api, image, f"{host}/team/project", ("x",), None, RecordingReport(), clock=FakeClock())
        assert "client_max_body_size" in str(caught.value.hint), caught.value.message


def test_a_tag_names_revision_and_content():
    image_id = "sha256:0123456789abcdef"
    assert image_tags(image_id, "fedcba9876543210") == ("fedcba987654-0123456789ab",)
    assert image_tags(image_id, "fedcba9876543210", dirty=True) == ("fedcba987654-dirty-0123456789ab",)
    assert image_tags(image_id, "") == ("0123456789ab",)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("dial tcp 127.0.0.1:41401: connect: connection refused", "name and port"),
        ("received unexpected HTTP status: 413 Request Entity Too Large", "client_max_body_size"),
        ("unauthorized: authentication required", "docker login r.example"),
        ("denied: requested access to the resource is denied", "write access"),
        ("x509: certificate signed by unknown authority", "/etc/docker/certs.d/r.example/ca.crt"),
        ("http: server gave HTTP response to HTTPS client", "insecure-registries"),
    ],
)
def test_what_an_engine_says_gets_the_hint_that_helps(said, hint):
    class Saying:
        def tag(self, image: str, reference: str) -> None: ...
        def untag(self, reference: str) -> None: ...
        def push(self, reference: str, login: object) -> Iterator[dict[str, Any]]:
            return iter([{"errorDetail": {"message": said}}])

    with pytest.raises(TargetError) as caught:
        push(Saying(), "sha256:1", "r.example/t/p", ("x",), None, RecordingReport(), clock=FakeClock())
    assert said in caught.value.message
    assert hint in str(caught.value.hint)
