"""`python -m bare.reporters`: pods that report, each from an address of its own, as trainers do.

A process of its own, so that the operator's cost is the operator's. It reads a JSON order from
standard input and prints what it saw: how long each report took to be answered, and to be shown.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from qwenft_operator import names

__all__ = ["Order", "Seen", "lags", "percentile"]

_RUNS = f"/apis/{names.GROUP}/{names.VERSION}"
_TIMEOUT = aiohttp.ClientTimeout(total=20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to do: whom to report to, for how long, and as whom."""

    progress: str
    """``https://host:port`` of the progress endpoint."""
    apiserver: str
    certificates: str
    """Directory of the administrator's certificate and the apiserver's authority."""
    authority: str
    """File of the progress endpoint's authority."""
    namespace: str
    seconds: float
    every: float
    tokens: Mapping[str, str]
    """Run → token of its first pod."""


@dataclass(kw_only=True, slots=True)
class Seen:
    """What was sent and what was shown; all times on one monotonic clock, in seconds."""

    sent: list[tuple[str, int, float]] = field(default_factory=list)
    """Run, step, and when it was sent."""
    shown: list[tuple[str, int, float]] = field(default_factory=list)
    """Run, step in its status, and when the watch told of it."""
    answered: list[float] = field(default_factory=list)
    """Seconds until each report was answered."""
    refused: dict[str, int] = field(default_factory=dict)
    """Answer other than 200, or error → how often."""


def lags(seen: Seen) -> list[float]:
    """Return for each report the seconds until the status showed it, or one of a later step.

    A report of which nothing was shown until the end counts as shown then.
    """
    end = max((when for _, _, when in (*seen.sent, *seen.shown)), default=0.0)
    found = []
    for run, step, sent in seen.sent:
        times = (when for name, shown, when in seen.shown if name == run and shown >= step)
        found.append(min(times, default=end) - sent)
    return sorted(found)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def _report(order: Order, run: str, index: int, seen: Seen) -> None:
    """Report every few seconds, on a new connection each time, until it is enough."""
    context = ssl.create_default_context(cafile=order.authority)
    headers = {"Authorization": f"Bearer {order.tokens[run]}"}
    url = order.progress + names.progress_path(order.namespace, run)
    address = f"127.1.{index // 250}.{index % 250 + 1}"
    until = time.monotonic() + order.seconds
    await asyncio.sleep(order.every * index / max(1, len(order.tokens)))
    step = 0
    while time.monotonic() < until:
        step += 1
        began = time.monotonic()
        own = {"attempt": 1, "step": step, "totalSteps": 10**6, "loss": 2.0,
               "estimatedRemainingSeconds": 9e5}  # fmt: skip
        connector = aiohttp.TCPConnector(local_addr=(address, 0), force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session,
                session.post(url, json={"qwenft": own}, headers=headers, ssl=context) as answer,
            ):
                if answer.status == 200:
                    seen.sent.append((run, step, began))
                    seen.answered.append(time.monotonic() - began)
                else:
                    key = str(answer.status)
                    seen.refused[key] = seen.refused.get(key, 0) + 1
        except (aiohttp.ClientError, TimeoutError) as error:
            key = type(error).__name__
            seen.refused[key] = seen.refused.get(key, 0) + 1
        await asyncio.sleep(max(0.0, began + order.every - time.monotonic()))


async def _watch(order: Order, seen: Seen) -> None:
    """Take note of every step that a status shows."""
    folder = Path(order.certificates)
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    url = f"{order.apiserver}{_RUNS}/namespaces/{order.namespace}/{names.PLURAL}?watch=true"
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=2**24) as session,
        session.get(url, ssl=context) as answer,
    ):
        async for line in answer.content:
            body = json.loads(line)["object"]
            step = ((body.get("status") or {}).get("progress") or {}).get("step")
            if step is not None:
                seen.shown.append((body["metadata"]["name"], step, time.monotonic()))


async def _all(order: Order) -> Seen:
    seen = Seen()
    watching = asyncio.create_task(_watch(order, seen))
    await asyncio.gather(
        *(_report(order, run, index, seen) for index, run in enumerate(order.tokens))
    )
    # What was sent last is shown within the limit or counts as late.
    await asyncio.sleep(10.0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return seen


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_all(Order(**json.load(sys.stdin)))))))
