"""Logins as Docker keeps them, and a real registry spoken to without an engine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from astro_cli.deploy.registry import Manifest, Registry, find_credentials
from astro_cli.domain.repository import IDENTITY_TOKEN, Credentials, parse_repository
from astro_cli.foundation.errors import TargetError, UsageError
from tests.deploy.fakes import TOO_LARGE, FakeClock, RefusingServer, refusal
from tests.deploy.registry_server import PASSWORD, USER, RegistryServer

HOST = "registry.example:5000"


def docker_config(folder: Path, config: object) -> dict[str, str]:
    (folder / ".docker").mkdir()
    (folder / ".docker/config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return {"HOME": str(folder), "PATH": f"{folder}/bin:{os.environ['PATH']}"}


def helper(folder: Path, name: str, script: str) -> None:
    """A credential helper; it gets the registry on its input and `get` as its argument."""
    path = folder / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\nread host\n{script}\n")
    path.chmod(0o755)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_repository_is_split_the_way_docker_does():
    assert parse_repository("registry.example:5000/team/proj") == ("registry.example:5000", "team/proj")
    assert parse_repository("localhost/proj") == ("localhost", "proj")
    assert parse_repository("team/proj") == ("docker.io", "team/proj")
    assert parse_repository("team/proj").url == "https://registry-1.docker.io"
    assert parse_repository("registry.example:5000/team/proj").url == "https://registry.example:5000"
    for wrong in ("registry.example/Team", "registry.example/team:tag", "", "registry.example/"):
        with pytest.raises(UsageError, match="not a repository's name"):
            parse_repository(wrong)


# credentials


def test_the_password_of_a_login_is_never_shown():
    assert "pass1" not in repr(Credentials("alice", "pass1"))


def test_an_engine_is_told_of_an_identity_token_in_its_own_words():
    assert Credentials("alice", "pass1").for_engine == {"username": "alice", "password": "pass1"}
    assert Credentials(IDENTITY_TOKEN, "t0ken").for_engine == {"identitytoken": "t0ken"}


def test_a_login_kept_in_the_file_is_found_by_the_registry_and_no_other(tmp_path):
    environ = docker_config(tmp_path, {"auths": {HOST: {"auth": encoded("alice:pass:word")}}})
    assert find_credentials(HOST, environ) == Credentials("alice", "pass:word")
    assert find_credentials("registry.example", environ) is None


def test_a_login_under_the_address_of_the_registry_counts(tmp_path):
    environ = docker_config(tmp_path, {"auths": {f"https://{HOST}/v1/": {"auth": encoded("a:b")}}})
    assert find_credentials(HOST, environ) == Credentials("a", "b")


def test_docker_hub_has_a_name_of_its_own_in_the_file(tmp_path):
    environ = docker_config(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": encoded("a:b")}}})
    assert find_credentials("docker.io", environ) == Credentials("a", "b")


def test_an_identity_token_is_a_login(tmp_path):
    environ = docker_config(tmp_path, {"auths": {HOST: {"identitytoken": "t"}}})
    assert find_credentials(HOST, environ) == Credentials("<token>", "t")


def test_the_helper_of_a_registry_wins_over_the_store_and_the_store_over_the_file(tmp_path):
    config = {
        "credHelpers": {HOST: "special"},
        "credsStore": "store",
        "auths": {HOST: {}, "other": {}, "file": {"auth": encoded("from:file")}},
    }
    environ = docker_config(tmp_path, config)
    helper(
        tmp_path, "special", f'[ "$host" = {HOST} ] && echo \'{{"Username": "from", "Secret": "helper"}}\''
    )
    helper(
        tmp_path,
        "store",
        'echo a warning >&2; if [ "$host" = other ]; then echo \'{"Username": "from", "Secret": "store"}\';'
        " else echo credentials not found in native keychain; exit 1; fi",
    )
    assert find_credentials(HOST, environ) == Credentials("from", "helper")
    assert find_credentials("other", environ) == Credentials("from", "store")
    assert find_credentials("file", environ) == Credentials("from", "file")
    assert find_credentials("nowhere", environ) is None


def test_a_helper_that_fails_or_is_missing_is_said(tmp_path):
    environ = docker_config(tmp_path, {"credsStore": "locked"})
    with pytest.raises(TargetError, match="`docker-credential-locked`, which keeps Docker's logins"):
        find_credentials(HOST, environ)
    helper(tmp_path, "locked", "echo the key ring is locked; exit 1")
    with pytest.raises(TargetError, match="`docker-credential-locked` failed: the key ring is locked"):
        find_credentials(HOST, environ)


def test_the_environment_wins_over_the_file(tmp_path):
    environ = docker_config(tmp_path, {"auths": {HOST: {"auth": encoded("a:b")}}})
    login = {"ASTRO_REGISTRY_USERNAME": "ci", "ASTRO_REGISTRY_PASSWORD": "p"}
    assert find_credentials(HOST, environ | login) == Credentials("ci", "p")


def test_without_any_file_there_is_no_login_and_a_damaged_one_is_said(tmp_path):
    assert find_credentials(HOST, {"HOME": str(tmp_path)}) is None
    environ = docker_config(tmp_path, "{")
    with pytest.raises(TargetError, match=r"config\.json`, where Docker keeps logins, cannot be read"):
        find_credentials(HOST, environ)


# the registry


def manifest(registry: Registry, repository: str, content: bytes) -> bytes:
    digest = registry.put_blob(repository, content)
    config = registry.put_blob(repository, b"{}")
    body = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}],
    }
    return json.dumps(body).encode()


@pytest.mark.parametrize("kind", ["open", "password", "tokens", "tls"])
def test_what_is_put_into_a_registry_comes_out_again(tmp_path, kind):
    options = {} if kind == "open" else {kind: True}
    with RegistryServer(tmp_path, **options) as server:
        environ = {"SSL_CERT_FILE": str(server.certificate)} if server.certificate else {}
        login = Credentials(USER, PASSWORD) if kind in ("password", "tokens") else None
        with Registry(server.host, login, environ=environ) as registry:
            assert registry.manifest("team/x", "one") is None
            content = manifest(registry, "team/x", b"data")
            digest = registry.put_manifest("team/x", "one", content)
            assert digest == "sha256:" + hashlib.sha256(content).hexdigest()
            for reference in ("one", digest):
                assert registry.manifest("team/x", reference) == Manifest(digest, content)


def test_a_blob_is_sent_once(tmp_path):
    with RegistryServer(tmp_path) as server, Registry(server.host, None, environ={}) as registry:
        registry.put_blob("team/x", b"data" * 1000)
        registry.put_blob("team/x", b"data" * 1000)
        assert len(server.requests("PUT")) == 1


def test_tokens_are_asked_for_with_no_more_rights_than_needed(tmp_path):
    with (
        RegistryServer(tmp_path, tokens=True) as server,
        Registry(server.host, Credentials(USER, PASSWORD), environ={}) as registry,
    ):
        registry.manifest("team/x", "one")
        assert server.token_scopes == ["repository:team/x:pull"]
        registry.put_blob("team/x", b"data")
        assert server.token_scopes == ["repository:team/x:pull", "repository:team/x:pull,push"]


@pytest.mark.parametrize("kind", ["password", "tokens"])
@pytest.mark.parametrize("login", [None, Credentials(USER, "guessed")])
def test_a_wrong_or_missing_login_is_said_with_the_way_to_log_in(tmp_path, kind, login):
    with (
        RegistryServer(tmp_path, **{kind: True}) as server,
        Registry(server.host, login, environ={}) as registry,
        pytest.raises(TargetError) as caught,
    ):
        registry.put_blob("team/x", b"data")
    what = "wants a login" if login is None else "refused the login"
    assert caught.value.message.startswith(f"{server.host} {what}: ")
    assert caught.value.exit_code == 7
    assert "guessed" not in caught.value.message
    assert f"docker login {server.host}" in str(caught.value.hint)


def test_an_unknown_authority_is_said_at_once(tmp_path):
    clock = FakeClock()
    with (
        RegistryServer(tmp_path, tls=True) as server,
        Registry(server.host, None, environ={}, clock=clock) as registry,
        pytest.raises(TargetError, match="is not trusted") as caught,
    ):
        registry.put_blob("team/x", b"data")
    assert "SSL_CERT_FILE" in str(caught.value.hint)
    assert clock.slept == []


def test_a_named_authority_that_is_no_certificate_is_said(tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(TargetError, match=r"SSL_CERT_FILE names `.*ca\.pem`, which holds no certificate"):
        Registry("registry.example", None, environ={"SSL_CERT_FILE": str(tmp_path / "ca.pem")})


def test_plain_http_is_spoken_on_loopback_alone(tmp_path):
    address = "127.0.0.1"
    with RegistryServer(tmp_path, everywhere=True) as server:
        with Registry(f"{address}:{server.port}", None, environ={}) as registry:
            registry.put_blob("team/x", b"data")
        with (
            Registry(f"{own_address()}:{server.port}", None, environ={}, clock=FakeClock()) as registry,
            pytest.raises(TargetError, match="cannot be reached") as caught,
        ):
            registry.put_blob("team/x", b"data")
    assert "without TLS" in str(caught.value.hint)


def own_address() -> str:
    """An address of this machine that is not loopback."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])


def test_a_registry_that_comes_back_within_the_tries_gets_the_blob(tmp_path):
    with RegistryServer(tmp_path) as server:

        class Waiting(FakeClock):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                if len(self.slept) == 2:
                    server.start()

        clock = Waiting()
        with Registry(server.host, None, environ={}, clock=clock) as registry:
            registry.put_blob("team/x", b"one")
            server.stop()
            digest = registry.put_blob("team/x", b"two")
            assert len(clock.slept) == 2
            assert registry.has_blob("team/x", digest)


def test_a_registry_that_stays_down_is_said_after_the_last_try(tmp_path):
    server, clock = RegistryServer(tmp_path), FakeClock()
    with (
        Registry(server.host, None, environ={}, clock=clock) as registry,
        pytest.raises(TargetError, match=f"the registry {server.host} cannot be reached") as caught,
    ):
        registry.put_blob("team/x", b"data")
    assert clock.slept == [0.5, 1.5, 4.0]
    assert "HTTPS_PROXY" in str(caught.value.hint)


DENIED = refusal(
    "403 Forbidden",
    "Content-Type: application/json",
    body='{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}',
)


@pytest.mark.parametrize(("answer", "hint"), [(TOO_LARGE, "client_max_body_size"), (DENIED, "write access")])
def test_a_refused_upload_is_said_with_its_cause(answer, hint):
    with (
        RefusingServer(answer) as host,
        Registry(host, None, environ={}, clock=FakeClock()) as registry,
        pytest.raises(TargetError) as caught,
    ):
        registry.put_blob("team/x", b"data")
    assert caught.value.message.startswith(f"{host} refused: ")
    assert hint in str(caught.value.hint)


def test_a_registry_that_answers_with_its_own_trouble_is_tried_again(tmp_path):
    clock = FakeClock()
    answer = refusal("503 Service Unavailable", "Retry-After: 9")
    with (
        RefusingServer(answer) as host,
        Registry(host, None, environ={}, clock=clock) as registry,
        pytest.raises(TargetError, match="503"),
    ):
        registry.put_blob("team/x", b"data")
    assert clock.slept == [9.0, 9.0, 9.0]


def test_a_changed_manifest_is_refused(tmp_path):
    with RegistryServer(tmp_path) as server, Registry(server.host, None, environ={}) as registry:
        digest = registry.put_manifest("team/x", "one", manifest(registry, "team/x", b"data"))
        name = digest.removeprefix("sha256:")
        (stored,) = (server.data / "docker/registry/v2/blobs/sha256").glob(f"*/{name}/data")
        stored.write_bytes(stored.read_bytes().replace(b"octet-stream", b"octet-dreams"))
        with pytest.raises(TargetError, match="sent something else than the manifest"):
            registry.manifest("team/x", digest)


def test_a_full_disk_of_the_registry_is_said(tmp_path):
    with (
        RegistryServer(tmp_path) as server,
        Registry(server.host, None, environ={}, clock=FakeClock()) as registry,
    ):
        registry.put_blob("team/x", b"first")
        began = time.monotonic()
        server.fill_disk()
        with pytest.raises(TargetError, match="refused: ") as caught:
            registry.put_blob("team/x", os.urandom(4_000_000))
        assert "its disk may be full" in str(caught.value.hint) or "trouble" in str(caught.value.hint)
        assert time.monotonic() - began < 20
