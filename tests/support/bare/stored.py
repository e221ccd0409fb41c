"""What lies in the plane's etcd, by name: counting there costs the apiserver nothing.

A bench that lists a thousand pods four times a second takes a part of what it measures.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections import Counter
from typing import Any

from bare.plane import Plane

__all__ = ["count", "names_of", "pods_by_run"]

_RUN_NAME = len("run-0000")


def names_of(plane: Plane, plural: str, namespace: str) -> list[str]:
    """Return the names of a kind's objects, ``plural`` as in ``pods``."""
    prefix = _prefix(plural, namespace)
    found = _range(plane, prefix, keys_only=True).get("kvs", ())
    return [base64.b64decode(each["key"])[len(prefix) :].decode() for each in found]


def count(plane: Plane, plural: str, namespace: str) -> int:
    """Return how many objects of a kind there are."""
    return int(_range(plane, _prefix(plural, namespace), count_only=True).get("count", 0))


def pods_by_run(plane: Plane, namespace: str) -> Counter[str]:
    """Count the pods by the ``run-0000`` that their names begin with, whoever made them."""
    return Counter(name[:_RUN_NAME] for name in names_of(plane, "pods", namespace))


def _prefix(plural: str, namespace: str) -> bytes:
    return f"/registry/{plural}/{namespace}/".encode()


def _range(plane: Plane, prefix: bytes, **how: bool) -> dict[str, Any]:
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    wanted = {
        "key": base64.b64encode(prefix).decode(), "range_end": base64.b64encode(end).decode(), **how
    }  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{plane.ports['etcd']}/v3/kv/range", data=json.dumps(wanted).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        return dict(json.loads(answer.read()))
