"""The cluster's own authority and each client's certificate, made by the ``openssl`` program.

Python 3.13 verifies strictly: the authority carries a critical keyUsage, and every leaf subject and
authority key identifiers, basicConstraints and keyUsage. Keys are P-256: made in milliseconds, and
good for tokens too.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from embedded import network
from embedded.stages import run

DAYS = 365
AUTHORITY_CONFIG = """\
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = qwenft embedded cluster
[extensions]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    """A certificate to issue; with ``names`` (``DNS:…``, ``IP:…``) it also serves."""

    file: str
    common_name: str
    organization: str = ""
    names: tuple[str, ...] = ()


def leaves(nodes: tuple[str, ...]) -> tuple[Leaf, ...]:
    """Return every certificate of a cluster with these nodes, in order of their index."""
    service_names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    api_names = (
        *(f"DNS:{name}" for name in (*service_names, "kubernetes.default.svc.cluster.local")),
        f"IP:{network.HOST_ADDRESS}",
        f"IP:{network.API_SERVICE_ADDRESS}",
        "IP:127.0.0.1",
    )
    node_leaves = (
        Leaf(
            file=name,
            common_name=f"system:node:{name}",
            organization="system:nodes",
            names=(f"DNS:{name}", f"IP:{network.node_address(index)}"),
        )
        for index, name in enumerate(nodes, start=1)
    )
    return (
        Leaf(file="apiserver", common_name="kube-apiserver", names=api_names),
        Leaf(
            file="apiserver-kubelet", common_name="apiserver-kubelet", organization="system:masters"
        ),
        Leaf(file="admin", common_name="qwenft-admin", organization="system:masters"),
        Leaf(file="controller-manager", common_name="system:kube-controller-manager"),
        Leaf(file="scheduler", common_name="system:kube-scheduler"),
        Leaf(file="proxy", common_name="system:kube-proxy"),
        Leaf(file="coredns", common_name="qwenft:coredns"),
        *node_leaves,
    )


def leaf_config(leaf: Leaf) -> str:
    """Return the openssl configuration of one leaf: its name and its extensions."""
    usage = "serverAuth, clientAuth" if leaf.names else "clientAuth"
    organization = [f"O = {leaf.organization}"] if leaf.organization else []
    names = [f"subjectAltName = {', '.join(leaf.names)}"] if leaf.names else []
    return "\n".join(
        [
            "[req]",
            "prompt = no",
            "distinguished_name = name",
            "[name]",
            *organization,
            f"CN = {leaf.common_name}",
            "[extensions]",
            "basicConstraints = critical, CA:false",
            "keyUsage = critical, digitalSignature",
            f"extendedKeyUsage = {usage}",
            "subjectKeyIdentifier = hash",
            "authorityKeyIdentifier = keyid",
            *names,
            "",
        ]
    )


def _key(path: Path) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])
    path.chmod(0o600)


def _make_authority(folder: Path) -> None:
    _key(folder / "ca.key")
    (folder / "ca.cnf").write_text(AUTHORITY_CONFIG, encoding="utf-8")
    request = ["openssl", "req", "-x509", "-new", "-sha256", "-days", str(DAYS)]
    files: list[str | Path] = [
        "-key",
        folder / "ca.key",
        "-config",
        folder / "ca.cnf",
        "-out",
        folder / "ca.crt",
    ]
    run([*request, *files])


def issue(folder: Path, leaf: Leaf) -> None:
    """Make the key and the certificate of one leaf, signed by the folder's authority."""
    stem = folder / leaf.file
    key, config, request = (stem.with_name(f"{leaf.file}.{end}") for end in ("key", "cnf", "csr"))
    _key(key)
    config.write_text(leaf_config(leaf), encoding="utf-8")
    run(["openssl", "req", "-new", "-sha256", "-key", key, "-config", config, "-out", request])
    signing: list[str | Path] = [
        "-CA",
        folder / "ca.crt",
        "-CAkey",
        folder / "ca.key",
        "-CAcreateserial",
    ]
    extensions: list[str | Path] = ["-extfile", config, "-extensions", "extensions"]
    out = stem.with_name(f"{leaf.file}.crt")
    days = ["-sha256", "-days", str(DAYS)]
    run(["openssl", "x509", "-req", "-in", request, *signing, *extensions, *days, "-out", out])


def make_all(folder: Path, nodes: tuple[str, ...]) -> None:
    """Make a fresh set of certificates, and ``tokens.key``, which signs service account tokens."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    _make_authority(folder)
    for leaf in leaves(nodes):
        issue(folder, leaf)
    _key(folder / "tokens.key")
    run(["openssl", "ec", "-in", folder / "tokens.key", "-pubout", "-out", folder / "tokens.pub"])
