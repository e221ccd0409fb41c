from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from embedded import certificates, network

NODES = ("node-1", "node-2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("authority") / "certificates"
    certificates.make_all(made, NODES)
    return made


def read(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def handshake(folder: Path, *, server: str, client: str, host: str) -> object:
    """Shake hands in memory, as strictly as Python 3.13 verifies; return the client's name."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / f"{server}.crt", folder / f"{server}.key")
    serving.load_verify_locations(folder / "ca.crt")
    serving.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    asking.load_cert_chain(folder / f"{client}.crt", folder / f"{client}.key")
    for context in (serving, asking):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = asking.wrap_bio(back, there, server_hostname=host)
    right = serving.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    peer = right.getpeercert()
    assert peer is not None
    subject = [pair for group in peer["subject"] for pair in group]
    return dict(subject)["commonName"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", [network.HOST_ADDRESS, network.API_SERVICE_ADDRESS, "kubernetes.default.svc"]
)
def test_the_api_server_is_known_by_every_name_it_is_called(folder: Path, host: str) -> None:
    assert handshake(folder, server="apiserver", client="admin", host=host) == "qwenft-admin"


def test_a_node_serves_under_its_own_address_only(folder: Path) -> None:
    own, other = network.node_address(1), network.node_address(2)
    name = handshake(folder, server="node-1", client="apiserver-kubelet", host=own)
    assert name == "apiserver-kubelet"
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(folder, server="node-1", client="apiserver-kubelet", host=other)


def test_a_client_certificate_does_not_serve(folder: Path) -> None:
    usage = read(folder, "scheduler").extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_what_the_node_authorizer_expects(folder: Path, name: str) -> None:
    subject = read(folder, name).subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == f"system:node:{name}"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"


def test_only_the_administrator_and_the_api_server_are_masters() -> None:
    masters = {
        leaf.file for leaf in certificates.leaves(NODES) if leaf.organization == "system:masters"
    }
    assert masters == {"admin", "apiserver-kubelet"}


def test_keys_are_for_root_alone_and_tokens_have_their_own(folder: Path) -> None:
    keys = sorted(folder.glob("*.key"))
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert len({key.read_bytes() for key in keys}) == len(keys)
    assert "BEGIN PUBLIC KEY" in (folder / "tokens.pub").read_text()


def test_the_authority_signs_certificates_and_nothing_else(folder: Path) -> None:
    authority = read(folder, "ca")
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert isinstance(authority.public_key(), ec.EllipticCurvePublicKey)


def test_a_second_set_shares_nothing_with_the_first(folder: Path, tmp_path: Path) -> None:
    certificates.make_all(tmp_path / "second", ("node-1",))
    assert (tmp_path / "second" / "ca.key").read_bytes() != (folder / "ca.key").read_bytes()
    assert not (tmp_path / "second" / "node-2.crt").exists()
