"""The cluster's name server: CoreDNS on the host's side of the bridge, behind ``kube-dns``."""

from __future__ import annotations

from embedded import network

_LABELS = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}


def _rights() -> list[dict[str, object]]:
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    api = "rbac.authorization.k8s.io"
    name = {"name": "qwenft:coredns"}
    subject = {"kind": "User", "apiGroup": api, "name": "qwenft:coredns"}
    return [
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": name, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"kind": "ClusterRole", "apiGroup": api, **name},
            "subjects": [subject],
        },
    ]


def objects() -> list[dict[str, object]]:
    """Return the rights of the name server, its Service and the addresses behind it."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    service: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": _LABELS},
        "spec": {"clusterIP": network.DNS_SERVICE_ADDRESS, "ports": ports},
    }
    slice_labels = {"kubernetes.io/service-name": "kube-dns"}
    endpoints: dict[str, object] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns-host", "namespace": "kube-system", "labels": slice_labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [network.HOST_ADDRESS], "conditions": {"ready": True}}],
        "ports": ports,
    }
    return [*_rights(), service, endpoints]
