"""One ``QwenFineTune`` as the operator sees it, and the settings of the operator itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qwenft_operator import gangs, names
from qwenft_operator.clock import parse_time
from qwenft_plan.errors import SpecError
from qwenft_plan.spec import FinetuneSpec

__all__ = ["Owner", "Run", "Settings"]

_GIB = 2**30
_QUEUE_PREFIX = "kueue.x-k8s.io/"
_FROZEN_SECTIONS = ("model", "dataset", "training", "checkpoint", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Identity of a run, and the part of its spec that the trainer reads."""

    name: str
    namespace: str
    uid: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    """``spec`` as the user wrote it."""
    queueing: Mapping[str, str] = field(default_factory=dict)
    """The user's labels that Kueue reads, to be copied to the Job."""
    topology: Mapping[str, str] = field(default_factory=dict)
    """The user's annotations that Kueue reads, to be copied to the pods."""
    gang_queue: str = ""
    """The queue of Volcano's that the user's annotation names."""

    @property
    def queue(self) -> str:
        """Kueue's queue by which the run is to be admitted, empty without one."""
        return self.queueing.get(names.LABEL_QUEUE, "")

    def run_json(self) -> str:
        """Return the text of ``run.json``; equal specs give equal bytes."""
        sections = {key: self.spec[key] for key in _FROZEN_SECTIONS if key in self.spec}
        document = {
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
            "spec": sections,
        }
        return json.dumps(document, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the operator's deployment decides for every run."""

    trainer_image: str = "qwenft-trainer:latest"
    """Image of runs that name none."""
    image_pull_policy: str = ""
    progress_url: str = ""
    """``https://host:port`` of the progress endpoint; empty: pods do not report."""
    progress_ca: str = ""
    """PEM of the authority that signed the endpoint's certificate."""
    gang: str = gangs.NONE
    """The gang scheduler that pods are given to: one of :data:`qwenft_operator.gangs.WISHES`."""
    scheduler: str = ""
    """The name under which it runs; empty: its usual one."""
    patience_seconds: float = 600.0
    """For how long a waiting run may be overtaken by later ones."""
    growth_seconds: float = 60.0
    """How often a run that trains asks whether more nodes would pay; 0: never."""
    growth_age_seconds: float = 60.0
    """How long an attempt must have run before it is ended for more nodes the first time."""
    step_patience: float = 900.0
    """Seconds without a new step after which a run counts as hung, at least."""
    first_step_patience: float = 3600.0
    """The same before the first step and after the last: large models are read and written."""
    node_patience: float = 300.0
    """Seconds after which a gang of which a pod finds no node gives its nodes back."""
    image_patience: float = 120.0
    """Seconds that an image or a container's configuration has to become available."""

    @property
    def rank_patience(self) -> float:
        """Seconds without a sign of life after which a rank is to end itself and say where it is.

        The trainer has thrice as long before its first step, and a tenth more where it waits for
        others: both are over before the operator gives the attempt up, who knows less.
        """
        first = max(self.step_patience, self.first_step_patience)
        return min(self.step_patience * 2 / 3, first / 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A parsed ``QwenFineTune``: a spec, or the reason why it is none."""

    owner: Owner
    generation: int
    deleting: bool
    created_at: float
    """Seconds since the epoch."""
    spec: FinetuneSpec | None
    error: SpecError | None
    status: Mapping[str, Any]
    body: Mapping[str, Any]
    """The object as it was read."""

    @classmethod
    def from_object(cls, body: Mapping[str, Any]) -> Run:
        """Read the API object; never raises for a wrong spec."""
        metadata = body["metadata"]
        mapping = body.get("spec") or {}
        status = body.get("status") or {}
        spec, error = _parse(mapping)
        return cls(
            owner=Owner(
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid=metadata["uid"],
                spec=mapping,
                queueing=_of_kueue(metadata.get("labels")),
                topology=_of_kueue(metadata.get("annotations")),
                gang_queue=(metadata.get("annotations") or {}).get(names.ANNOTATION_VOLCANO, ""),
            ),
            generation=metadata.get("generation", 1),
            deleting="deletionTimestamp" in metadata,
            created_at=parse_time(metadata.get("creationTimestamp")) or 0.0,
            spec=_raised(spec, status),
            error=error,
            status=status,
            body=body,
        )

    @property
    def is_managed_elsewhere(self) -> bool:
        """Whether another controller answers for the run (MultiKueue, in a management cluster)."""
        manager = "" if self.spec is None else self.spec.run_policy.managed_by
        return manager not in ("", names.MANAGER)

    @property
    def phase(self) -> str:
        """The phase of the last status write, empty before the first."""
        return str(self.status.get("phase", ""))


def _of_kueue(entries: Mapping[str, str] | None) -> dict[str, str]:
    return {key: text for key, text in (entries or {}).items() if key.startswith(_QUEUE_PREFIX)}


def _raised(spec: FinetuneSpec | None, status: Mapping[str, Any]) -> FinetuneSpec | None:
    """Return the spec with the memory request that a failure has raised since."""
    gib = status.get("memoryPerNodeGiB")
    if spec is None or gib is None or spec.resources.memory_per_node is None:
        return spec
    memory = max(spec.resources.memory_per_node, round(gib * _GIB))
    return replace(spec, resources=replace(spec.resources, memory_per_node=memory))


def _parse(mapping: Mapping[str, Any]) -> tuple[FinetuneSpec | None, SpecError | None]:
    try:
        return FinetuneSpec.from_mapping(mapping), None
    except SpecError as error:
        return None, error
