from __future__ import annotations

import ipaddress
import json

import pytest

from embedded import cluster, dns, network
from embedded.stages import StageError


def test_the_networks_do_not_overlap() -> None:
    networks = [
        ipaddress.ip_network(text)
        for text in (network.NODE_NETWORK, network.POD_NETWORK, network.SERVICE_NETWORK)
    ]
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)


@pytest.mark.parametrize("index", [1, 2])
def test_a_nodes_addresses_lie_in_their_networks(index: int) -> None:
    address = ipaddress.ip_address(network.node_address(index))
    assert address in ipaddress.ip_network(network.NODE_NETWORK)
    assert address != ipaddress.ip_address(network.HOST_ADDRESS)
    pods = ipaddress.IPv4Network(network.pod_network(index))
    assert pods.subnet_of(ipaddress.IPv4Network(network.POD_NETWORK))


@pytest.mark.parametrize("address", [network.API_SERVICE_ADDRESS, network.DNS_SERVICE_ADDRESS])
def test_service_addresses_lie_in_the_service_network(address: str) -> None:
    assert ipaddress.ip_address(address) in ipaddress.ip_network(network.SERVICE_NETWORK)


def test_link_names_fit_the_kernel() -> None:
    names = {network.BRIDGE, *(network.link(i) for i in range(1, cluster.NODES + 1))}
    assert len(names) == cluster.NODES + 1
    assert max(map(len, names)) <= 15


class Links:
    """``ip`` on a machine whose kernel says so many times that it cannot delete a link."""

    def __init__(self, present: set[str], refusals: int) -> None:
        self.present = present
        self.refusals = refusals

    def __call__(self, command: list[str]) -> str:
        if command == ["ip", "-json", "link"]:
            return json.dumps([{"ifname": name} for name in sorted(self.present)])
        assert command[:3] == ["ip", "link", "delete"]
        if self.refusals or command[3] not in self.present:
            raise StageError(f"{' '.join(command)} exited with 1")
        self.present.discard(command[3])
        return ""


def test_a_port_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    links = Links({network.BRIDGE, network.link(1), network.link(2)}, refusals=0)
    monkeypatch.setattr(network, "run", links)
    network.unplug(2)
    assert links.present == {network.BRIDGE, network.link(1)}


def test_a_port_that_went_with_its_namespace_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "run", Links({network.BRIDGE, network.link(1)}, refusals=0))
    network.unplug(2)


@pytest.mark.parametrize("name", [network.BRIDGE, network.link(1)])
def test_a_link_that_stays_is_a_failure(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(network, "run", Links({network.BRIDGE, network.link(1)}, refusals=1))
    with pytest.raises(StageError, match=f"ip link delete {name}"):
        network.delete_bridge() if name == network.BRIDGE else network.unplug(1)


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ({"dst": "10.88.0.0/14", "dev": "wg0"}, ("10.88.0.0/14 on wg0",)),
        ({"dst": "10.90.0.7", "dev": "tun0"}, ("10.90.0.7 on tun0",)),
        ({"dst": "10.0.0.0/8", "dev": "vpn"}, ("10.0.0.0/8 on vpn",)),
        ({"dst": "10.90.0.0/24", "dev": network.BRIDGE}, ()),
        ({"dst": "default", "dev": "eth0"}, ()),
        ({"dst": "192.168.0.0/16", "dev": "eth0"}, ()),
        ({"dst": "10.91.0.0/16", "dev": "eth0"}, ()),
    ],
)
def test_a_route_in_the_way_is_named(route: dict[str, object], said: tuple[str, ...]) -> None:
    assert network.overlapping([route]) == said


def test_a_node_reaches_the_pods_of_every_other_node() -> None:
    script = network.inside_script(2, 3)
    assert "ip route add 10.88.1.0/24 via 10.90.0.11" in script
    assert "ip route add 10.88.3.0/24 via 10.90.0.13" in script
    assert "ip route add 10.88.2.0/24" not in script


def test_the_default_route_is_set_once_the_link_is_up() -> None:
    lines = network.inside_script(1, 2).splitlines()
    up = lines.index("ip link set eth0 up")
    assert up < lines.index(f"ip route add default via {network.HOST_ADDRESS}")


def test_the_name_service_stands_where_kubelets_say() -> None:
    by_kind = {str(each["kind"]): json.loads(json.dumps(each)) for each in dns.objects()}
    service, endpoints = by_kind["Service"], by_kind["EndpointSlice"]
    assert service["spec"]["clusterIP"] == network.DNS_SERVICE_ADDRESS
    assert "selector" not in service["spec"]
    label = endpoints["metadata"]["labels"]["kubernetes.io/service-name"]
    assert label == service["metadata"]["name"]
    assert endpoints["endpoints"][0]["addresses"] == [network.HOST_ADDRESS]
    assert endpoints["ports"] == service["spec"]["ports"]


def test_the_name_server_may_only_look() -> None:
    role = next(each for each in dns.objects() if each["kind"] == "ClusterRole")
    verbs = {verb for rule in json.loads(json.dumps(role))["rules"] for verb in rule["verbs"]}
    assert verbs == {"list", "watch"}
