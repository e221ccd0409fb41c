from __future__ import annotations

import base64
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from embedded import configuration, control_plane, network, node
from embedded.layout import Layout

CERTIFICATES = Path("/certificates")
ADDRESS = re.compile(r"\b\d+\.\d+\.\d+\.\d+\b")


def flag(flags: list[str], name: str) -> str:
    """Return a flag's value; the flag must stand there once."""
    values = [text.partition("=")[2] for text in flags if text.partition("=")[0] == f"--{name}"]
    assert len(values) == 1, name
    return values[0]


def kubelet_of(index: int, loss: configuration.NodeLoss = configuration.QUICK) -> dict[str, Any]:
    """Return the configuration of a node's kubelet."""
    text = configuration.kubelet(
        f"node-{index}",
        index,
        CERTIFICATES,
        loss,
        group=f"group-{index}",
        reserved_mebibytes=1024,
    )
    return dict(json.loads(text))


@pytest.mark.parametrize("component", ["etcd", "kube-controller-manager", "kube-scheduler"])
def test_what_needs_no_bridge_listens_on_loopback(component: str) -> None:
    plane = control_plane.ControlPlane(
        layout=Layout(cache=Path("/cache")),
        programs={name: Path(name) for name in ("server", *control_plane.COMPONENTS)},
        loss=configuration.QUICK,
    )
    words = " ".join(str(word) for word in plane.command(component))
    assert set(ADDRESS.findall(words)) == {"127.0.0.1"}


def test_the_api_server_listens_on_the_bridge_only() -> None:
    flags = configuration.apiserver_flags(CERTIFICATES, configuration.QUICK)
    assert flag(flags, "bind-address") == network.HOST_ADDRESS
    assert flag(flags, "authorization-mode") == "Node,RBAC"


def test_the_name_server_listens_on_the_bridge_only() -> None:
    text = configuration.corefile(CERTIFICATES)
    assert f"bind {network.HOST_ADDRESS}\n" in text
    assert "forward" not in text


@pytest.mark.parametrize("name", sorted(configuration.NODE_LOSS))
def test_a_lost_node_is_noticed_as_chosen(name: str) -> None:
    loss = configuration.NODE_LOSS[name]
    api = configuration.apiserver_flags(CERTIFICATES, loss)
    manager = configuration.controller_manager_flags(CERTIFICATES, loss)
    kubelet = kubelet_of(1, loss)
    assert flag(api, "default-unreachable-toleration-seconds") == str(loss.toleration)
    assert flag(manager, "node-monitor-grace-period") == f"{loss.monitor_grace}s"
    assert kubelet["nodeStatusUpdateFrequency"] == f"{loss.status_update}s"
    # A node must be able to miss a sign of life or two before it counts as lost.
    assert loss.monitor_grace >= 3 * loss.status_update
    assert kubelet["nodeLeaseDurationSeconds"] <= loss.monitor_grace


def test_the_defaults_are_those_of_kubernetes() -> None:
    default = configuration.KUBERNETES_DEFAULT
    assert (default.monitor_grace, default.toleration, default.lease) == (50, 300, 40)


def test_a_kubelet_asks_who_is_there() -> None:
    kubelet = kubelet_of(2)
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}
    assert kubelet["authorization"] == {"mode": "Webhook"}
    assert kubelet["readOnlyPort"] == 0
    assert kubelet["address"] == network.node_address(2)
    assert kubelet["cgroupRoot"] == "/group-2"
    assert kubelet["systemReserved"] == {"memory": "1024Mi"}


def test_nodes_share_nothing_that_must_be_their_own() -> None:
    first, second = kubelet_of(1), kubelet_of(2)
    differing = {name for name in first if first[name] != second[name]}
    assert differing == {"address", "cgroupRoot", "tlsCertFile", "tlsPrivateKeyFile"}
    assert configuration.cni(1) != configuration.cni(2)


def test_pods_of_a_node_get_addresses_of_its_range() -> None:
    plugin = json.loads(configuration.cni(2))["plugins"][0]
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.88.2.0/24"}]]
    assert not plugin.get("ipMasq", False)


def test_containerd_keeps_images_on_disk_and_the_rest_in_memory() -> None:
    text = configuration.containerd(Path("/cache/a b"), Path("/etc/cni"), node.PAUSE_IMAGE)
    table = tomllib.loads(text)
    cri = table["plugins"]["io.containerd.grpc.v1.cri"]
    assert table["root"] == "/cache/a b"
    assert table["state"].startswith("/run/")
    assert cri["sandbox_image"] == node.PAUSE_IMAGE
    assert cri["cni"] == {"bin_dir": "/usr/lib/cni", "conf_dir": "/etc/cni"}
    assert cri["containerd"]["runtimes"]["runc"]["options"] == {"SystemdCgroup": False}


def test_the_proxy_leaves_the_machines_connection_table_alone() -> None:
    proxy = json.loads(configuration.proxy(CERTIFICATES, "node-1"))
    assert proxy["conntrack"] == {"maxPerCore": 0, "min": 0}
    assert proxy["healthzBindAddress"].startswith("127.0.0.1:")


def test_a_kubeconfig_needs_no_other_file(tmp_path: Path) -> None:
    for name in ("ca.crt", "admin.crt", "admin.key"):
        (tmp_path / name).write_text(f"content of {name}")
    document = json.loads(configuration.kubeconfig(tmp_path, "admin"))
    user = document["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == b"content of admin.key"
    assert document["clusters"][0]["cluster"]["server"] == "https://10.90.0.1:6443"
    assert document["current-context"] == document["contexts"][0]["name"]
    assert str(tmp_path) not in json.dumps(document)
