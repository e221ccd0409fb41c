"""The two ways in which a request can be wrong.

A *wrong* request (:class:`SpecError`) is the user's to mend and is never retried. An *impossible*
one (:class:`Infeasible`) becomes possible when nodes come or go: the operator keeps it pending.
"""

from __future__ import annotations

__all__ = ["Infeasible", "SpecError"]


class SpecError(ValueError):
    """A field has a value that no cluster could satisfy.

    ``path`` names the field as the user wrote it (``spec.resources.nodes.max``), ``message`` says
    what is wrong and what would be right.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message

    def under(self, parent: str) -> SpecError:
        """Return the same error seen from one level further out (``nodes`` → ``spec.nodes``)."""
        return SpecError(f"{parent}.{self.path}" if self.path else parent, self.message)


class Infeasible(Exception):  # noqa: N818 - a state of the cluster, not a mistake of anyone
    """No plan fits the nodes at hand; ``reasons`` hold the numbers, the most telling first."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
