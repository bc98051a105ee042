"""Deployments in .astro/config.yaml: what is understood, what is refused, and how one is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astro_cli.domain.deployments import (
    Deployment,
    Host,
    Publish,
    Resources,
    Storage,
    choose_deployment,
    read_deployments,
)
from astro_cli.domain.deployments_file import with_deployment, without_deployment
from astro_cli.domain.edge import EdgeGroup
from astro_cli.domain.settings import load_settings
from astro_cli.domain.workers import WorkerGroup
from astro_cli.foundation.errors import ProjectError, UsageError
from astro_cli.remote import add_deployment, change_variables, remove_deployment, write_variables

HEAD = "project:\n  id: abcdef123456\n  name: shop\n"


def project(tmp_path: Path, deployments: str) -> Path:
    (tmp_path / ".astro").mkdir(exist_ok=True)
    (tmp_path / ".astro/config.yaml").write_text(HEAD + deployments)
    return tmp_path


def one(tmp_path: Path, fields: str) -> Deployment:
    text = "".join(f"    {line}\n" for line in fields.splitlines())
    return read_deployments(project(tmp_path, f"deployments:\n  prod:\n{text}"))["prod"]


def refusal(tmp_path: Path, fields: str) -> str:
    with pytest.raises(ProjectError) as error:
        one(tmp_path, fields)
    return f"{error.value.message} ({error.value.hint})"


def test_a_host_is_all_that_is_needed(tmp_path: Path):
    assert one(tmp_path, "host: ssh://deploy@vm1:2222") == Deployment(
        "prod", (Host("ssh://deploy@vm1:2222", address="deploy@vm1", port=2222),)
    )


SWARM = """\
target: swarm
hosts: [ssh://deploy@vm1, {url: ssh://deploy@vm2, private: 10.0.0.2}]
registry: registry.example/team/shop
"""


def test_a_swarm_has_several_hosts_a_registry_and_celery_workers_on_each(tmp_path: Path):
    found = one(tmp_path, SWARM)
    assert found.hosts == (
        Host("ssh://deploy@vm1", "deploy@vm1"),
        Host("ssh://deploy@vm2", "deploy@vm2", private="10.0.0.2"),
    )
    assert found.workers == (WorkerGroup("worker", count=2),)
    assert found.publish == Publish(bind="0.0.0.0")
    assert found.where == "ssh://deploy@vm1, ssh://deploy@vm2"
    told = found.on_target()
    assert (told["target"], told["executor"]) == ("swarm", "celery")
    assert told["workers"] == {"worker": {"count": 2, "concurrency": 4, "queues": []}}
    assert json.loads(json.dumps(told)) == told, "a record reads back as what it was written from"


def test_groups_of_workers_are_read_as_those_of_a_sandbox(tmp_path: Path):
    found = one(
        tmp_path, f"{SWARM}workers: {{gpu: {{count: 1, queues: [gpu]}}}}\nresources: {{gpu: {{cpus: 2}}}}"
    )
    assert found.workers == (WorkerGroup("gpu", count=1, queues=("gpu",)),)
    assert found.resources == {"gpu": Resources(cpus=2)}


def test_a_host_may_have_celery_workers_too_and_is_what_it_was_without(tmp_path: Path):
    assert one(tmp_path, "host: ssh://vm\nexecutor: celery").workers == (WorkerGroup("worker", count=1),)
    plain = one(tmp_path, "host: ssh://vm").on_target()
    assert not {"target", "workers", "registry"} & set(plain), "an older release must be the same"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("target: swarm\nhosts: [ssh://vm]", 'missing key "registry"'),
        ("target: swarm\nhost: ssh://vm\nregistry: r.example/x", "did you mean `hosts`"),
        ("target: swarm\nhosts: []\nregistry: r.example/x", "hosts must name a host"),
        ("target: swarm\nhosts: [ssh://vm, ssh://vm]\nregistry: r.example/x", "named twice"),
        (
            "target: swarm\nhosts: [{url: ssh://vm, private: vm}]\nregistry: r.example/x",
            "must be an IP address",
        ),
        (f"{SWARM}publish: {{bind: 127.0.0.1}}", "bind must be 0.0.0.0"),
        (f"{SWARM}executor: local\nworkers: {{worker: {{}}}}", "workers need `executor: celery`"),
        (f"{SWARM}workers: {{proxy: {{}}}}", "one of astro's services"),
        (f"{SWARM}executor: kubernetes", "executor"),
        ("host: ssh://vm\nregistry_authority: ca.pem", "registry_authority"),
    ],
)
def test_a_swarm_that_is_wrong_is_refused_in_a_sentence(tmp_path: Path, fields: str, words: str):
    assert words in refusal(tmp_path, fields)


def test_every_field_is_understood(tmp_path: Path):
    fields = """\
target: host
host: unix:///run/docker.sock
identity: ~/.ssh/key
ssh_config: ssh.conf
registry: registry.example:5000/team/shop
executor: local
replicas: {api-server: 2}
resources: {scheduler: {memory: 1.5g, cpus: 0.5}}
parallelism: 8
drain: 30m
env: {ENVIRONMENT: prod, PORT: 0123}
secrets: [TOKEN]
secret_file: ~/.config/shop.env
secret_command: [pass, show]
database: secret:DATABASE_URL
publish: {port: 443, bind: 0.0.0.0, certificate: secret:TLS, url: https://shop.example/}
retention: {releases: 3, logs: 7d, history: 0}
gates: {pytest: true, require_clean: true}
"""
    assert one(tmp_path, fields) == Deployment(
        name="prod",
        hosts=(Host("unix:///run/docker.sock", socket="/run/docker.sock"),),
        identity="~/.ssh/key",
        ssh_config="ssh.conf",
        registry="registry.example:5000/team/shop",
        replicas={"api-server": 2},
        resources={"scheduler": Resources(memory=1536 * 1024**2, cpus=0.5)},
        parallelism=8,
        drain=1800,
        env={"ENVIRONMENT": "prod", "PORT": "0123"},
        secrets=("TOKEN",),
        secret_file="~/.config/shop.env",
        secret_command=("pass", "show"),
        database="secret:DATABASE_URL",
        publish=Publish(443, "0.0.0.0", "secret:TLS", "https://shop.example"),
        keep=3,
        keep_logs=7,
        keep_history=0,
        pytest=True,
        require_clean=True,
    )


def test_the_database_and_the_certificate_are_secrets_too(tmp_path: Path):
    deployment = one(
        tmp_path, "host: ssh://vm\nsecrets: [A]\ndatabase: secret:B\npublish: {certificate: secret:C}"
    )

    assert deployment.secret_names == ("A", "B", "C")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("host: ssh://vm\nregistri: a/b", '.astro/config.yaml:7: unknown key "registri" in deployments.prod'),
        ("host: ssh://vm\nregistri: a/b", "did you mean `registry`?"),
        ("target: host", 'missing key "host"'),
        ("host: vm1", "must be the address of a host"),
        ("host: ssh://-oProxyCommand=id", "must be the address of a host"),
        ("host: ssh://-oProxyCommand=id@vm", "must be the address of a host"),
        ("host: ssh://u:pw@vm", "holds a password"),
        ("host: ssh://vm:99999", "is no address"),
        ("host: ssh://vm\ntarget: swam", "must be one of host"),
        ("host: ssh://vm\nregistry: https://registry.example/a", "without scheme and tag"),
        ("host: ssh://vm\nregistry: registry.example/a:latest", "without scheme and tag"),
        ("host: ssh://vm\nreplicas: {web: 2}", 'unknown key "web"'),
        ("host: ssh://vm\nreplicas: {api-server: 0}", "must be at least 1"),
        ("host: ssh://vm\nresources: {scheduler: {memory: lots}}", "must be a size such as 512m or 2g"),
        ("host: ssh://vm\nresources: {scheduler: {cpus: nan}}", "must be a number such as 1.5"),
        ("host: ssh://vm\ndrain: soon", "must be a time such as 90s, 30m or 2h"),
        ("host: ssh://vm\nretention: {logs: 2w}", "must be a number of days such as 30d"),
        ("host: ssh://vm\nsecrets: [TOKEN=abc]", "only the name stands here"),
        ("host: ssh://vm\nsecrets: [AIRFLOW__DATABASE__SQL_ALCHEMY_CONN]", "set by the deployment itself"),
        ("host: ssh://vm\nsecrets: [A]\nenv: {A: b}", "A is both in env and in secrets"),
        ("host: ssh://vm\ndatabase: postgresql://u:pw@h/db", "must be `bundled`, or `secret:NAME`"),
        ("host: ssh://vm\npublish: {bind: localhost}", "must be an IP address"),
        ("host: ssh://vm\npublish: {url: shop.example}", "must begin with http:// or https://"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, fields: str, words: str):
    assert words in refusal(tmp_path, fields)


def test_a_password_in_the_wrong_place_is_not_repeated(tmp_path: Path):
    assert "canary" not in refusal(tmp_path, "host: ssh://vm\ndatabase: postgresql://u:canary@h/db")
    assert "canary" not in refusal(tmp_path, "host: ssh://u:canary@vm")


def test_a_name_that_an_engine_would_not_take_is_refused(tmp_path: Path):
    with pytest.raises(ProjectError, match='"Prod_1" cannot name a deployment'):
        read_deployments(project(tmp_path, "deployments:\n  Prod_1:\n    host: ssh://vm\n"))


def test_settings_are_read_beside_deployments(tmp_path: Path):
    root = project(tmp_path, "sandbox:\n  port: 9000\ndeployments:\n  prod:\n    host: ssh://vm\n")

    assert load_settings({}, project_root=root).number("sandbox.port") == 9000


def test_a_deployment_is_never_guessed(tmp_path: Path):
    root = project(tmp_path, "deployments:\n  a: {host: ssh://x}\n  b: {host: ssh://y}\n")
    known = read_deployments(root)

    assert choose_deployment(known, "b").name == "b"
    with pytest.raises(UsageError, match="2 deployments: a, b"):
        choose_deployment(known, None)
    with pytest.raises(UsageError, match="no deployment `prd`"):
        choose_deployment(known, "prd")
    with pytest.raises(UsageError, match="declares no deployment"):
        choose_deployment({}, None)


def test_only_names_of_secrets_and_no_address_go_to_the_target(tmp_path: Path):
    data = one(tmp_path, "host: ssh://deploy@vm9\nsecrets: [TOKEN]\nsecret_command: [pass]").on_target()

    assert data["secrets"] == ["TOKEN"]
    assert "vm9" not in str(data)
    assert "pass" not in str(data)


# written by `astro deployment add`


def test_the_first_deployment_is_added_below_what_stands_there(tmp_path: Path):
    root = project(tmp_path, "# the end")

    add_deployment(root, "prod", {"host": "ssh://vm", "publish": {"port": 80}})

    text = (root / ".astro/config.yaml").read_text()
    added = "deployments:\n  prod:\n    host: ssh://vm\n    publish:\n      port: 80\n"
    assert text == f"{HEAD}# the end\n{added}"
    assert read_deployments(root)["prod"].publish.port == 80


@pytest.mark.parametrize("indent", [2, 4])
def test_another_one_joins_the_others_and_comments_stay(tmp_path: Path, indent: int):
    pad = " " * indent
    before = f"deployments:  # ours\n{pad}# the one\n{pad}prod:\n{pad}  host: ssh://a  # near\n"
    after = "\n# what runs here\nsandbox:\n  port: 9000\n"
    root = project(tmp_path, before + after)

    add_deployment(root, "stage", {"host": "ssh://b"})

    text = (root / ".astro/config.yaml").read_text()
    assert text.startswith(HEAD + before)
    assert text.endswith(after)
    assert list(read_deployments(root)) == ["prod", "stage"]


def test_an_empty_section_can_be_added_to(tmp_path: Path):
    root = project(tmp_path, "deployments: {}\n")

    add_deployment(root, "prod", {"host": "ssh://vm"})

    assert list(read_deployments(root)) == ["prod"]


def test_what_would_not_be_valid_is_not_written(tmp_path: Path):
    root = project(tmp_path, "")
    with pytest.raises(ProjectError, match="must be the address of a host"):
        add_deployment(root, "prod", {"host": "vm"})
    with pytest.raises(UsageError, match="cannot name a deployment"):
        add_deployment(root, "Prod", {"host": "ssh://vm"})

    assert (root / ".astro/config.yaml").read_text() == HEAD


def test_a_name_is_added_once(tmp_path: Path):
    root = project(tmp_path, "deployments:\n  prod:\n    host: ssh://vm\n")

    with pytest.raises(UsageError, match="there is a deployment `prod` already"):
        add_deployment(root, "prod", {"host": "ssh://other"})


def test_a_section_on_one_line_is_left_alone():
    with pytest.raises(ProjectError, match="written on one line"):
        with_deployment("deployments: {a: {host: ssh://x}}\n", "b", {"host": "ssh://y"})


def test_a_deployment_is_taken_out_and_the_others_stay(tmp_path: Path):
    root = project(
        tmp_path,
        "deployments:\n  prod:\n    host: ssh://a\n    env:\n      A: b\n  stage:  # try here\n    host: ssh://b\n",
    )

    remove_deployment(root, "prod")

    text = (root / ".astro/config.yaml").read_text()
    assert text == f"{HEAD}deployments:\n  stage:  # try here\n    host: ssh://b\n"


def test_with_the_last_one_the_section_goes():
    text = "a: 1\ndeployments:\n  prod:\n    host: ssh://a\nb: 2\n"

    assert without_deployment(text, "prod") == "a: 1\nb: 2\n"


def set_variables(root: Path, values=(), secrets=(), removed=()) -> str:
    """The file afterwards."""
    _, wanted = change_variables(root, "prod", dict(values), secrets, removed)
    write_variables(root, wanted)
    return (root / ".astro/config.yaml").read_text()


def test_variables_are_changed_and_every_other_line_stays(tmp_path: Path):
    before = "deployments:\n  # ours\n  prod:\n    host: ssh://a  # first\n    env:\n      A: b\n      C: d\n"
    after = "    drain: 2m\n    secrets:\n    - TOKEN\n  stage:\n    host: ssh://b\n    env: {A: stage}\n"
    root = project(tmp_path, before + after)

    text = set_variables(root, {"A": "x: y", "E": "1"}, secrets=("KEY",), removed=("C",))

    added = "    env:\n      A: 'x: y'\n      E: '1'\n"
    assert text == HEAD + before.partition("    env:")[0] + added + after.replace(
        "- TOKEN", "- TOKEN\n    - KEY"
    )


def test_the_first_variable_and_the_last_one(tmp_path: Path):
    plain = "deployments:\n  prod:\n    host: ssh://a\n"
    root = project(tmp_path, plain.rstrip())

    assert set_variables(root, {"A": "b"}) == f"{HEAD}{plain}    env:\n      A: b\n"
    assert set_variables(root, removed=("A",)) == HEAD + plain


def test_a_variable_that_becomes_a_secret_is_not_left_in_the_file(tmp_path: Path):
    root = project(tmp_path, "deployments:\n  prod:\n    host: ssh://a\n    env: {TOKEN: x}\n")

    text = set_variables(root, secrets=("TOKEN",))

    assert text == f"{HEAD}deployments:\n  prod:\n    host: ssh://a\n    secrets:\n    - TOKEN\n"


def test_what_a_program_cannot_change_is_left_alone(tmp_path: Path):
    root = project(tmp_path, "deployments:\n  prod: {host: ssh://a}\n")
    before = (root / ".astro/config.yaml").read_text()

    with pytest.raises(ProjectError):
        set_variables(root, {"A": "b"})

    assert (root / ".astro/config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("name", "message"), [("AIRFLOW_HOME", "set by the deployment"), ("A-B", "cannot name")]
)
def test_a_variable_that_cannot_be_set_is_refused(tmp_path: Path, name: str, message: str):
    root = project(tmp_path, "deployments:\n  prod:\n    host: ssh://a\n")

    with pytest.raises(ProjectError, match=message):
        set_variables(root, {name: "x"})


def test_a_variable_that_is_not_there_cannot_be_removed(tmp_path: Path):
    root = project(tmp_path, "deployments:\n  prod:\n    host: ssh://a\n    env: {A: x}\n")

    with pytest.raises(UsageError, match="has no variable B"):
        set_variables(root, removed=("B",))


def test_every_field_is_a_flag_of_add(tmp_path: Path, monkeypatch):
    from typer.testing import CliRunner

    from astro_cli.cli import build_app

    root = project(tmp_path, "")
    monkeypatch.chdir(root)
    flags = (
        "--host ssh://d@vm:22 --identity k --ssh-config s --registry r.example/a/b --executor local "
        "--replicas api-server=2 --memory scheduler=2g --cpus scheduler=1.5 --parallelism 8 --drain 5m -e A=b "
        "--secret TOKEN --secret-file /x/f --database secret:URL --port 81 --bind 0.0.0.0 --certificate secret:PEM "
        "--url https://a.example --edge onsite --keep 3 --keep-logs 7d --keep-history 9d --pytest --require-clean"
    )

    done = CliRunner().invoke(
        build_app(), ["deployment", "add", "prod", *flags.split(), "--secret-command", "pass show"]
    )

    assert done.exit_code == 0, done.output
    assert read_deployments(root)["prod"] == Deployment(
        name="prod",
        hosts=(Host("ssh://d@vm:22", "d@vm", 22),),
        identity="k",
        ssh_config="s",
        registry="r.example/a/b",
        replicas={"api-server": 2},
        resources={"scheduler": Resources(2 * 1024**3, 1.5)},
        parallelism=8,
        drain=300,
        env={"A": "b"},
        secrets=("TOKEN",),
        secret_file="/x/f",
        secret_command=("pass", "show"),
        database="secret:URL",
        publish=Publish(81, "0.0.0.0", "secret:PEM", "https://a.example"),
        keep=3,
        edge=(EdgeGroup("onsite", ("onsite",)),),
        keep_logs=7,
        keep_history=9,
        pytest=True,
        require_clean=True,
    )


def test_a_swarm_is_added_with_each_of_its_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from typer.testing import CliRunner

    from astro_cli.cli import build_app

    root = project(tmp_path, "")
    monkeypatch.chdir(root)
    add = "deployment add prod --host ssh://a --host ssh://b --registry r.example/x --workers worker=5"

    refused = CliRunner().invoke(build_app(), add.split())
    assert refused.exit_code == 2
    assert "only a swarm has several hosts" in refused.output
    assert read_deployments(root) == {}

    refused = CliRunner().invoke(build_app(), [*add.split(), "--target", "swarm", "--bind", "10.0.0.1"])
    assert refused.exit_code == 3
    assert "bind must be 0.0.0.0" in refused.output
    assert read_deployments(root) == {}

    done = CliRunner().invoke(
        build_app(), [*add.split(), "--target", "swarm", "--registry-authority", "ca.pem"]
    )
    assert done.exit_code == 0, done.output
    made = read_deployments(root)["prod"]
    assert [host.url for host in made.hosts] == ["ssh://a", "ssh://b"]
    assert made.workers == (WorkerGroup("worker", count=5),)
    assert made.registry_authority == "ca.pem"


def test_a_file_of_a_windows_editor_is_changed_and_one_in_another_encoding_refused(tmp_path: Path):
    root = project(tmp_path, "deployments:\n  prod:\n    host: ssh://vm\n")
    file = root / ".astro/config.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    add_deployment(root, "stage", {"host": "ssh://b"})
    _, wanted = change_variables(root, "stage", {"A": "1"}, [], [])
    write_variables(root, wanted)
    remove_deployment(root, "prod")
    assert {name: found.env for name, found in read_deployments(root).items()} == {"stage": {"A": "1"}}

    latin = file.read_text().replace("name: shop", "name: caf\xe9").encode("latin-1")
    file.write_bytes(latin)
    for change in (
        lambda: add_deployment(root, "dev", {"host": "ssh://b"}),
        lambda: remove_deployment(root, "stage"),
        lambda: write_variables(root, wanted),
    ):
        with pytest.raises(ProjectError, match="not valid UTF-8"):
            change()
    assert file.read_bytes() == latin


def test_a_cluster_needs_its_registry_alone(tmp_path: Path):
    assert one(tmp_path, "target: kubernetes\nregistry: r.example/shop") == Deployment(
        "prod", (), target="kubernetes", registry="r.example/shop"
    )
    assert "registry" in refusal(tmp_path, "target: kubernetes")


def test_every_field_of_a_cluster_is_understood(tmp_path: Path):
    fields = """\
target: kubernetes
executor: kubernetes
registry: r.example/shop
registry_authority: ca.pem
context: lab
kubeconfig: ~/.kube/lab
namespace: airflow
storage: {class: fast, size: 20Gi, logs: nfs}
resources: {task: {memory: 1g}}
publish: {url: https://airflow.example/, ingress: nginx, certificate: secret:TLS, service: NodePort}
"""
    assert one(tmp_path, fields) == Deployment(
        "prod",
        (),
        target="kubernetes",
        executor="kubernetes",
        registry="r.example/shop",
        registry_authority="ca.pem",
        context="lab",
        kubeconfig="~/.kube/lab",
        namespace="airflow",
        storage=Storage("fast", "20Gi", "nfs"),
        resources={"task": Resources(memory=1024**3)},
        publish=Publish(
            url="https://airflow.example", ingress="nginx", certificate="secret:TLS", service="NodePort"
        ),
    )


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ("host: ssh://vm", "host"),
        ("executor: sequential", "must be one of local, kubernetes, celery"),
        ("workers: {worker: {}}", "workers need `executor: celery`"),
        ("namespace: My_Space", "namespace"),
        ("storage: {size: much}", "size such as 20Gi"),
        ("storage: {sice: 1Gi}", "sice"),
        ("publish: {port: 80}", "port"),
        ("publish: {service: Ingress}", "ClusterIP"),
        ("publish: {ingress: nginx}", "needs the `url`"),
        ("publish: {certificate: secret:A}", "is for an Ingress"),
        ("resources: {task: {memory: 1g}}", "task"),
    ],
)
def test_what_a_cluster_has_not_is_refused(tmp_path: Path, fields: str, word: str):
    assert word in refusal(tmp_path, f"target: kubernetes\nregistry: r.example/shop\n{fields}")


def test_a_host_has_nothing_of_a_cluster(tmp_path: Path):
    assert "namespace" in refusal(tmp_path, "host: ssh://vm\nnamespace: a")
    assert "storage" not in one(tmp_path, "host: ssh://vm").on_target()


def test_every_field_of_a_cluster_is_a_flag_of_add(tmp_path: Path, monkeypatch):
    from typer.testing import CliRunner

    from astro_cli.cli import build_app

    root = project(tmp_path, "")
    monkeypatch.chdir(root)
    flags = (
        "--target kubernetes --registry r.example/a/b --registry-authority ca.pem --context lab --kubeconfig k "
        "--namespace airflow --storage-class fast --storage-size 20Gi --storage-logs nfs --executor kubernetes "
        "--url https://a.example --ingress nginx --service NodePort --certificate secret:PEM"
    )

    done = CliRunner().invoke(build_app(), ["deployment", "add", "prod", *flags.split()])

    assert done.exit_code == 0, done.output
    assert read_deployments(root)["prod"] == Deployment(
        "prod",
        (),
        target="kubernetes",
        registry="r.example/a/b",
        registry_authority="ca.pem",
        context="lab",
        kubeconfig="k",
        namespace="airflow",
        storage=Storage("fast", "20Gi", "nfs"),
        executor="kubernetes",
        publish=Publish(
            url="https://a.example", ingress="nginx", service="NodePort", certificate="secret:PEM"
        ),
    )
