"""An optimizer's state in a script's own checkpoint: whole in the file, in parts on the ranks."""

from collections.abc import Callable, Mapping
from functools import wraps
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qwenft_trainer.elsewhere import is_elsewhere
from qwenft_trainer.mesh import data_index
from qwenft_trainer.option import Session
from qwenft_trainer.whole import full, like

FIELDS = {"state", "param_groups"}


def is_state(value: object) -> bool:
    """Tell whether a value is what ``optimizer.state_dict()`` gives."""
    return isinstance(value, Mapping) and value.keys() == FIELDS


def whole_state(session: Session, state: Mapping[str, Any]) -> dict[str, Any]:
    """Put a state together from all ranks' parts, as one process would have it. Collective.

    Rank 0 gets it, on the CPU; what others get is incomplete.
    """
    entries = {}
    for index in chain.from_iterable(group["params"] for group in state["param_groups"]):
        entry = _from_its_stage(session, _whole_entry(state["state"].get(index)))
        if entry is not None:
            entries[index] = entry
    return {**state, "state": entries}


def loading(session: Session, original: Callable[..., None]) -> Callable[..., None]:
    """Give each rank its part of whole tensors before the optimizer takes a state."""

    @wraps(original)
    def load_state_dict(self: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
        original(self, _cut(self, state_dict) if session.models else state_dict)

    return load_state_dict


def _cut(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    own = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    indices = chain.from_iterable(group["params"] for group in saved["param_groups"])
    # Another number of parameters is refused by torch itself, which says so well.
    parameters = dict(zip(indices, own, strict=False))
    state = {
        index: _cut_entry(entry, parameters[index]) if index in parameters else entry
        for index, entry in saved["state"].items()
        if index not in parameters or not is_elsewhere(parameters[index])
    }
    return {**saved, "state": state}


def _cut_entry(entry: Any, parameter: Tensor) -> Any:
    """Lay out like the parameter what has its shape: moments do, a count of steps does not."""
    if not isinstance(entry, Mapping):
        return entry
    return {
        name: like(value, parameter)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for name, value in entry.items()
    }


def _whole_entry(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Put one parameter's state together on its stage; kept by the group of rank 0 alone."""
    tensors = [value for value in (entry or {}).values() if isinstance(value, Tensor)]
    if entry is None or any(map(is_elsewhere, tensors)):
        return None
    found = {}
    for name, value in entry.items():
        whole = full(value) if isinstance(value, Tensor) else value
        found[name] = whole.cpu() if isinstance(whole, Tensor) else whole
    return found


def _from_its_stage(session: Session, entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return to rank 0 what the one stage that has it gives. Collective over the stages."""
    mesh = session.mesh
    assert mesh is not None  # noqa: S101 - the optimizer's tensors lie on it
    if session.plan.pp == 1:
        return entry if dist.get_rank() == 0 else None
    if data_index(mesh) or mesh.get_local_rank("tp"):
        return None
    first = dist.get_rank() == 0
    parts: list[Any] | None = [None] * session.plan.pp if first else None
    dist.gather_object(entry, parts, group=mesh.get_group("pp"), group_dst=0)
    return next((part for part in parts or () if part is not None), None)
