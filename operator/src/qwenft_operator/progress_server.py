"""The HTTPS endpoint at which a run's pods report.

A report is taken only from a pod of the run: its token is checked by TokenReview for this audience,
the pod must still exist under the token's uid, carry the name and the uid of a run of its own
namespace, and be of the attempt that it speaks for. The body is KEP-2779's, with the project's own
part under ``qwenft`` where there is one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from qwenft_operator import names
from qwenft_operator.door import Busy, Door, Gate, Pace
from qwenft_operator.port import Cluster, Refused, Unavailable
from qwenft_operator.reconcile import Key
from qwenft_operator.reports import Reports
from qwenft_operator.upstream import progress_from_upstream
from qwenft_plan.errors import SpecError
from qwenft_plan.progress import Progress

__all__ = ["ProgressServer"]

_LARGEST_BODY = 64 * 1024
_TRUSTED_SECONDS = 30.0
"""How long a checked token is believed. A token's pod may be gone for that long at most."""
_MOST_TRUSTED = 10_000
_HANDSHAKE_SECONDS = 10.0
_AGAIN_SECONDS = "5"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reporter:
    """The pod behind a token, as far as a report depends on it."""

    key: Key
    uid: str
    """The run's."""
    attempt: int


class Certificate:
    """A certificate on disk that may be renewed while it is served."""

    def __init__(self, context: ssl.SSLContext, folder: Path) -> None:
        self._context = context
        self._files = (folder / "tls.crt", folder / "tls.key")
        self._loaded: tuple[bytes, ...] = ()

    def refresh(self) -> bool:
        """Load the files if their content has changed; a half-written pair waits for the next."""
        content = tuple(file.read_bytes() for file in self._files)
        if content == self._loaded:
            return False
        try:
            self._context.load_cert_chain(*self._files)
        except ssl.SSLError as error:
            if not self._loaded:
                raise
            logger.warning("the renewed certificate cannot be used yet: %s", error)
            return False
        self._loaded = content
        return True


class ProgressServer:
    """Takes reports, keeps the newest of each run and wakes its reconciliation."""

    def __init__(
        self,
        cluster: Cluster,
        reports: Reports,
        wake: Callable[[Key], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        door: Door | None = None,
    ) -> None:
        self._cluster = cluster
        self._reports = reports
        self._pace = Pace(wake)
        self._door = door or Door()
        self._gate = Gate()
        self._clock = clock
        self._trusted: dict[str, tuple[float, Reporter]] = {}
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._certificate: Certificate | None = None

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_post(names.progress_path("{namespace}", "{name}"), self._report)
        return application

    async def start(self, host: str, port: int, certificates: Path) -> int:
        """Listen with ``tls.crt`` and ``tls.key`` of the directory; return the port."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._certificate = Certificate(context, certificates)
        self._certificate.refresh()
        self._runner = web.AppRunner(self.application(), access_log=None)
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101 - made by the line above
        self._listening = await asyncio.get_running_loop().create_server(
            self._door.factory(self._runner.server),
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )
        bound = int(self._listening.sockets[0].getsockname()[1])
        logger.info("taking progress reports on port %d", bound)
        return bound

    def refresh_certificate(self) -> bool:
        """Take up a renewed certificate for new connections; True if there was one."""
        return self._certificate is not None and self._certificate.refresh()

    async def stop(self) -> None:
        """Stop listening."""
        self._pace.stop()
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _report(self, request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["name"])
        try:
            reporter = await self._reporter(
                request.headers.get("Authorization", ""), request.remote or ""
            )
        except Busy:
            return _answer(429, "too many tokens to check at once", retry_after=_AGAIN_SECONDS)
        except (Unavailable, Refused) as error:
            logger.warning("cannot check a report for %s: %s", key, error)
            return _answer(503, "tokens cannot be checked at the moment")
        if reporter is None:
            return _answer(401, f"needs the token of a pod for the audience {names.AUDIENCE}")
        if reporter.key != key:
            return _answer(403, f"the token is of a pod of {reporter.key}")
        try:
            progress = _progress(await _body(request), reporter.attempt)
        except SpecError as error:
            return _answer(400, str(error))
        return self._take(reporter, progress)

    def _take(self, reporter: Reporter, progress: Progress) -> web.Response:
        if progress.attempt != reporter.attempt:
            return _answer(403, f"the pod is of attempt {reporter.attempt}")
        if not self._reports.put(reporter.uid, progress):
            return _answer(409, f"attempt {progress.attempt} is over")
        self._pace.tell(reporter.key)
        return _answer(200, "")

    async def _reporter(self, authorization: str, address: str) -> Reporter | None:
        """Return the pod that the header's token was made for, None if there is none."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        digest = hashlib.sha256(token.encode()).hexdigest()
        known = self._trusted.get(digest)
        if known is not None and known[0] > self._clock():
            return known[1]
        async with self._gate.asked_by(address):
            reporter = await self._review(token)
        if reporter is not None:
            self._trust(digest, reporter)
        return reporter

    def _trust(self, digest: str, reporter: Reporter) -> None:
        now = self._clock()
        if len(self._trusted) >= _MOST_TRUSTED:
            self._trusted = {key: item for key, item in self._trusted.items() if item[0] > now}
        self._trusted[digest] = (now + _TRUSTED_SECONDS, reporter)

    async def _review(self, token: str) -> Reporter | None:
        identity = await self._cluster.review_token(token, names.AUDIENCE)
        if identity is None:
            return None
        pod = await self._cluster.get("Pod", identity.namespace, identity.pod)
        if pod is None or pod["metadata"]["uid"] != identity.pod_uid:
            return None
        labels = pod["metadata"].get("labels") or {}
        attempt = labels.get(names.LABEL_ATTEMPT, "")
        if not attempt.isdecimal() or not labels.get(names.LABEL_RUN):
            return None
        reporter = Reporter(
            key=Key(identity.namespace, labels[names.LABEL_RUN]),
            uid=labels.get(names.LABEL_UID, ""),
            attempt=int(attempt),
        )
        return reporter if await self._is_of_a_run(reporter) else None

    async def _is_of_a_run(self, reporter: Reporter) -> bool:
        """Labels are what the pod's maker wrote: the run of that name must have that uid.

        Else a pod of one namespace could speak for a run of another by wearing its uid, and one of
        its own for an attempt that was never made.
        """
        key = reporter.key
        run = await self._cluster.get(names.KIND, key.namespace, key.name)
        if run is None or run["metadata"]["uid"] != reporter.uid:
            return False
        return reporter.attempt <= int((run.get("status") or {}).get("attempt") or 0)


async def _body(request: web.Request) -> Mapping[str, Any]:
    try:
        document = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise SpecError("body", f"is not JSON: {error}") from None
    except (asyncio.IncompleteReadError, web.RequestPayloadError) as error:
        raise SpecError("body", f"is cut short: {error}") from None
    if not isinstance(document, dict):
        raise SpecError("body", "must be a JSON object")
    return document


def _progress(body: Mapping[str, Any], attempt: int) -> Progress:
    own = body.get("qwenft")
    if isinstance(own, Mapping):
        return Progress.from_mapping(own)
    upstream = body.get("trainerStatus")
    if not isinstance(upstream, Mapping):
        raise SpecError("trainerStatus", "is missing from the report")
    return progress_from_upstream(upstream, attempt)


def _answer(status: int, message: str, *, retry_after: str = "") -> web.Response:
    headers = {"Retry-After": retry_after} if retry_after else {}
    body = {"message": message} if message else {}
    return web.json_response(body, status=status, headers=headers)
