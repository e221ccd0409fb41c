"""Schedulers that start all pods of a gang or none, and the API by which each is told. Pure.

The operator's own count of free devices starts a run only where all of its pods have room. A gang
scheduler keeps that promise against pods of others too, which take nodes in the same second.
Adding one is adding a row here and its object in :mod:`qwenft_operator.render.gang`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["AUTO", "GANGS", "NONE", "WISHES", "GangApi", "candidates", "chosen", "missing"]

NONE, AUTO = "none", "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class GangApi:
    """One kind of object that names a gang."""

    name: str
    """What the settings call the scheduler."""
    api_version: str
    kind: str
    scheduler: str = ""
    """The scheduler that pods ask for by default; empty: the cluster's own."""
    takes_priority: bool = False
    """Whether the object itself names the priority class; its pods' would not count without."""

    @property
    def plural(self) -> str:
        """The resource's name in URLs and rights."""
        return f"{self.kind.lower()}s"

    @property
    def place(self) -> str:
        """The kind with its group and version: others share its name."""
        return f"{self.api_version}/{self.kind}"


GANGS = (
    # Kubernetes' own, which changed its shape with each release (KEP-4671): 1.37, 1.36, 1.35. A
    # version that is not here is left alone, such as 1.37's v1alpha3 with groups of groups.
    GangApi(
        name="kubernetes",
        api_version="scheduling.k8s.io/v1beta1",
        kind="PodGroup",
        takes_priority=True,
    ),
    # It has the field too, and refuses it without another alpha gate.
    GangApi(name="kubernetes", api_version="scheduling.k8s.io/v1alpha2", kind="PodGroup"),
    GangApi(name="kubernetes", api_version="scheduling.k8s.io/v1alpha1", kind="Workload"),
    GangApi(
        name="volcano",
        api_version="scheduling.volcano.sh/v1beta1",
        kind="PodGroup",
        scheduler="volcano",
        takes_priority=True,
    ),
    GangApi(
        name="coscheduling",
        api_version="scheduling.x-k8s.io/v1alpha1",
        kind="PodGroup",
        scheduler="scheduler-plugins-scheduler",
    ),
)
WISHES = (NONE, AUTO, *dict.fromkeys(api.name for api in GANGS))
"""What the settings may ask for."""


def candidates(wish: str) -> tuple[GangApi, ...]:
    """Return the APIs that a wish allows, the first choice first."""
    if wish == NONE:
        return ()
    return tuple(api for api in GANGS if wish in (AUTO, api.name))


def chosen(wish: str, served: Collection[str]) -> GangApi | None:
    """Return the first allowed API whose ``place`` the cluster serves, None without one."""
    return next((api for api in candidates(wish) if api.place in served), None)


def missing(wish: str, api: GangApi | None) -> str:
    """Return, for people, that what the settings ask for is not there; empty if it is."""
    if api is not None or wish in (NONE, AUTO):
        return ""
    groups = " or ".join(dict.fromkeys(each.api_version for each in candidates(wish)))
    return f"Started without a gang scheduler: the cluster does not serve {groups}."
