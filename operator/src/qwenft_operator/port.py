"""What the operator needs of a cluster, and how that can go wrong.

The shell talks to this protocol; :mod:`qwenft_operator.cluster` is the real one, tests bring their
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Cluster", "Conflict", "Identity", "Refused", "Unavailable"]

Body = Mapping[str, Any]


class Conflict(Exception):  # noqa: N818 - a state, not a mistake
    """The object changed since it was read: read again and decide again."""


class Refused(Exception):  # noqa: N818 - the apiserver's answer
    """The apiserver will not have this object or request: quota, admission policy, missing right.

    Rights may be missing for a moment: an apiserver that has just started does not know them yet.
    """

    def __init__(self, what: str, message: str) -> None:
        super().__init__(f"{what}: {message}")
        self.what = what
        self.message = message


class Unavailable(Exception):  # noqa: N818 - passes by itself
    """The apiserver did not answer, or asked for patience."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Whom a token belongs to."""

    namespace: str
    pod: str
    pod_uid: str


class Cluster(Protocol):
    """Reads and writes; every write can be repeated.

    All methods raise :class:`Unavailable` and :class:`Refused`; writes raise :class:`Conflict`.
    """

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """Return one object, None if there is none."""

    async def list(
        self,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        shape: type[Any] = dict,
    ) -> tuple[Body, ...]:
        """Return the objects of a kind, of all namespaces if none is named.

        ``shape``: the TypedDict of :mod:`qwenft_operator.excerpts` whose keys are to be read.
        """

    async def served(self, api_version: str) -> frozenset[str]:
        """Return the kinds that are served under a group and version; none for an unknown one."""

    async def apply(self, manifest: Body) -> str:
        """Make the object so (server-side apply); return its uid.

        With a ``metadata.resourceVersion`` only that version is replaced, else :class:`Conflict`.
        """

    async def create(self, manifest: Body) -> None:
        """Make an object that must not be there yet; :class:`Conflict` if it is."""

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, grace: int | None
    ) -> None:
        """Delete the object if it still has this uid; an absent one is fine."""

    async def replace_status(self, body: Body) -> str:
        """Write ``status`` of a run that was read at ``metadata.resourceVersion``.

        Returns the version that this made.
        """

    async def create_event(self, namespace: str, body: Body) -> None:
        """Create an Event; one of the same name already there is fine."""

    async def review_token(self, token: str, audience: str) -> Identity | None:
        """Return the pod that a token was made for, None for a token that is not valid."""
