"""The plan that ``QWENFT_PLAN`` names, checked against the processes that were started."""

from collections.abc import Mapping
from pathlib import Path

from qwenft_plan.errors import SpecError
from qwenft_plan.plan import Plan
from qwenft_trainer.failure import PlanInvalid

VARIABLE = "QWENFT_PLAN"
COMPILE = "QWENFT_COMPILE"
"""Names the compiler of the layers, such as inductor; unset: layers run as they are."""
USUAL = "inductor"
TWO_HALVES = "ZBVZeroBubble"
"""The schedule that runs a stage's backward twice: for its input, then for its weights."""


def load(environ: Mapping[str, str], *, world_size: int) -> Plan | None:
    """Load the plan; None where the variable is unset or empty.

    Raises :class:`PlanInvalid` for a plan that cannot be read, is made for another number of
    processes than ``world_size``, or cannot be run as the environment asks.
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
    _check_halves(path, plan, environ)
    return plan


def compiler(plan: Plan, environ: Mapping[str, str]) -> str | None:
    """Return the name of the layers' compiler; None: they run as they are.

    The environment's word counts, else the plan's.

    Raises :class:`PlanInvalid` for one that torch does not know.
    """
    name = _named(plan, environ)
    if name is not None:
        from torch._dynamo import list_backends  # noqa: PLC0415 - seconds, for those who compile

        known = list_backends(exclude_tags=())
        if name not in known:
            raise PlanInvalid(f"{COMPILE}: torch has no compiler {name!r}; it has {known}")
    return name


def compiles(plan: Plan, environ: Mapping[str, str]) -> bool:
    """Return whether layers are to be compiled."""
    return bool(_named(plan, environ))


def _named(plan: Plan, environ: Mapping[str, str]) -> str | None:
    return environ.get(COMPILE) or (USUAL if plan.compile else None)


def _check_halves(path: str, plan: Plan, environ: Mapping[str, str]) -> None:
    """Refuse what torch cannot run backward in two halves; it would fail in the first step."""
    if plan.pp == 1 or plan.pipeline_schedule != TWO_HALVES:
        return
    if _named(plan, environ):
        asked = environ.get(COMPILE)
        way_out = f"unset {COMPILE} (it is {asked!r})" if asked else "leave out compile"
        raise PlanInvalid(
            f"{path}: {TWO_HALVES} runs backward in two halves, which torch cannot do in compiled "
            f"layers; {way_out} or choose another pipeline_schedule"
        )
    if plan.activation_checkpointing == "selective":
        raise PlanInvalid(
            f"{path}: {TWO_HALVES} runs backward in two halves, which torch refuses under "
            "selective activation checkpointing; full or none works"
        )
