"""The wall around a run: none of its protocols authenticates its peers.

Rendezvous, gloo and NCCL listen on ephemeral ports and trust whoever connects, therefore ingress is
open to pods of the same run on all ports, and to nobody else.
"""

from __future__ import annotations

from typing import Any

from qwenft_operator import names
from qwenft_operator.render.metadata import metadata
from qwenft_operator.run import Owner

__all__ = ["network_policy"]


def network_policy(owner: Owner) -> dict[str, Any]:
    """Return the NetworkPolicy; egress stays open (hub, object stores, progress endpoint)."""
    same_run = {"matchLabels": {names.LABEL_UID: owner.uid}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, owner.name),
        "spec": {
            "podSelector": same_run,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": same_run}]}],
        },
    }
