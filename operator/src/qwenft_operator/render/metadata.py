"""Metadata that all objects of a run share."""

from __future__ import annotations

from typing import Any

from qwenft_operator import names
from qwenft_operator.run import Owner

__all__ = ["metadata"]


def metadata(owner: Owner, name: str, **labels: str) -> dict[str, Any]:
    """Return name, labels and the owner reference by which garbage collection finds the object.

    A ``labels`` keyword is a label of this project: ``attempt="2"`` becomes ``qwenft.dev/attempt``.
    """
    own = {f"{names.GROUP}/{key}": value for key, value in labels.items()}
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": names.run_labels(owner.name, owner.uid) | own,
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
