"""API objects for tests, with just enough in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenft_operator import names

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 256,
}
VOLUME = {"persistentVolumeClaim": {"claimName": "data"}}


def spec_mapping(**sections: Any) -> dict[str, Any]:
    """Return a valid ``spec`` of a tiny run on two CPU nodes; sections are merged into it."""
    spec: dict[str, Any] = {
        "model": {"path": "/data/model", "volume": VOLUME, "config": CONFIG},
        "dataset": {"path": "/data/qwen_dataset.pt", "volume": VOLUME},
        "output": {"path": "/data/out", "volume": VOLUME},
        "training": {"batchSize": 8, "sequenceLength": 64, "precision": "fp32"},
        "resources": {"nodes": {"min": 2, "max": 2}, "processesPerNode": 1},
    }
    for key, value in sections.items():
        old = spec.get(key)
        merge = isinstance(old, dict) and isinstance(value, Mapping)
        spec[key] = old | dict(value) if merge and old is not None else value
    return spec


def run_body(name: str = "tiny", namespace: str = "team", **sections: Any) -> dict[str, Any]:
    """Return a ``QwenFineTune`` as a user writes it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec_mapping(**sections),
    }


def node_body(
    name: str,
    *,
    ready: bool = True,
    allocatable: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    taints: tuple[Mapping[str, str], ...] = (),
    unschedulable: bool = False,
) -> dict[str, Any]:
    """Return a Node."""
    spec: dict[str, Any] = {"taints": [dict(taint) for taint in taints]}
    if unschedulable:
        spec["unschedulable"] = True
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
        },
        "spec": spec,
        "status": {
            "allocatable": dict(allocatable or {"cpu": "2", "memory": "8Gi", "pods": "110"}),
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }
