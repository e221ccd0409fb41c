"""An operator's progress endpoint: HTTPS on 127.0.0.1 with a certificate of its own authority."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE_SECONDS = 30.0
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One POST as it arrived."""

    path: str
    authorization: str | None
    content_type: str | None
    body: Mapping[str, Any]


@dataclass(kw_only=True)
class Endpoint:
    """A listening server, and what it was sent. ``answer`` picks the status of each reply."""

    url: str
    ca: Path
    token: Path
    received: list[Request] = field(default_factory=list)
    answer: Callable[[], int] = lambda: 200
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which a pod knows this server."""
        return {
            "KUBEFLOW_TRAINER_SERVER_URL": self.url,
            "KUBEFLOW_TRAINER_SERVER_CA_CERT": str(self.ca),
            "KUBEFLOW_TRAINER_SERVER_TOKEN": str(self.token),
        }

    def note(self, request: Request) -> None:
        """Keep a request and wake whoever waits for it."""
        with self.changed:
            self.received.append(request)
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[Request]:
        """Return the requests once there are ``count``; fails where they do not come."""
        with self.changed:
            arrived = self.changed.wait_for(lambda: len(self.received) >= count, PATIENCE_SECONDS)
            assert arrived, f"{len(self.received)} of {count} requests came"
            return list(self.received)


@contextmanager
def endpoint(folder: Path, *, name: str = HOST) -> Iterator[Endpoint]:
    """Serve until the context ends; ``name`` is the host that the certificate is made out to."""
    ca, chain = _certificates(folder, name)
    token = folder / "token"
    token.write_text("first-token\n", encoding="ascii")
    server = ThreadingHTTPServer((HOST, 0), BaseHTTPRequestHandler)
    found = Endpoint(url=f"https://{HOST}:{server.server_port}/apis/x/status", ca=ca, token=token)
    server.RequestHandlerClass = _handler(found)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    # The handshake is done by the request's own thread, not by the one that accepts.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_ca(folder: Path) -> Path:
    """Write the certificate of an authority that signed nothing."""
    folder.mkdir()
    return _certificates(folder, HOST)[0]


def _handler(found: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            # The reply is chosen before the request counts as received.
            status = found.answer()
            found.note(
                Request(
                    path=self.path,
                    authorization=self.headers["Authorization"],
                    content_type=self.headers["Content-Type"],
                    body=json.loads(content),
                )
            )
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep standard error for the reporter."""

    return Handler


def _certificates(folder: Path, name: str) -> tuple[Path, Path]:
    """Write an authority's certificate, and a server's with its key in one file."""
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(
        ec.SECP256R1()
    )  # fmt: skip
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    root = _certificate(issuer, issuer, authority.public_key(), authority, authority_of=True)
    leaf = _certificate(subject, issuer, server.public_key(), authority, host=name)
    ca, chain = folder / "ca.crt", folder / "server.pem"
    ca.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    key = server.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain.write_bytes(key + leaf.public_bytes(serialization.Encoding.PEM))
    return ca, chain


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    *,
    authority_of: bool = False,
    host: str | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority_of, path_length=None), critical=True)
    )
    if host is not None:
        names: list[x509.GeneralName] = (
            [x509.IPAddress(ip_address(host))] if host == HOST else [x509.DNSName(host)]
        )
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())
