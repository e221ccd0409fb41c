"""The names under which the pods of a run find each other."""

from __future__ import annotations

from typing import Any

from qwenft_operator import names
from qwenft_operator.render.metadata import metadata
from qwenft_operator.run import Owner

__all__ = ["service"]


def service(owner: Owner) -> dict[str, Any]:
    """Return the headless Service.

    Names are published before pods are ready: a pod becomes ready by meeting its master.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, names.service(owner.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_UID: owner.uid},
            "ports": [
                {
                    "name": "rendezvous",
                    "port": names.MASTER_PORT,
                    "protocol": "TCP",
                    "targetPort": names.MASTER_PORT,
                }
            ],
        },
    }
