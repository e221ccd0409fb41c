"""The metrics, from the registry that serves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Metric

from qwenft_operator.metrics import RUN_SERIES, Metrics
from reference.tables import NOTE, table

__all__ = ["page"]

_ALERTS = Path(__file__).parents[3] / "charts" / "qwenft" / "files" / "alerts.yaml"
_HEAD = """\
The operator serves `/metrics` over plain HTTP on port 8081 (`metrics.enabled` of the chart). Names
of controller-runtime are kept where they exist. Phases and causes are fixed sets; a run has series
of its own while it is alive and for ten minutes after its end, at most 1,000 runs at a time.

"""


def page() -> str:
    """Return docs/reference/metrics.md."""
    text = "# Metrics\n\n" + NOTE + _HEAD
    text += "## The operator\n\n" + table(("series", "type", "labels", "meaning"), _families())
    rows = [
        (f"`qwenfinetune_{name}`", "gauge", "namespace, name", meaning)
        for name, meaning in RUN_SERIES.items()
    ]
    text += "\n## Each run\n\n" + table(("series", "type", "labels", "meaning"), rows)
    return text + "\n## Alerts\n\n" + table(("alert", "severity", "fires when"), _alerts())


def _families() -> Iterator[tuple[str, ...]]:
    own = {f"qwenfinetune_{name}" for name in RUN_SERIES}
    for family in Metrics().registry.collect():
        if family.name not in own:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield f"`{name}`", family.type, ", ".join(_labels(family)), family.documentation


def _labels(family: Metric) -> list[str]:
    if family.name == "qwenfinetune_plan_error_ratio":
        return ["namespace", "name", "quantity"]
    found = {label for sample in family.samples for label in sample.labels} - {"le"}
    return sorted(found)


def _alerts() -> Iterator[tuple[str, ...]]:
    document: dict[str, Any] = yaml.safe_load(_ALERTS.read_text("utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            lasting = f" for {rule['for']}" if "for" in rule else ""
            yield f"`{rule['alert']}`", rule["labels"]["severity"], f"`{rule['expr']}`{lasting}"
