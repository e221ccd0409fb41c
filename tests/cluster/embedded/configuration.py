"""What each component is told, as pure functions: flags, kubeconfigs and configuration files.

Kubernetes reads JSON wherever it reads YAML, so nothing here needs a YAML library.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from embedded import network


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeLoss:
    """How quickly a lost node is noticed; all in seconds.

    ``monitor_grace`` until the node counts as lost, ``toleration`` from then until its pods are
    evicted, ``status_update`` and ``lease`` between and for the node's signs of life.
    """

    monitor_period: int
    monitor_grace: int
    toleration: int
    status_update: int
    lease: int


# Tests lose nodes on purpose, so the first is the default here; the second is Kubernetes' own.
QUICK = NodeLoss(monitor_period=1, monitor_grace=8, toleration=5, status_update=2, lease=8)
KUBERNETES_DEFAULT = NodeLoss(
    monitor_period=5, monitor_grace=50, toleration=300, status_update=10, lease=40
)
NODE_LOSS = {"quick": QUICK, "default": KUBERNETES_DEFAULT}


def kubeconfig(folder: Path, client: str) -> str:
    """Return a kubeconfig that carries the client's key and certificate in itself."""
    encoded = {
        file: base64.b64encode((folder / file).read_bytes()).decode()
        for file in ("ca.crt", f"{client}.crt", f"{client}.key")
    }
    cluster = {"server": network.API_SERVER, "certificate-authority-data": encoded["ca.crt"]}
    user = {
        "client-certificate-data": encoded[f"{client}.crt"],
        "client-key-data": encoded[f"{client}.key"],
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "qwenft-embedded",
        "clusters": [{"name": "qwenft-embedded", "cluster": cluster}],
        "users": [{"name": client, "user": user}],
        "contexts": [
            {"name": "qwenft-embedded", "context": {"cluster": "qwenft-embedded", "user": client}}
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def etcd_flags(data: Path) -> list[str]:
    """Return etcd's flags: loopback only, and no fsync, for the data lies in memory."""
    client, peer = "http://127.0.0.1:23790", "http://127.0.0.1:23800"
    return [
        "--name=embedded",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=embedded={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_flags(certificates: Path, loss: NodeLoss) -> list[str]:
    """Return the API server's flags."""
    return [
        "--etcd-servers=http://127.0.0.1:23790",
        f"--bind-address={network.HOST_ADDRESS}",
        f"--advertise-address={network.HOST_ADDRESS}",
        f"--secure-port={network.API_PORT}",
        f"--service-cluster-ip-range={network.SERVICE_NETWORK}",
        f"--client-ca-file={certificates}/ca.crt",
        f"--tls-cert-file={certificates}/apiserver.crt",
        f"--tls-private-key-file={certificates}/apiserver.key",
        f"--kubelet-certificate-authority={certificates}/ca.crt",
        f"--kubelet-client-certificate={certificates}/apiserver-kubelet.crt",
        f"--kubelet-client-key={certificates}/apiserver-kubelet.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={certificates}/tokens.pub",
        f"--service-account-signing-key-file={certificates}/tokens.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        # The host has no service proxy: webhooks and aggregated APIs are reached at their pods.
        "--enable-aggregator-routing=true",
        "--profiling=false",
        f"--default-not-ready-toleration-seconds={loss.toleration}",
        f"--default-unreachable-toleration-seconds={loss.toleration}",
    ]


def controller_manager_flags(certificates: Path, loss: NodeLoss) -> list[str]:
    """Return the controller manager's flags; limits are raised so that 1,000 pods take seconds."""
    return [
        f"--kubeconfig={certificates}/controller-manager.kubeconfig",
        f"--service-account-private-key-file={certificates}/tokens.key",
        f"--root-ca-file={certificates}/ca.crt",
        f"--cluster-signing-cert-file={certificates}/ca.crt",
        f"--cluster-signing-key-file={certificates}/ca.key",
        "--use-service-account-credentials=true",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
        "--concurrent-job-syncs=20",
        f"--node-monitor-period={loss.monitor_period}s",
        f"--node-monitor-grace-period={loss.monitor_grace}s",
    ]


def scheduler_flags(certificates: Path) -> list[str]:
    """Return the scheduler's flags."""
    return [
        f"--kubeconfig={certificates}/scheduler.kubeconfig",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
    ]


def kubelet(
    name: str,
    index: int,
    certificates: Path,
    loss: NodeLoss,
    *,
    group: str,
    reserved_mebibytes: int,
) -> str:
    """Return the kubelet's configuration; ``group`` is the control group of all its pods.

    ``reserved_mebibytes`` is withheld from what pods may ask for: every node sees the whole
    machine's memory.
    """
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node_address(index),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{certificates}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{certificates}/{name}.crt",
        "tlsPrivateKeyFile": f"{certificates}/{name}.key",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "systemReserved": {"memory": f"{reserved_mebibytes}Mi"},
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "clusterDNS": [network.DNS_SERVICE_ADDRESS],
        # The machine's own name servers are none of the pods' business.
        "resolvConf": "",
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "nodeStatusUpdateFrequency": f"{loss.status_update}s",
        "nodeLeaseDurationSeconds": loss.lease,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    }
    return json.dumps(document, indent=2) + "\n"


def proxy(certificates: Path, name: str) -> str:
    """Return kube-proxy's configuration: nftables inside the node's own network namespace."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{certificates}/proxy.kubeconfig"},
        "hostnameOverride": name,
        "mode": "nftables",
        "clusterCIDR": network.POD_NETWORK,
        "bindAddress": "127.0.0.1",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # The connection table belongs to the machine: leave its size alone.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }
    return json.dumps(document, indent=2) + "\n"


def containerd(root: Path, cni: Path, pause_image: str) -> str:
    """Return containerd's configuration: images on disk, what dies with the node under /run."""
    snapshotters = ("aufs", "btrfs", "devmapper", "zfs")
    unused = [f"io.containerd.snapshotter.v1.{name}" for name in snapshotters]
    return "\n".join(
        [
            "version = 2",
            f"root = {json.dumps(str(root))}",
            'state = "/run/containerd"',
            f"disabled_plugins = {json.dumps(unused)}",
            "[grpc]",
            'address = "/run/containerd/containerd.sock"',
            '[plugins."io.containerd.grpc.v1.cri"]',
            f"sandbox_image = {json.dumps(pause_image)}",
            "restrict_oom_score_adj = true",
            'stream_server_address = "127.0.0.1"',
            '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]',
            'runtime_type = "io.containerd.runc.v2"',
            '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]',
            "SystemdCgroup = false",
            '[plugins."io.containerd.grpc.v1.cri".cni]',
            'bin_dir = "/usr/lib/cni"',
            f"conf_dir = {json.dumps(str(cni))}",
            "",
        ]
    )


def cni(index: int) -> str:
    """Return node ``index``'s pod network: a bridge and a range of addresses of its own."""
    ranges = [[{"subnet": network.pod_network(index)}]]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}, indent=2) + "\n"


def corefile(certificates: Path) -> str:
    """Return the name server's configuration: the cluster's names and no others."""
    return "\n".join(
        [
            ".:53 {",
            f"    bind {network.HOST_ADDRESS}",
            f"    ready {network.DNS_READY}",
            "    errors",
            "    kubernetes cluster.local in-addr.arpa {",
            f"        kubeconfig {certificates}/coredns.kubeconfig",
            "        pods insecure",
            "        ttl 1",
            "    }",
            "}",
            "",
        ]
    )
