"""Progress to the operator and to the log; it never holds training up and never fails it.

The body follows the Kubeflow trainer's proposal KEP-2779 (``trainerStatus``), with the project's
own fields beside it. A background thread sends the newest update only, at most one in five seconds,
and reads token and CA file anew each time, since the kubelet renews them.
"""

import contextlib
import json
import os
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO

from qwenft_plan.progress import Progress

INTERVAL_SECONDS = 5.0
TIMEOUT_SECONDS = 5.0
RESULT_VARIABLE = "QWENFT_RESULT_FILE"
"""Names the file in which the launcher looks for the result of a finished run."""

_METRICS = (
    "epoch",
    "loss",
    "validation_loss",
    "gradient_norm",
    "learning_rate",
    "tokens_per_second",
    "memory_gib",
    "mfu",
    "data_wait_seconds",
    "checkpoint_seconds",
    "checkpoint_blocked_seconds",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where reports go; the variables' names are the Kubeflow trainer's."""

    url: str
    token_file: Path | None
    ca_file: Path | None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self | None:
        """Read the endpoint; None where the run has no operator."""
        url = environ.get("KUBEFLOW_TRAINER_SERVER_URL")
        if not url:
            return None
        token, ca = (environ.get(f"KUBEFLOW_TRAINER_SERVER_{key}") for key in ("TOKEN", "CA_CERT"))
        return cls(
            url=url,
            token_file=Path(token) if token else None,
            ca_file=Path(ca) if ca else None,
        )

    def post(self, body: bytes) -> int:
        """Send one report; return the HTTP status. Raises OSError when it cannot be sent."""
        headers = {"Content-Type": "application/json"}
        if self.token_file is not None:
            token = self.token_file.read_text(encoding="ascii").strip()
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")  # noqa: S310
        context = None
        if self.url.startswith("https:"):
            context = ssl.create_default_context(cafile=self.ca_file)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as answer:  # noqa: S310
            return int(answer.status)


class Reporter:
    """Reports of global rank 0: a JSON line on standard output each, and the newest by HTTPS."""

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        stream: TextIO | None = None,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._interval = interval
        self._endpoint = Endpoint.from_environ(environ)
        self._result_file = environ.get(RESULT_VARIABLE)
        self._waiting: Progress | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._complained = False
        self._thread: threading.Thread | None = None
        if self._endpoint is not None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="report")
            self._thread.start()

    def update(self, progress: Progress) -> None:
        """Report a step; an update that was not sent yet is replaced."""
        self._print(json.dumps(progress.to_mapping()))
        if self._thread is None:
            return
        with self._wake:
            self._waiting = progress
            self._wake.notify()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Hand the run's result to the launcher, which writes it into the termination message."""
        if not self._result_file:
            return
        try:
            Path(self._result_file).write_text(json.dumps(dict(result)), encoding="utf-8")
        except (OSError, TypeError, ValueError) as error:
            self._complain(error)

    def close(self) -> None:
        """Send what is waiting and end; takes at most the time of one request."""
        if self._thread is None:
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=2 * TIMEOUT_SECONDS)
        self._thread = None

    def _run(self) -> None:
        last = float("-inf")
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting is not None or self._closing)
                pause = last + self._interval - time.monotonic()
                self._wake.wait_for(lambda: self._closing, timeout=max(0.0, pause))
                progress, self._waiting = self._waiting, None
                closing = self._closing
            if progress is not None:
                last = time.monotonic()
                self._send(progress)
            if closing:
                return

    def _send(self, progress: Progress) -> None:
        assert self._endpoint is not None  # noqa: S101 - the thread runs only with one
        try:
            self._endpoint.post(json.dumps(body(progress, now=datetime.now(UTC))).encode())
        except Exception as error:  # noqa: BLE001 - a report must never end a training run
            self._complain(error)
        else:
            self._complained = False

    def _complain(self, error: Exception) -> None:
        """Say once, until it works again, that reports do not get through."""
        if not self._complained:
            print(f"report: not delivered: {error}", file=sys.stderr, flush=True)  # noqa: T201
        self._complained = True

    def _print(self, line: str) -> None:
        # A closed or full log is no reason to stop.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)


def body(progress: Progress, *, now: datetime) -> dict[str, Any]:
    """Return a report's JSON: the Kubeflow fields, and all of the progress under ``qwenft``."""
    metrics = {name: getattr(progress, name) for name in _METRICS}
    status: dict[str, Any] = {
        "metrics": [
            {"name": name, "value": str(value)}
            for name, value in metrics.items()
            if value is not None
        ],
        "lastUpdatedTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if progress.total_steps:
        status["progressPercentage"] = min(100, 100 * progress.step // progress.total_steps)
    if progress.estimated_remaining_seconds is not None:
        status["estimatedRemainingSeconds"] = max(0, round(progress.estimated_remaining_seconds))
    return {"trainerStatus": status, "qwenft": progress.to_mapping()}
