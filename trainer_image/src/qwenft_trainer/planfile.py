"""The plan that ``QWENFT_PLAN`` names, checked against the processes that were started."""

from collections.abc import Mapping
from pathlib import Path

from qwenft_plan.errors import SpecError
from qwenft_plan.plan import Plan
from qwenft_trainer.failure import PlanInvalid

VARIABLE = "QWENFT_PLAN"


def load(environ: Mapping[str, str], *, world_size: int) -> Plan | None:
    """Load the plan; None where the variable is unset or empty.

    Raises :class:`PlanInvalid` for a plan that cannot be read or is made for another number of
    processes than ``world_size``.
    """
    path = environ.get(VARIABLE)
    if not path:
        return None
    try:
        plan = Plan.load(Path(path))
    except SpecError as error:
        raise PlanInvalid(f"{VARIABLE}: {error}") from None
    if plan.world_size != world_size:
        raise PlanInvalid(
            f"{path}: world_size is {plan.world_size} ({plan.nodes} nodes with "
            f"{plan.processes_per_node} processes each), but {world_size} processes were started; "
            f"start with --nnodes={plan.nodes} --nproc-per-node={plan.processes_per_node}, "
            "or plan anew for the nodes at hand",
        )
    return plan
