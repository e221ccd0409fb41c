"""A server that speaks S3's protocol, for those who want more than a stand-in.

It is moto's, in an environment of its own: botocore, which it brings, holds python-dateutil back
and with it the Kubernetes client. Installed once, pinned, into the cache.
"""

from __future__ import annotations

import http.client
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pinned
from embedded.stages import wait_until
from loopback import free_ports

__all__ = ["S3", "serve_s3"]

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class S3:
    """A server that holds buckets in memory."""

    port: int

    def asks(self, method: str, path: str, body: str = "") -> tuple[int, str]:
        """Send a request without credentials; return status and answer."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request(method, path, body or None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def make_bucket(self, name: str) -> None:
        """Make a bucket that is empty."""
        status, answer = self.asks("PUT", f"/{name}")
        assert status == 200, answer

    def close_the_door(self) -> None:
        """Look at credentials from now on. Nobody has any that are known."""
        status, answer = self.asks("POST", "/moto-api/reset-auth", "0")
        assert status == 200, answer

    def variables(self, *, key: str | None = "key") -> Mapping[str, str]:
        """Return what a Secret holds that names this server, and an access key."""
        keys = {} if key is None else {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "secret"}
        where = {"AWS_ENDPOINT_URL": f"http://{HOST}:{self.port}", "AWS_ALLOW_HTTP": "true"}
        return {**where, "AWS_REGION": "us-east-1", **keys}


@contextmanager
def serve_s3() -> Iterator[S3]:
    """Start a server on a free port."""
    found = S3(port=free_ports()[0])
    words = [pinned.environment("stores"), "-m", "moto.server", "-H", HOST, "-p", str(found.port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AWS_"))}
    with subprocess.Popen(words, env=environ, **quiet) as server:  # type: ignore[call-overload]
        try:
            wait_until(lambda: _answers(found), seconds=60, what="moto's server", every=0.2)
            yield found
        finally:
            server.terminate()


def _answers(server: S3) -> bool:
    try:
        return server.asks("GET", "/moto-api/")[0] < 500
    except OSError:
        return False
