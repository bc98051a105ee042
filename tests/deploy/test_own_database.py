"""A deployment on a Postgres of the user's own: what a deploy, a backup, a rollback and `destroy` do to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import docker
import pytest

from astro_cli.domain.airflow import DEFAULT_VERSION
from astro_cli.domain.image import postgres_image
from tests.engine.astro import Astro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker.models.containers import Container

    from tests.deploy.deployed import Deployed

PORT, PASSWORD = 5439, "canary-0d9f31"


@pytest.fixture
def sql(
    live: Deployed, engine_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """Asks a Postgres on this machine, which the second host reaches at PORT."""
    password = tmp_path_factory.mktemp("postgres") / "password"
    password.write_text(PASSWORD)
    engine = docker.DockerClient(base_url=engine_url)
    container: Container = engine.containers.run(
        postgres_image(DEFAULT_VERSION),  # any would do; this one is here
        detach=True,
        ports={"5432/tcp": (live.host.machine_address, PORT)},
        volumes=[f"{password}:/run/astro/password:ro"],
    )

    def ask(statement: str, database: str = "own") -> str:
        code, output = container.exec_run(["psql", "-qAt", "-d", database, "-c", statement])
        assert isinstance(output, bytes)
        assert code == 0, output.decode()
        return output.decode().strip()

    try:
        end = time.monotonic() + 60
        while container.exec_run(["pg_isready", "-q"])[0]:
            assert time.monotonic() < end, container.logs().decode()
            time.sleep(0.2)
        ask("CREATE DATABASE own OWNER airflow", "postgres")
        yield ask
    finally:
        container.remove(force=True, v=True)
        engine.close()


@pytest.mark.long
def test_a_database_of_ones_own_is_migrated_saved_put_back_and_left_alone(
    live: Deployed, sql: Callable[..., str]
) -> None:
    configuration = live.astro.folder / ".astro/config.yaml"
    text = configuration.read_text()
    configuration.write_text(
        f"{text}  own:\n    host: {live.host.url}\n    database: secret:OWN_URL\n    publish:\n      port: 8071\n"
    )
    place = f"{live.host.machine_address}:{PORT}/own"

    def astro(password: str) -> Astro:
        url = f"postgresql+psycopg2://airflow:{password}@{place}"
        return Astro(live.astro.folder, {**live.astro.environ, "OWN_URL": url})

    own = astro(PASSWORD)
    try:
        error = astro("wrong").json("deploy", "own", code=1)
        assert "password authentication failed" in "\n".join(error["details"])
        assert own.json("deploy", "own")["changed"]
        assert sql("SELECT count(*) FROM alembic_version") == "1"
        with live.host.engine() as engine:
            assert not [each.name for each in engine.services.list() if each.name.endswith("-own-postgres")]
            assert PASSWORD not in str([each.attrs for each in engine.services.list()])
        saved = own.json("deployment", "backup", "own")["backup"]
        own("deployment", "run", "--of", "own", "variables", "set", "late", "x")
        backups = live.host.root / "mnt/docker/volumes/shop-own-backups/_data"
        whole = (backups / saved).read_bytes()
        (backups / "damaged.dump").write_bytes(whole[: len(whole) // 2])
        error = own.json("deployment", "restore", "damaged.dump", "--of", "own", "--yes", code=1)
        assert "the backup is damaged" in "\n".join(error["details"])
        assert sql("SELECT count(*) FROM variable") == "1", "nothing was changed"
        own("deployment", "restore", saved, "--of", "own", "--yes")
        assert sql("SELECT count(*) FROM variable") == "0"
        live.write_version(f"own {time.time()}")
        assert own.json("deploy", "own")["release"] == 3
        assert own.json("deployment", "rollback", "own")["release"] == 4
        own("deployment", "destroy", "own", "--yes")
        assert sql("SELECT count(*) FROM alembic_version") == "1", "what is the user's stays"
    finally:
        own("deployment", "destroy", "own", "--yes", code=None)
        configuration.write_text(text)
