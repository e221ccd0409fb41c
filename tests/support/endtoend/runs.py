"""Small runs on the sample's model, as bodies to apply."""

from __future__ import annotations

import copy
from typing import Any

from demo.install import sample

__all__ = ["Body", "merged", "script_map", "tiny"]

Body = dict[str, Any]
_TRAINING = {
    "maxSteps": 2, "batchSize": 4, "sequenceLength": 64, "learningRate": 1e-3, "precision": "fp32",
}  # fmt: skip


def merged(base: Body, changes: Body) -> Body:
    """Return ``base`` with ``changes`` laid over it, mapping by mapping; None removes a key."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def tiny(name: str, **changes: Any) -> Body:
    """Return a two-node run of two steps; keywords change sections of its spec."""
    body = sample("qwen-stdlib.yaml")
    body["metadata"]["name"] = name
    spec = body["spec"]
    spec["training"] = dict(_TRAINING)
    spec.pop("checkpoint")
    spec["dataset"]["path"] = "/data/tiny.pt"
    spec["output"]["path"] = f"/data/e2e/{name}"
    body["spec"] = merged(spec, changes)
    return dict(body)


def script_map(name: str, text: str) -> Body:
    """Return a ConfigMap that holds a training script."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"train.py": text},
    }
