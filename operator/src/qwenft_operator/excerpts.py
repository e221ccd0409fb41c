"""What is read of objects that are listed by the thousand.

Each type names the keys that are kept. Everything else is passed over while the answer is parsed
and takes neither time nor memory: of a pod that is most (``managedFields``, environment, mounts),
and parsing lists whole took a third of the operator's time while 200 runs started.
"""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = ["ChildPod", "ListedJob", "ListedNode", "ListedPod", "ListedRun"]

Texts = dict[str, str] | None


class _Labelled(TypedDict, total=False):
    labels: Texts


class _NodeMetadata(TypedDict, total=False):
    name: str
    labels: Texts
    annotations: Texts


class _NodeSpec(TypedDict, total=False):
    unschedulable: bool
    taints: Any


class _NodeStatus(TypedDict, total=False):
    allocatable: Any
    conditions: Any


class ListedNode(TypedDict, total=False):
    """What plans depend on of a Node: the list of images is most of it."""

    metadata: _NodeMetadata
    spec: _NodeSpec
    status: _NodeStatus


class _Container(TypedDict, total=False):
    resources: Any
    restartPolicy: str


class _PodSpec(TypedDict, total=False):
    nodeName: str
    overhead: Any
    containers: list[_Container] | None
    initContainers: list[_Container] | None


class ListedPod(TypedDict, total=False):
    """What any pod of the cluster takes, where, and whose it is."""

    metadata: _Labelled
    spec: _PodSpec


class _Template(TypedDict, total=False):
    spec: _PodSpec


class _JobSpec(TypedDict, total=False):
    completions: int
    suspend: bool
    template: _Template


class _Conditioned(TypedDict, total=False):
    conditions: Any


class ListedJob(TypedDict, total=False):
    """What a Job's pods take, and whether they do."""

    metadata: _Labelled
    spec: _JobSpec
    status: _Conditioned


class _RunMetadata(TypedDict, total=False):
    name: str
    namespace: str
    uid: str
    labels: Texts
    annotations: Texts
    generation: int
    resourceVersion: str
    creationTimestamp: str
    deletionTimestamp: str


class ListedRun(TypedDict, total=False):
    """A run without ``managedFields``, which nobody here reads."""

    metadata: _RunMetadata
    spec: Any
    status: Any


class _ChildMetadata(TypedDict, total=False):
    name: str
    uid: str
    labels: Texts
    creationTimestamp: str
    deletionTimestamp: str
    deletionGracePeriodSeconds: int


class _Placed(TypedDict, total=False):
    nodeName: str


class _ContainerStatus(TypedDict, total=False):
    name: str
    state: Any


class _PodStatus(TypedDict, total=False):
    phase: str
    message: str
    reason: str
    conditions: Any
    containerStatuses: list[_ContainerStatus] | None


class ChildPod(TypedDict, total=False):
    """How one pod of a run fares."""

    metadata: _ChildMetadata
    spec: _Placed
    status: _PodStatus
