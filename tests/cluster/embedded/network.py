"""Addresses of the cluster, and the bridge on the host that joins it.

    10.90.0.1      the bridge on this machine: API server and name server listen here, and nowhere
    else 10.90.0.10+i   node i 10.88.i.0/24   pods of node i 10.89.0.0/16   services; .0.1 is the
    API server, .0.10 the name server

Nodes know each other's pods by static routes. The host forwards nothing and its packet filter stays
untouched.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

from embedded.stages import StageError, run

BRIDGE = "qwenft0"
# Without a fixed address the bridge takes a port's, and loses it together with that node.
BRIDGE_MAC = "02:90:00:00:00:01"
HOST_ADDRESS = "10.90.0.1"
NODE_NETWORK = "10.90.0.0/24"
POD_NETWORK = "10.88.0.0/16"
SERVICE_NETWORK = "10.89.0.0/16"
API_PORT = 6443
API_SERVER = f"https://{HOST_ADDRESS}:{API_PORT}"
API_SERVICE_ADDRESS = "10.89.0.1"
DNS_SERVICE_ADDRESS = "10.89.0.10"
DNS_READY = "127.0.0.1:18181"
"""Where the name server says whether it knows the cluster yet."""
_MODULES = ("br_netfilter", "overlay", "nf_conntrack", "nf_tables")


def node_address(index: int) -> str:
    """Return the address of node ``index`` (from 1)."""
    return f"10.90.0.{10 + index}"


def pod_network(index: int) -> str:
    """Return the pod network of node ``index``."""
    return f"10.88.{index}.0/24"


def link(index: int) -> str:
    """Return the name of node ``index``'s port on the bridge."""
    return f"qwenft-n{index}"


def overlapping(routes: list[dict[str, object]]) -> tuple[str, ...]:
    """Return this machine's routes, bar the cluster's own, that overlap its networks."""
    ours = [ipaddress.ip_network(text) for text in (NODE_NETWORK, POD_NETWORK, SERVICE_NETWORK)]
    found = []
    for route in routes:
        target = str(route.get("dst", "default"))
        if target == "default" or route.get("dev") == BRIDGE:
            continue
        network = ipaddress.ip_network(target, strict=False)
        if any(network.overlaps(mine) for mine in ours):
            found.append(f"{target} on {route.get('dev')}")
    return tuple(found)


def check_free() -> None:
    """Refuse to start where this machine already routes one of the cluster's networks elsewhere."""
    taken = overlapping(json.loads(run(["ip", "-4", "-json", "route", "show"])))
    if taken:
        raise StageError(
            f"this machine's routes overlap the cluster's networks: {', '.join(taken)}",
            remedy="set KUBECONFIG to a cluster of your own, or take that network down",
        )


def load_modules() -> None:
    """Load the kernel's bridge filter and overlay where they are modules and not built in."""
    if Path("/proc/sys/net/bridge").is_dir():
        return
    run(["modprobe", "--all", *_MODULES])


def create_bridge() -> None:
    """Make the bridge, with a fixed hardware address."""
    run(["ip", "link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge"])
    run(["ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])


def _exists(link_name: str) -> bool:
    # Not by /sys/class/net, which shows the network namespace of whoever mounted it.
    return any(each["ifname"] == link_name for each in json.loads(run(["ip", "-json", "link"])))


def bridge_exists() -> bool:
    """Whether the bridge is there."""
    return _exists(BRIDGE)


def _delete(link_name: str) -> None:
    """Remove a link if it is there; ``StageError`` where it stays.

    The kernel takes a port away some moments after the namespace at its other end, so a link that
    is seen may be gone by the time it is to be deleted: only one that remains is a failure.
    """
    try:
        run(["ip", "link", "delete", link_name])
    except StageError:
        if _exists(link_name):
            raise


def delete_bridge() -> None:
    """Remove the bridge, and with it the routes over it."""
    _delete(BRIDGE)


def plug(index: int, pid: int) -> None:
    """Give the namespace of ``pid`` its ``eth0`` on the bridge, and route to its pods."""
    port = link(index)
    unplug(index)
    peer = ["peer", "name", "eth0", "netns", str(pid)]
    run(["ip", "link", "add", port, "type", "veth", *peer])
    run(["ip", "link", "set", port, "master", BRIDGE, "up"])
    run(["ip", "route", "replace", pod_network(index), "via", node_address(index), "dev", BRIDGE])


def unplug(index: int) -> None:
    """Remove a node's port, also one that is going of itself."""
    _delete(link(index))


def set_link(index: int, *, up: bool) -> None:
    """Cut a node off the bridge, or join it again: the node itself goes on."""
    run(["ip", "link", "set", link(index), "up" if up else "down"])


def inside_script(index: int, count: int) -> str:
    """Return the shell lines that set up the network inside node ``index`` of ``count``."""
    others = [other for other in range(1, count + 1) if other != index]
    routes = [f"ip route add {pod_network(other)} via {node_address(other)}" for other in others]
    return "\n".join(
        [
            "ip link set lo up",
            f"ip address add {node_address(index)}/24 dev eth0",
            "ip link set eth0 up",
            # A service address needs some route before the proxy can rewrite it.
            f"ip route add default via {HOST_ADDRESS}",
            *routes,
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables",
        ]
    )
