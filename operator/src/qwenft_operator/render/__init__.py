"""The Kubernetes objects of one attempt, as plain dictionaries. Pure: equal input, equal bytes."""

from __future__ import annotations

from typing import Any

from qwenft_operator import names
from qwenft_operator.gangs import GangApi
from qwenft_operator.render.configmap import config_map
from qwenft_operator.render.gang import gang, joined
from qwenft_operator.render.job import job
from qwenft_operator.render.networkpolicy import network_policy
from qwenft_operator.render.placement import Placement
from qwenft_operator.render.service import service
from qwenft_operator.run import Owner, Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec

__all__ = ["Manifest", "Placement", "render"]

Manifest = dict[str, Any]


def render(
    spec: FinetuneSpec,
    plan: Plan,
    owner: Owner,
    attempt: int,
    *,
    settings: Settings | None = None,
    placement: Placement | None = None,
    before_step: int | None = None,
    gang_api: GangApi | None = None,
) -> tuple[Manifest, ...]:
    """Return the attempt's objects in the order in which they are to be applied.

    The Job comes last, so that its pods find their plan, their names and their walls in place.
    ``before_step`` makes the trainer pass over checkpoints of that and later steps. ``gang_api``
    adds the object of a gang scheduler; a run in a queue of Kueue's has none, it would wait twice.
    """
    settings = settings or Settings()
    environment = {} if before_step is None else {names.BEFORE_STEP: str(before_step)}
    placement = placement or Placement.of(spec)
    made = job(
        spec, plan, owner, attempt, settings=settings, placement=placement, extra=environment
    )
    first = (config_map(plan, owner), service(owner), network_policy(owner))
    if gang_api is None or owner.queue:
        return (*first, made)
    made = joined(made, gang_api, settings.scheduler)
    return (*first, gang(gang_api, made, owner), made)
