"""Starting and ending the control plane, and whom it knows."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bare.guard import Guard
from embedded import binaries, certificates, configuration, network, processes, versions
from embedded.certificates import Leaf
from embedded.layout import Layout
from embedded.stages import direct_environment, run, wait_until
from loopback import free_ports

__all__ = ["OPERATOR", "Plane", "plane"]

OPERATOR = "system:serviceaccount:qwenft-system:qwenft"
ROOT = Path(__file__).resolve().parents[3]
# Without the node controllers nobody expects heartbeats of nodes that are only objects.
CONTROLLERS = (
    "job-controller", "garbage-collector-controller", "namespace-controller",
    "serviceaccount-controller", "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller", "resourcequota-controller",
    "persistentvolume-binder-controller",
)  # fmt: skip
CLIENTS = ("admin", "controller-manager", "scheduler", "operator")


@dataclass(kw_only=True)
class Plane:
    """A running control plane."""

    folder: Path
    layout: Layout
    ports: dict[str, int]
    guard: Guard
    controller_flags: tuple[str, ...] = ()
    apiserver_flags: tuple[str, ...] = ()
    scheduler_flags: tuple[str, ...] = ()
    started: dict[str, processes.Process] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The apiserver's address."""
        return f"https://127.0.0.1:{self.ports['apiserver']}"

    @property
    def audit(self) -> Path:
        """The log of what the operator asked of the apiserver."""
        return self.folder / "audit.log"

    def program(self, name: str) -> Path:
        """Return the path of a program of the cache."""
        return binaries.program(self.layout, versions.load(), name)

    def kubeconfig(self, client: str) -> Path:
        """Return a client's kubeconfig."""
        return self.folder / "certificates" / f"{client}.kubeconfig"

    def kubectl(self, *words: str, stdin: object = None) -> str:
        """Run kubectl as administrator; ``stdin`` is sent as JSON."""
        command = [self.program("kubectl"), f"--kubeconfig={self.kubeconfig('admin')}", *words]
        text = None if stdin is None else json.dumps(stdin)
        return run(command, environment=direct_environment(), stdin=text)

    def guest_is_ready(self) -> bool:
        """Whether a controller that is not ours answers, on the port that is kept for its probe."""
        try:
            url = f"http://127.0.0.1:{self.ports['guest']}/readyz"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def namespace(self, name: str) -> None:
        """Make a namespace with a claim ``data`` that is bound."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.kubectl("create", "-f", "-", stdin=body)
        self.claims(name, "data")

    def claims(self, namespace: str, *names: str) -> None:
        """Make claims that are bound, to volumes that nobody mounts."""
        size, modes = {"storage": "1Gi"}, ["ReadWriteMany"]
        for name in names:
            claim, volume = {"name": name, "namespace": namespace}, f"{name}-{namespace}"
            objects = [
                {"kind": "PersistentVolumeClaim", "metadata": claim,
                 "spec": {"accessModes": modes, "resources": {"requests": size},
                          "storageClassName": "", "volumeName": volume}},
                {"kind": "PersistentVolume", "metadata": {"name": volume},
                 "spec": {"accessModes": modes, "capacity": size, "claimRef": claim,
                          "nfs": {"server": "nowhere.invalid", "path": "/"}}},
            ]  # fmt: skip
            for body in objects:
                self.kubectl("create", "-f", "-", stdin={"apiVersion": "v1", **body})
        bound = ["--for=jsonpath={.status.phase}=Bound", "--timeout=60s"]
        self.kubectl("wait", "-n", namespace, *bound, *(f"pvc/{name}" for name in names))

    def start(self, name: str, *words: str | Path) -> processes.Process:
        """Start a process of the plane, its output in ``<name>.log``."""
        log = self.folder / f"{name}.log"
        made = processes.start(name, words, log=log, environment=direct_environment())
        self.guard.over(made)
        self.started[name] = made
        return made

    def stop(self, name: str, *, grace: float = 5.0) -> None:
        """End a process that was started here."""
        processes.stop(self.started.pop(name), grace=grace)

    def start_apiserver(self) -> None:
        """Start the apiserver and wait until it is ready."""
        self.start("apiserver", self.program("kube-apiserver"), *_apiserver(self))
        log = self.folder / "apiserver.log"
        wait_until(self._is_ready, seconds=120, what="the apiserver's readiness", log=log)

    def start_scheduler(self) -> None:
        """Start the scheduler; whoever stopped it may start it anew."""
        self.start("scheduler", self.program("kube-scheduler"), *_scheduler(self))

    def _is_ready(self) -> bool:
        if not processes.alive(self.started["apiserver"]):
            raise RuntimeError((self.folder / "apiserver.log").read_text()[-2000:])
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except Exception:  # noqa: BLE001 - any refusal means not yet
            return False


@contextmanager
def plane(
    folder: Path,
    layout: Layout,
    *,
    scheduler: bool = True,
    controller_flags: tuple[str, ...] = (),
    apiserver_flags: tuple[str, ...] = (),
    scheduler_flags: tuple[str, ...] = (),
) -> Iterator[Plane]:
    """Bring a control plane up with the definition and the operator's rights; end it at last.

    Also where the test is killed in the middle of it: see :mod:`bare.guard`.
    """
    with Guard() as guard:
        made = Plane(
            folder=folder,
            layout=layout,
            guard=guard,
            ports=_ports(),
            controller_flags=controller_flags,
            apiserver_flags=apiserver_flags,
            scheduler_flags=scheduler_flags,
        )
        yield from _guarded(made, scheduler=scheduler)


def _ports() -> dict[str, int]:
    parts = ("etcd", "peer", "apiserver", "controllers", "scheduler", "kwok", "probe", "progress",
             "metrics", "guest", "webhook")  # fmt: skip
    return dict(zip(parts, free_ports(len(parts)), strict=True))


def _guarded(made: Plane, *, scheduler: bool) -> Iterator[Plane]:
    data = Path(f"/dev/shm/{made.folder.name}-{made.ports['etcd']}-etcd")  # noqa: S108
    data.mkdir(mode=0o700)
    made.guard.over_folder(data)
    try:
        _write(made)
        made.start("etcd", made.program("server"), *_etcd(made, data))
        made.start_apiserver()
        made.start("controllers", made.program("kube-controller-manager"), *_controllers(made))
        if scheduler:
            made.start_scheduler()
        _install(made)
        yield made
    finally:
        for name in reversed(list(made.started)):
            made.stop(name)
        shutil.rmtree(data, ignore_errors=True)


def _write(made: Plane) -> None:
    certs = made.folder / "certificates"
    certificates.make_all(certs, ())
    certificates.issue(certs, Leaf(file="operator", common_name=OPERATOR))
    for client in CLIENTS:
        text = configuration.kubeconfig(certs, client).replace(network.API_SERVER, made.url)
        made.kubeconfig(client).write_text(text, encoding="utf-8")
    rules = [
        {"level": "Metadata", "users": [OPERATOR], "omitStages": ["RequestReceived"]},
        {"level": "None"},
    ]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}
    (made.folder / "audit.json").write_text(json.dumps(policy), encoding="utf-8")


def _install(made: Plane) -> None:
    """Install the definition and the rights as the manifests have them."""
    for name in ("namespace", "crd", "rbac"):
        made.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / f"{name}.yaml"))
    made.kubectl("wait", "--for=condition=Established", "crd/qwenfinetunes.qwenft.dev")


def _etcd(made: Plane, data: Path) -> list[str]:
    client = f"http://127.0.0.1:{made.ports['etcd']}"
    peer = f"http://127.0.0.1:{made.ports['peer']}"
    return [
        "--name=bare", f"--data-dir={data}", f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=bare={peer}",
        "--unsafe-no-fsync", "--log-level=warn", "--quota-backend-bytes=4294967296",
    ]  # fmt: skip


def _apiserver(made: Plane) -> list[str]:
    certs = made.folder / "certificates"
    return [
        f"--etcd-servers=http://127.0.0.1:{made.ports['etcd']}",
        "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
        f"--secure-port={made.ports['apiserver']}", "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={network.SERVICE_NETWORK}",
        f"--client-ca-file={certs}/ca.crt",
        f"--tls-cert-file={certs}/apiserver.crt", f"--tls-private-key-file={certs}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={certs}/tokens.pub",
        f"--service-account-signing-key-file={certs}/tokens.key",
        "--authorization-mode=RBAC",
        # With it, an owner reference that blocks deletion needs a right of its own.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        "--disable-admission-plugins=TaintNodesByCondition",  # nobody would lift the taint
        "--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000",
        "--profiling=false", f"--audit-policy-file={made.folder}/audit.json",
        f"--audit-log-path={made.audit}", *made.apiserver_flags,
    ]  # fmt: skip


def _controllers(made: Plane) -> list[str]:
    certs = made.folder / "certificates"
    return [
        f"--kubeconfig={made.kubeconfig('controller-manager')}",
        f"--service-account-private-key-file={certs}/tokens.key",
        f"--root-ca-file={certs}/ca.crt", "--use-service-account-credentials=true",
        f"--controllers={','.join(CONTROLLERS)}", "--bind-address=127.0.0.1",
        f"--secure-port={made.ports['controllers']}", "--leader-elect=false", "--profiling=false",
        *(made.controller_flags or ("--kube-api-qps=500", "--kube-api-burst=500",
                                    "--concurrent-job-syncs=20")),
    ]  # fmt: skip


def _scheduler(made: Plane) -> list[str]:
    return [
        f"--kubeconfig={made.kubeconfig('scheduler')}", "--bind-address=127.0.0.1",
        f"--secure-port={made.ports['scheduler']}", "--leader-elect=false", "--profiling=false",
        "--kube-api-qps=1000", "--kube-api-burst=1000", *made.scheduler_flags,
    ]  # fmt: skip
