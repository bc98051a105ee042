"""A deployment on a real swarm of three nodes: tasks everywhere, nodes that are lost, releases under load."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

import docker
import httpx
import pytest

from astro_cli.deploy.swarm.nodes import Nodes
from astro_cli.domain.deployments import Deployment
from astro_cli.domain.deployments import Host as Address
from astro_cli.foundation.errors import TargetError
from tests.deploy.clustered import Clustered
from tests.deploy.deployed import NAME, PORT, Poller
from tests.deploy.registry_server import PASSWORD
from tests.deploy.test_failures import DYING
from tests.engine.astro import wait_for

if TYPE_CHECKING:
    from tests.deploy.host import Host
    from tests.deploy.lab import Lab


def address(host: Host) -> Address:
    return Address(host.url, f"deploy@{host.address}", 2222)


def nodes(lab: Lab, *hosts: Host) -> Nodes:
    deployment = Deployment("prod", tuple(map(address, hosts or lab.hosts)), target="swarm")
    return Nodes(deployment, {"HOME": "/root", **lab.environment}, None)


def roles(host: Host) -> dict[str, str]:
    """The nodes of a manager's swarm that are ready, by name, with what they say of being a manager.

    None while the managers have no leader.
    """
    with host.engine() as engine:
        try:
            found = [each.attrs for each in engine.nodes.list()]
        except docker.errors.APIError:
            return {}
    return {
        each["Description"]["Hostname"]: "leader"
        if (each.get("ManagerStatus") or {}).get("Leader")
        else str((each.get("ManagerStatus") or {}).get("Reachability", "worker"))
        for each in found
        if each["Status"]["State"] == "ready"
    }


def leave_swarms(lab: Lab) -> None:
    for host in lab.hosts:
        with host.engine() as engine:
            engine.api.leave_swarm(force=True)  # `engine.swarm` asks first, which needs a leader


@pytest.mark.long
def test_bare_hosts_become_one_swarm_and_nothing_is_done_while_one_cannot_be_reached(lab: Lab):
    first, second, third = lab.hosts
    third.stop_sshd()
    with nodes(lab) as three, pytest.raises(TargetError, match="cannot reach ssh://"):
        three.ensure(three.manager())
    with first.engine() as engine:
        assert engine.info()["Swarm"]["LocalNodeState"] == "inactive", "something was done all the same"
    third.start_sshd()
    try:
        with nodes(lab) as three:
            assert three.ensure(three.manager()) == []
            assert sorted(roles(second).values()) == ["leader", "reachable", "reachable"]
            assert three.ensure(three.manager()) == [], "a second time is nothing to do"
        first.stop_sshd()
        with nodes(lab) as three:
            assert three.manager().host.url == second.url, "the next manager that answers"
        first.start_sshd()
        with first.engine() as engine:
            engine.swarm.leave(force=True)
            engine.swarm.init("eth0")
        with nodes(lab, second, first) as two, pytest.raises(TargetError, match="another swarm than"):
            two.ensure(two.manager())
    finally:
        leave_swarms(lab)


@pytest.mark.long
def test_tasks_run_on_every_node_and_each_of_them_shows_the_logs_of_all(cluster: Clustered):
    run = cluster.begin(6)
    tasks = cluster.tasks(run)
    assert cluster.finish(run) == "success"
    assert {host for *_, host in tasks} == {f"logs-{host.name}" for host in cluster.lab.hosts}
    for number in range(6):
        path = f"/api/v2/dags/many/dagRuns/{run}/taskInstances/work/logs/1"
        text = str(cluster.request("GET", path, params={"map_index": number}))
        assert "Task instance in success state" in text or "Done. Returned value" in text, text
    for host in cluster.lab.hosts:
        url = f"http://{host.address}:{PORT}/api/v2/monitor/health"
        assert httpx.get(url, trust_env=False, timeout=60).json()["scheduler"]["status"] == "healthy"
    assert set(cluster.ps()["worker"]["nodes"]) == {host.name for host in cluster.lab.hosts}


@pytest.mark.long
def test_commands_reach_a_service_wherever_it_runs_and_logs_come_from_all_nodes(cluster: Clustered):
    said = cluster.astro("deployment", "run", "variables", "set", "season", "autumn").stdout
    assert "season" in said
    assert cluster.variable("season") == "autumn"
    lines = cluster.astro.json("deployment", "logs", "worker", "log-server")["lines"]
    assert {line["service"] for line in lines} == {"worker", "log-server"}
    assert sum("celery@" in line["text"] and "ready" in line["text"] for line in lines) >= 3


@pytest.mark.long
def test_dags_alone_reach_every_node_and_a_run_keeps_those_that_it_began_with(cluster: Clustered):
    cluster.write_version("before")
    cluster.deploy("--dags")
    old, running = cluster.begin(), cluster.everywhere()
    cluster.write_version("after")
    cluster.deploy("--dags")
    new = cluster.begin()
    assert (cluster.finish(old), cluster.finish(new)) == ("success", "success")
    assert (cluster.versions(old), cluster.versions(new)) == ({"before"}, {"after"})
    assert cluster.everywhere() == running, "something was restarted"
    assert cluster.deploy("--dags")["changed"] is False


def recolour(cluster: Clustered, colour: str) -> None:
    """Let the next release have another variable."""
    configuration = cluster.astro.folder / ".astro/config.yaml"
    before, _, rest = configuration.read_text().partition("COLOUR: ")
    configuration.write_text(f"{before}COLOUR: {colour}{rest[rest.index('}') :]}")


@pytest.mark.long
def test_a_release_under_load_fails_no_task_and_no_request(cluster: Clustered):
    run = cluster.begin(6)
    recolour(cluster, "blue")
    with Poller(cluster.url, patience=120) as poller:
        told = cluster.deploy("--wait", "600")
        assert told["changed"]
        late = cluster.begin(3)
        assert cluster.finish(run) == "success"
        assert cluster.finish(late) == "success"
        cluster.wait_whole()
    print(f"{poller.requests} requests, the slowest {poller.slowest:.1f} s")
    assert poller.failures == []
    assert [tries for _, _, tries, _ in cluster.tasks(run)] == [1] * 6, cluster.tasks(run)
    assert set(cluster.sink.begun[run].values()) == {1} == set(cluster.sink.done[run].values())
    assert cluster.deploy()["changed"] is False


@pytest.mark.long
def test_a_release_whose_workers_die_is_taken_back_whole(cluster: Clustered):
    images, release = cluster.images(), cluster.release()
    broken = cluster.astro.folder / "airflow_local_settings.py"
    broken.write_text(DYING.format(service="worker"))
    try:
        error = cluster.deploy("--wait", "300", code=5)
    finally:
        broken.unlink()
    assert "worker" in error["message"]
    assert f"release {release} runs again" in error["message"]
    assert "tripped over its own feet" in "\n".join(error["details"])
    assert cluster.images() == images
    assert cluster.release() == release
    assert cluster.finish(cluster.begin(3)) == "success"
    cluster.deploy("--wait", "600")  # without what was broken


@pytest.mark.long
def test_a_node_that_cannot_pull_is_named_and_nothing_is_touched(cluster: Clustered):
    third = cluster.lab.hosts[2]
    cluster.wait_whole()
    before, releases = cluster.everywhere(), cluster.releases()
    trust = third.root / "etc/docker/certs.d" / cluster.lab.registry.host / "ca.crt"
    trust.rename(trust.with_name("gone"))
    cluster.astro.write("plugins/more.py", "MORE = 1\n")
    try:
        error = cluster.deploy(code=7)
        assert f"{third.name} cannot pull" in error["message"]
        wait_for(lambda: cluster.everywhere() == before)  # those that pulled end
        assert cluster.releases() == releases
        wrong = {**cluster.astro.environ, "ASTRO_REGISTRY_PASSWORD": f"{PASSWORD} no longer"}
        error = type(cluster.astro)(cluster.astro.folder, wrong).json("deploy", NAME, code=7)
        assert cluster.lab.registry.host in error["message"]
        assert (cluster.everywhere(), cluster.releases()) == (before, releases)
    finally:
        trust.with_name("gone").rename(trust)
        (cluster.astro.folder / "plugins/more.py").unlink()


def lose(cluster: Clustered, victim: Host, *, cable: bool) -> None:
    """Lose a node while tasks run on it, and see that each of them is done just once."""
    run = cluster.begin(6)
    there = [number for number, _, _, host in cluster.tasks(run) if host == f"logs-{victim.name}"]
    if not there:
        cluster.finish(run)
        pytest.fail("nothing ran on it")
    lost = time.monotonic()
    (victim.cut if cable else victim.power_off)()
    try:
        begun = cluster.sink.begun[run]
        wait_for(lambda: all(begun[str(n)] == 2 for n in there), lambda: (begun, cluster.tasks(run)), 600)
        print(f"\n{'cable' if cable else 'power'}: all tasks run again after {time.monotonic() - lost:.0f} s")
        assert cluster.finish(run) == "success"
    finally:
        (victim.join if cable else victim.power_on)()
    cluster.wait_whole()
    expected = Counter({str(number): 1 for number in range(6)})
    assert cluster.sink.done[run] == expected, (cluster.sink.done[run], cluster.tasks(run))
    assert begun == expected + Counter({str(number): 1 for number in there}), begun
    assert {tries for number, _, tries, _ in cluster.tasks(run) if number not in there} <= {1}


@pytest.fixture
def victim(cluster: Clustered) -> Host:
    """A node with a worker that can be lost: neither the database nor the test needs it."""
    cluster.wait_whole()
    services = cluster.ps()
    found = set(services["worker"]["nodes"]) - {*services["postgres"]["nodes"], cluster.host.name}
    return next(host for host in cluster.lab.hosts if host.name in found)


@pytest.mark.long
@pytest.mark.parametrize("cable", [False, True], ids=["power", "cable"])
def test_a_lost_node_loses_no_task_and_none_is_done_twice(cluster: Clustered, victim: Host, cable: bool):
    lose(cluster, victim, cable=cable)


@pytest.mark.long
def test_a_deploy_works_without_the_manager_that_led(cluster: Clustered, victim: Host):
    move_leadership(cluster, victim)
    victim.power_off()
    try:
        recolour(cluster, "green")
        assert cluster.deploy("--wait", "600")["changed"]
        assert cluster.finish(cluster.begin(3)) == "success"
        assert victim.name not in cluster.ps()["worker"]["nodes"]
    finally:
        victim.power_on()
    cluster.wait_whole()


def move_leadership(cluster: Clustered, to: Host) -> None:
    """Let another manager lead: the others stop being managers for a moment."""
    for host in (each for each in cluster.lab.hosts if each is not to):
        for role, words in (("worker", ("worker",)), ("manager", ("leader", "reachable"))):
            wait_for(lambda: has_role(host, role, words, seen_by=to), lambda: roles(to))  # noqa: B023 - called at once
    assert roles(to)[to.name] == "leader"


def has_role(host: Host, role: str, words: tuple[str, ...], *, seen_by: Host) -> bool:
    """Whether a node has a role; asks for it if not, again and again: a leader that steps down gives no answer."""
    if roles(seen_by).get(host.name) in words:
        return True
    with contextlib.suppress(docker.errors.APIError), seen_by.engine() as engine:
        node = next(
            each for each in engine.nodes.list() if each.attrs["Description"]["Hostname"] == host.name
        )
        if node.attrs["Spec"]["Role"] != role:
            node.update({**node.attrs["Spec"], "Role": role})
    return False


@pytest.mark.long
def test_a_deploy_without_the_node_of_the_database_is_refused_in_a_sentence(cluster: Clustered):
    data = cluster.host_of("postgres")
    recolour(cluster, "black")
    data.cut()
    try:
        other = next(host for host in cluster.lab.hosts if host is not data)
        wait_for(lambda: data.name not in (found := roles(other)) and found)
        assert cluster.ps()["worker"]["wanted"] == 3, "another manager answers"
        error = cluster.deploy(code=7)
        assert error["message"] == f"{data.name} is down, and the metadata database is there"
    finally:
        data.join()
        recolour(cluster, "green")
    wait_for(lambda: data.name in roles(other))
    cluster.wait_whole()


@pytest.mark.long
def test_back_and_forth_with_all_that_a_host_can(cluster: Clustered):
    cluster.request("POST", "/api/v2/variables", json={"key": "kept", "value": "yes"})
    backup = cluster.astro.json("deployment", "backup", NAME)["backup"]
    cluster.request("PATCH", "/api/v2/variables/kept", json={"key": "kept", "value": "no"})
    cluster.astro("deployment", "restore", backup, "--yes")
    assert cluster.variable("kept") == "yes"
    cluster.astro("deployment", "rotate-keys", NAME)
    assert cluster.variable("kept") == "yes"
    cluster.astro("deployment", "rollback", NAME)
    assert cluster.variable("kept") == "yes"
    cluster.astro("deployment", "stop", NAME)
    assert cluster.everywhere() == set()
    cluster.astro("deployment", "start", NAME)
    assert cluster.finish(cluster.begin(3)) == "success"


@pytest.mark.long
def test_destroy_leaves_nothing_on_any_node(cluster: Clustered):
    cluster.astro("deployment", "destroy", NAME, "--yes")
    for host in cluster.lab.hosts:
        with host.engine() as engine:
            assert engine.info()["Swarm"]["LocalNodeState"] == "inactive"
            assert engine.containers.list(all=True) == []
            assert engine.volumes.list() == []
            assert engine.images.list() == []
            assert {each.name for each in engine.networks.list()} == {"bridge", "host", "none"}
