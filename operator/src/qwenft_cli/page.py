"""The report as HTML: styles and drawings inline, no script, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from qwenft_cli import curve, drawings, makeup, stacks, wording
from qwenft_cli.access import Object
from qwenft_cli.losses import LossCurve
from qwenft_cli.snapshot import Snapshot
from qwenft_plan.progress import Progress

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #60646c; --line: #d9dce1; --paper: #fff;
  --train: #0d74ce; --held: #cc4e00; --track: #f0f0f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --dim: #b0b4ba; --line: #363a3f;
  --paper: #18191b; --train: #70b8ff; --held: #ffa057;
  --track: #26292b; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 52rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.dim, td.dim, th { color: var(--dim); } table { border-collapse: collapse; width: 100%; }
th { width: 36%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; font-weight: normal; }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 12px; }
.axis { stroke: var(--line); } .train { stroke: var(--train); fill: none; stroke-width: 2; }
.held { stroke: var(--held); fill: none; stroke-width: 2; } .key-train { color: var(--train); }
.key-held { color: var(--held); }
@media (max-width: 40rem) { body { padding: .75rem; } svg text { font-size: 20px; }
  th, td { display: block; width: auto; border: 0; padding: .1rem 0; }
  td { border-bottom: 1px solid var(--line); }
  .train, .held { stroke-width: 3; } }
"""


def page(
    body: Object,
    snapshot: Snapshot,
    history: Sequence[Progress],
    events: Sequence[Object],
    now: datetime,
) -> str:
    """Return the whole page. Everything that comes from the cluster is escaped."""
    parts = [
        f"<h1>{escape(snapshot.name)}</h1>",
        f'<p class="dim">{escape(_headline(snapshot, now))}</p>',
        *_outcome(snapshot),
        *_curves(history),
        *_plan(snapshot, body),
        *_attempts(body, snapshot, now),
        *_asked(body),
        *_events(events),
        f'<p class="dim">Written {escape(now.strftime("%Y-%m-%d %H:%M:%S UTC"))} by qwenft.</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(snapshot.name)} · qwenft</title>\n"
        f"<style>{_STYLE}{drawings.STYLE}{stacks.STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _headline(snapshot: Snapshot, now: datetime) -> str:
    parts = [snapshot.phase]
    started = wording.moment(snapshot.started)
    if started is not None:
        ended = wording.moment(snapshot.completed) or now
        parts.append(f"{wording.duration((ended - started).total_seconds())} since the start")
    if snapshot.restarts:
        parts.append(f"{snapshot.restarts} restart{'s' if snapshot.restarts > 1 else ''}")
    return " · ".join(parts)


def _outcome(snapshot: Snapshot) -> list[str]:
    result, failure = snapshot.result, snapshot.failure
    rows = []
    before, after = result.get("validationLossBefore"), result.get("validationLossAfter")
    if before is not None and after is not None:
        rows.append(("validation loss", f"{wording.number(before)} → {wording.number(after)}"))
    if result.get("trainedTokens"):
        rows.append(("tokens trained", wording.count(result["trainedTokens"])))
    if result.get("outputPath"):
        rows.append(("model", str(result["outputPath"])))
    if failure is not None:
        rows.append(
            (f"failure of attempt {failure.attempt}", f"{failure.reason}: {failure.message}")
        )
    return ["<h2>Result</h2>", _table(rows)] if rows else []


def _curves(history: Sequence[Progress]) -> list[str]:
    loss = LossCurve.of(history)
    train, held = loss.training, loss.validation
    if not train:
        return []
    key = '<span class="key-train">training</span>'
    if held:
        key += ' and <span class="key-held">validation</span>'
    parts = ["<h2>Loss</h2>", f"<p>{key}</p>", curve.svg({"train": train, "held": held}, "step")]
    speed = [
        (one.step, one.tokens_per_second) for one in history if one.tokens_per_second is not None
    ]
    if speed:
        parts += ["<h2>Tokens per second</h2>", curve.svg({"train": speed}, "step", floor=0.0)]
    return parts


_QUANTITIES = (
    ("Memory of the fullest rank", "memoryGiB", "GiB"),
    ("Speed", "tokensPerSecond", "tokens/s"),
    ("Utilisation (MFU)", "mfu", "%"),
)


def _plan(snapshot: Snapshot, body: Object) -> list[str]:
    if not snapshot.plan:
        return []
    plan: Mapping[str, Any] = (body.get("status") or {}).get("plan") or {}
    pairs = [_pair(snapshot, *quantity) for quantity in _QUANTITIES]
    lost = [
        (str(one.get("summary", "")), str(one.get("rejected", "")))
        for one in plan.get("alternatives") or ()
    ]
    parts = ["<h2>Plan</h2>", _table([("chosen", snapshot.plan), ("because", snapshot.reason)])]
    if drawn := drawings.bars(pairs):
        parts += ["<h2>Predicted and measured</h2>", drawn]
    parts += _makeup(body)
    return [*parts, "<h2>Other plans, and why they lost</h2>", _table(lost)] if lost else parts


def _makeup(body: Object) -> list[str]:
    """Draw what the prediction is made of, where the status tells."""
    titled = (
        ("Memory of the fullest device", makeup.memory(body)),
        ("Time of an optimizer step", makeup.step(body)),
    )
    found = [f"<h2>{title}</h2>{stacks.stack(drawn)}" for title, drawn in titled if drawn]
    if found and (remark := makeup.remark(body)):
        found.append(f'<p class="dim">{escape(remark)}</p>')
    return found


def _pair(snapshot: Snapshot, what: str, key: str, unit: str) -> drawings.Pair:
    return drawings.Pair(
        what=what,
        predicted=snapshot.predicted.get(key),
        measured=snapshot.measured.get(key),
        unit=unit,
    )


def _attempts(body: Object, snapshot: Snapshot, now: datetime) -> list[str]:
    """Return the time line: each failure ends an attempt, what is left is the last one's."""
    status: Mapping[str, Any] = body.get("status") or {}
    began = at = wording.moment(snapshot.started)
    spans = []
    for one in status.get("failures") or ():
        ended = wording.moment(str(one.get("time") or ""))
        seconds = (ended - at).total_seconds() if at is not None and ended is not None else 0.0
        at = ended or at
        cause = f"{one.get('reason', '')}: {one.get('message', '')}"
        spans.append(_span(f"attempt {one.get('attempt', '?')}", seconds, cause))
    if not spans:
        return []
    if at is not None and snapshot.phase != "Failed":
        at, before = wording.moment(snapshot.completed) or now, at
        spans.append(_span(f"attempt {snapshot.attempt}", (at - before).total_seconds(), ""))
    return ["<h2>Attempts</h2>", drawings.timeline(spans, _ends(began, at))]


def _ends(began: datetime | None, ended: datetime | None) -> list[str]:
    """Return the times at the two ends of the strip; a date is told once."""
    if began is None or ended is None:
        return []
    same = began.date() == ended.date()
    day = "" if same else "%Y-%m-%d "
    return [began.strftime("%Y-%m-%d %H:%M UTC"), ended.strftime(f"{day}%H:%M UTC")]


def _span(label: str, seconds: float, cause: str) -> drawings.Span:
    took = f", {wording.duration(seconds)}" if seconds > 0 else ""
    return drawings.Span(seconds=seconds, label=label + took, cause=cause)


_ASKED = (
    ("model", "model", "name"), ("model's path", "model", "path"), ("dataset", "dataset", "path"),
    ("epochs", "training", "epochs"), ("batch", "training", "batchSize"),
    ("tokens a sample", "training", "sequenceLength"),
    ("learning rate", "training", "learningRate"), ("precision", "training", "precision"),
    ("image", "trainer", "image"), ("output", "output", "path"),
)  # fmt: skip


def _asked(body: Object) -> list[str]:
    spec: Mapping[str, Any] = body.get("spec") or {}
    rows = [
        (label, str(spec[section][field]))
        for label, section, field in _ASKED
        if (spec.get(section) or {}).get(field) not in (None, "")
    ]
    pods = (body.get("status") or {}).get("workers", {}).get("pods") or ()
    nodes = sorted({str(pod["node"]) for pod in pods if pod.get("node")})
    rows += [("nodes", ", ".join(nodes))] if nodes else []
    software = ((body.get("status") or {}).get("result") or {}).get("environment")
    rows += [("software", str(software))] if software else []
    return ["<h2>What was asked, and where it ran</h2>", _table(rows)] if rows else []


def _events(events: Sequence[Object]) -> list[str]:
    rows = [
        (
            str(event.get("lastTimestamp") or event.get("eventTime") or ""),
            f"{event.get('reason', '')}: {event.get('message', '')}",
        )
        for event in events
    ]
    return ["<h2>Events</h2>", _table(rows)] if rows else []


def _table(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td>{escape(text)}</td></tr>\n'
        for label, text in rows
    )
    return f"<table>\n{body}</table>"
