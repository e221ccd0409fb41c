"""What a plan's prediction is made of, read from the status: memory and the time of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenft_cli.access import Object
from qwenft_cli.stacks import Part, Stack

__all__ = ["memory", "remark", "step"]

_MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "logits": "logits",
    "buffers": "buffers",
    "overhead": "overhead",
}
_STEP = {
    "compute": "computation",
    "tensor": "tensor parallel, exposed",
    "shard": "sharding, exposed",
    "replicate": "replicas, exposed",
    "pipeline": "pipeline hand-over",
    "bubble": "pipeline bubble",
    "optimizer": "optimizer step",
    "overhead": "overhead",
}


def memory(body: Object) -> Stack | None:
    """Return the fullest device's memory in GiB; None where the status does not tell."""
    parts, measured = _plan(body).get("parts") or {}, _measured(body).get("memoryGiB")
    found = _parts(parts.get("memoryGiB"), _MEMORY)
    limit = parts.get("deviceGiB")
    return Stack(parts=found, unit="GiB", measured=measured, limit=limit) if found else None


def step(body: Object) -> Stack | None:
    """Return the seconds of an optimizer step; None where the status does not tell.

    The measured step is the predicted one times predicted over measured speed: both count the same
    tokens.
    """
    plan, seen = _plan(body), _measured(body).get("tokensPerSecond")
    found = _parts((plan.get("parts") or {}).get("stepSeconds"), _STEP)
    if not found:
        return None
    told = (plan.get("predicted") or {}).get("tokensPerSecond")
    measured = None
    if seen and told:
        alone = told / _factor(body, "speed")
        measured = sum(part.value for part in found) * alone / seen
    return Stack(parts=found, unit="s", measured=measured)


def remark(body: Object) -> str:
    """Return that the parts lack what earlier runs taught; empty where none taught anything."""
    if "correction" not in _plan(body):
        return ""
    return (
        "The parts are as computed. From them the prediction above follows by what earlier runs "
        f"taught: memory × {_factor(body, 'memory'):.2f}, speed × {_factor(body, 'speed'):.2f}."
    )


def _parts(values: Mapping[str, float] | None, words: Mapping[str, str]) -> tuple[Part, ...]:
    """Return all parts in their order, so that a part keeps its colour from run to run."""
    if not values:
        return ()
    return tuple(Part(what=word, value=values.get(key, 0.0)) for key, word in words.items())


def _factor(body: Object, quantity: str) -> float:
    return float((_plan(body).get("correction") or {}).get(quantity) or 1.0)


def _plan(body: Object) -> Mapping[str, Any]:
    return (body.get("status") or {}).get("plan") or {}


def _measured(body: Object) -> Mapping[str, Any]:
    return (body.get("status") or {}).get("measured") or {}
