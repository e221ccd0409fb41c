"""The progress endpoint over loopback TLS, before a simulated cluster."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qwenft_operator import names
from qwenft_operator.door import Door
from qwenft_operator.port import Identity
from qwenft_operator.progress_server import ProgressServer
from qwenft_operator.reconcile import Key
from simulated import World

__all__ = ["OWN", "Call", "make_certificates", "serve", "serve_raw", "world_with_pods"]

OWN = {"attempt": 1, "step": 5, "totalSteps": 10, "loss": 1.5}
Call = Callable[..., Awaitable[tuple[int, str]]]


def make_certificates(folder: Path) -> Path:
    """Put a self-signed certificate for the loopback address into a directory; return it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "progress")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "tls.crt").write_bytes(pem)
    (folder / "ca.crt").write_bytes(pem)
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


def world_with_pods() -> World:
    """Return a world in which attempt 1 runs and two pods have tokens."""
    world = World()
    world.submit()
    world.settle()
    world.tick()
    for index in range(2):
        pod = world.objects["Pod", "team", f"tiny-1-{index}-x"]["metadata"]
        world.tokens[f"token-{index}"] = Identity(
            namespace="team", pod=pod["name"], pod_uid=pod["uid"]
        )
    return world


def serve_raw(
    world: World,
    certificates: Path,
    scenario: Callable[[ProgressServer, int], Awaitable[None]],
    *,
    door: Door | None = None,
) -> list[Key]:
    """Run a scenario against the server on a loopback port; return the keys that were woken."""
    woken: list[Key] = []

    async def main() -> None:
        clock: Callable[[], float] = lambda: world.now  # noqa: E731
        server = ProgressServer(world, world.reports, woken.append, clock=clock, door=door)
        port = await server.start("127.0.0.1", 0, certificates)
        try:
            await scenario(server, port)
        finally:
            await server.stop()

    asyncio.run(main())
    return woken


def serve(
    world: World, certificates: Path, scenario: Callable[[Call], Awaitable[None]]
) -> list[Key]:
    """Run a scenario that posts reports; return the keys that were woken."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))

    async def with_client(_server: ProgressServer, port: int) -> None:
        async with aiohttp.ClientSession() as session:
            await scenario(_caller(session, port, context))

    return serve_raw(world, certificates, with_client)


def _caller(session: aiohttp.ClientSession, port: int, context: ssl.SSLContext) -> Call:
    async def call(
        body: Any = None,
        *,
        token: str = "token-0",  # noqa: S107 - a name in the fake review
        name: str = "tiny",
        namespace: str = "team",
        data: bytes | None = None,
        encoding: str = "",
    ) -> tuple[int, str]:
        payload = {"qwenft": OWN} if body is None else body
        url = f"https://127.0.0.1:{port}{names.progress_path(namespace, name)}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Content-Encoding": encoding} if encoding else {}
        sent: dict[str, Any] = {"json": payload} if data is None else {"data": data}
        async with session.post(url, headers=headers, ssl=context, **sent) as answer:
            return answer.status, await answer.text()

    return call
