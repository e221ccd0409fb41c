"""The embedded cluster is a real one, loses nodes for real, and leaves nothing behind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import beside
from beside import Beside
from embedded import images, layout, network, processes, versions
from embedded.stages import StageError, run, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
NODES = {"left": "node-1", "right": "node-2"}
# A node that is lost counts as lost after 8 s; twice that on a loaded machine.
LOST_SECONDS = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Beside]:
    if os.geteuid() != 0:
        pytest.fail("the embedded cluster needs root")
    first = layout.from_environment()
    held = beside.hold(beside.prepare(first))
    try:
        held.embedded("down")
        held.embedded("up")
        beside.give_base(held, first)
        yield held
        held.embedded("down")
    finally:
        processes.stop(held.holder)


def pod(name: str, node: str) -> dict[str, Any]:
    container = {
        "name": "server",
        "image": images.BASE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-m", "http.server", "8000", "--directory", "/data"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "hostname": name,
        "subdomain": "pair",
        "nodeSelector": {"kubernetes.io/hostname": node},
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    metadata = {"name": name, "labels": {"app": "pair"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": 8000}]
    body = {"selector": {"app": "pair"}, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


@pytest.fixture(scope="module")
def pair(cluster: Beside) -> Beside:
    """One pod on each node, a volume that both see, and services over both."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    services = (service("pair", clusterIP="None"), service("web"))
    cluster.apply(claim, *services, *(pod(name, node) for name, node in NODES.items()))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/left", "pod/right", "--timeout=60s")
    return cluster


def test_both_nodes_run_the_pinned_kubernetes(cluster: Beside) -> None:
    nodes = cluster.get("nodes")["items"]
    reported = {each["metadata"]["name"]: each["status"]["nodeInfo"] for each in nodes}
    assert set(reported) == {"node-1", "node-2"}
    pinned = versions.load().go["kubernetes"]
    assert {info["kubeletVersion"] for info in reported.values()} == {pinned}


@pytest.mark.parametrize("kind", ["net", "pid", "mnt", "uts", "ipc"])
def test_each_node_lives_in_namespaces_of_its_own(cluster: Beside, kind: str) -> None:
    first_processes = [node.process("init") for node in cluster.cluster.nodes]
    places = {f"/proc/{each.pid}/ns/{kind}" for each in first_processes if each is not None}
    assert len(places) == 2
    assert len({Path(place).readlink() for place in (*places, f"/proc/self/ns/{kind}")}) == 3


def test_the_host_side_listens_on_loopback_and_its_own_bridge_only(cluster: Beside) -> None:
    sockets = run(cluster.inside("ss", "--listening", "--numeric", "--tcp", "--udp", "--no-header"))
    addresses = {line.split()[4].rpartition(":")[0] for line in sockets.splitlines()}
    assert network.HOST_ADDRESS in addresses
    assert addresses <= {network.HOST_ADDRESS, "127.0.0.1", "[::1]"}


def fetch(address: str) -> str:
    return f"import urllib.request as u; print(u.urlopen('http://{address}/', timeout=10).status)"


@pytest.mark.parametrize(("here", "there"), [("left", "right"), ("right", "left")])
def test_pods_reach_each_other_across_nodes(pair: Beside, here: str, there: str) -> None:
    address = pair.get("pod", there)["status"]["podIP"]
    assert pair.python(here, fetch(f"{address}:8000")) == "200"


@pytest.mark.parametrize("here", ["left", "right"])
@pytest.mark.parametrize(
    "name", ["left.pair:8000", "right.pair.default.svc.cluster.local:8000", "web"]
)
def test_names_and_service_addresses_lead_to_pods(pair: Beside, here: str, name: str) -> None:
    assert pair.python(here, fetch(name)) == "200"


def test_a_name_that_nobody_has_is_unknown_at_once(pair: Beside) -> None:
    script = (
        "import socket, time; began = time.monotonic()\n"
        "try: socket.getaddrinfo('nobody.pair', 80)\n"
        "except socket.gaierror: print(time.monotonic() - began < 2)"
    )
    assert pair.python("left", script) == "True"


def test_a_file_written_on_one_node_is_read_on_the_other(pair: Beside) -> None:
    pair.python("left", "import os; open('/data/note', 'w').write(str(os.getuid()))")
    assert pair.python("right", "print(open('/data/note').read())") == "1000"


def test_a_pod_asks_the_api_server_with_its_own_token(pair: Beside) -> None:
    script = (
        "import ssl, urllib.error, urllib.request as u\n"
        "home = '/var/run/secrets/kubernetes.io/serviceaccount/'\n"
        "trust = ssl.create_default_context(cafile=home + 'ca.crt')\n"
        "trust.verify_flags |= ssl.VERIFY_X509_STRICT\n"
        "def ask(path):\n"
        "    bearer = {'Authorization': 'Bearer ' + open(home + 'token').read()}\n"
        "    request = u.Request('https://kubernetes.default.svc' + path, headers=bearer)\n"
        "    try: return u.urlopen(request, context=trust, timeout=10).status\n"
        "    except urllib.error.HTTPError as error: return error.code\n"
        "print(ask('/version'), ask('/api/v1/namespaces/default/secrets'))"
    )
    assert pair.python("right", script) == "200 403"


def job(name: str, script: str) -> dict[str, Any]:
    container = {"name": "one", "image": images.BASE, "command": ["python3", "-c", script]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {
        "completions": 2,
        "parallelism": 2,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def test_a_job_completes_and_its_pods_go_with_it(cluster: Beside) -> None:
    cluster.apply(job("count", "import os; print(os.environ['JOB_COMPLETION_INDEX'])"))
    cluster.kubectl("wait", "--for=condition=Complete", "job/count", "--timeout=60s")
    logs = cluster.kubectl("logs", "--selector=job-name=count", "--prefix=false")
    assert sorted(logs.split()) == ["0", "1"]
    cluster.kubectl("delete", "job", "count")
    wait_until(
        lambda: not cluster.get("pods", "--selector=job-name=count")["items"],
        seconds=30,
        what="the end of the job's pods",
    )


def test_a_job_that_fails_is_failed(cluster: Beside) -> None:
    cluster.apply(job("stumble", "raise SystemExit(67)"))
    cluster.kubectl("wait", "--for=condition=Failed", "job/stumble", "--timeout=60s")
    pods = cluster.get("pods", "--selector=job-name=stumble")["items"]
    codes = {
        each["state"]["terminated"]["exitCode"]
        for item in pods
        for each in item["status"]["containerStatuses"]
        if "terminated" in each["state"]
    }
    assert codes == {67}
    cluster.kubectl("delete", "job", "stumble")


def test_a_healthy_cluster_is_kept(cluster: Beside) -> None:
    before = cluster.get("namespace", "default")["metadata"]["uid"]
    said = cluster.embedded("up")
    assert "control plane" not in said
    assert cluster.get("namespace", "default")["metadata"]["uid"] == before


def test_a_killed_node_is_noticed_and_comes_back_with_its_images(pair: Beside) -> None:
    before = pair.get("namespace", "default")["metadata"]["uid"]
    pair.embedded("lose", "2")
    pair.await_ready("node-2", "Unknown", "False", seconds=LOST_SECONDS)
    assert pair.python("left", "print('alive')") == "alive"
    with pytest.raises(StageError):
        pair.embedded("status")
    said = pair.embedded("up")
    assert "bring lost nodes back" in said
    assert "starting afresh" not in said, said
    pair.await_ready("node-2", "True", seconds=LOST_SECONDS)
    assert pair.get("namespace", "default")["metadata"]["uid"] == before
    pair.kubectl("delete", "pod", "right", "--ignore-not-found", "--wait=true", "--timeout=60s")
    pair.apply(pod("right", "node-2"))
    pair.kubectl("wait", "--for=condition=Ready", "pod/right", "--timeout=60s")
    assert pair.python("right", "print(open('/data/note').read())") == "1000"


def test_a_node_that_is_cut_off_is_noticed_and_its_pods_go_on(pair: Beside) -> None:
    identity = pair.get("pod", "left")["metadata"]["uid"]
    pair.embedded("cut", "1")
    pair.await_ready("node-1", "Unknown", "False", seconds=LOST_SECONDS)
    pair.embedded("join", "1")
    pair.await_ready("node-1", "True", seconds=LOST_SECONDS)
    assert pair.get("pod", "left")["metadata"]["uid"] == identity


@pytest.mark.full
def test_a_node_without_kubelet_is_noticed_and_revived(pair: Beside) -> None:
    pair.embedded("mute", "2")
    pair.await_ready("node-2", "Unknown", "False", seconds=LOST_SECONDS)
    pair.embedded("revive", "2")
    pair.await_ready("node-2", "True", seconds=LOST_SECONDS)


def test_a_volume_whose_claim_is_gone_is_emptied_and_offered_again(pair: Beside) -> None:
    name = pair.get("pvc", "data")["spec"]["volumeName"]
    note = pair.cluster.layout.volumes / name / "note"
    assert note.exists()
    pair.kubectl("delete", "pod", "left", "right", "--ignore-not-found", "--timeout=60s")
    pair.kubectl("delete", "pvc", "data", "--timeout=60s")
    pair.embedded("up")
    assert not note.exists()
    wait_until(
        lambda: pair.get("pv", name)["status"]["phase"] == "Available",
        seconds=30,
        what="the volume's return",
    )


def test_down_leaves_nothing(cluster: Beside) -> None:
    cluster.embedded("down")
    assert cluster.leavings() == []


@pytest.mark.parametrize("after", ["control plane", "nodes"])
def test_an_interrupted_start_leaves_nothing(cluster: Beside, after: str) -> None:
    code, said = beside.interrupted(cluster, after)
    assert code == 130, said
    assert cluster.leavings() == []


def test_what_was_interrupted_starts_again(cluster: Beside) -> None:
    assert re.search(r"cluster up: export KUBECONFIG=\S+", cluster.embedded("up"))
    assert cluster.embedded("status").strip() == "healthy"
