"""What the verbs ask of a cluster, so that they can be read and tested without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Access", "Address", "Connect", "Object"]

Object = Mapping[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Which cluster and which namespace; empty fields follow the kubeconfig."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""


class Access(Protocol):
    """One namespace of one cluster. Every method raises ``CliError`` when the cluster says no."""

    @property
    def namespace(self) -> str:
        """The namespace that the methods look into."""

    def run(self, name: str) -> Object:
        """Return the QwenFineTune ``name``."""

    def runs(self) -> tuple[Object, ...]:
        """Return every QwenFineTune of the namespace."""

    def apply(self, body: Object, *, dry_run: bool = False) -> Object:
        """Apply a QwenFineTune server-side and return what is stored."""

    def suspend(self, name: str, *, suspended: bool) -> Object:
        """Set ``spec.runPolicy.suspend``."""

    def pods(self, name: str) -> tuple[Object, ...]:
        """Return the pods of a run, by attempt and completion index."""

    def events(self, body: Object) -> tuple[Object, ...]:
        """Return the events about a run, oldest first."""

    def log(self, pod: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a pod's trainer container."""

    def nodes(self) -> tuple[Object, ...]:
        """Return the nodes of the cluster."""

    def node_pods(self) -> tuple[Object, ...]:
        """Return the pods that hold resources on the nodes, of every namespace."""

    def config_map(self, namespace: str, name: str) -> Object | None:
        """Return a ConfigMap of any namespace, None if there is none."""


Connect = Callable[[Address], Access]
"""How a verb gets at a cluster: ``connect.connect``, or a stand-in."""
