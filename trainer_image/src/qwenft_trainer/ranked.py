"""Calls of a script that must know about the other ranks: clipping, and writing files."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from os import PathLike
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_any, tree_map

from qwenft_trainer.blame import refuse
from qwenft_trainer.mesh import SET_UP, bound
from qwenft_trainer.optimizer_states import is_state, loading, whole_state
from qwenft_trainer.option import Session
from qwenft_trainer.patches import Target
from qwenft_trainer.together import meet
from qwenft_trainer.whole import full


def replacements(session: Session) -> Mapping[Target, Any]:
    """Return the calls and what replaces them."""
    clip = clipping(session, torch.nn.utils.clip_grad_norm_)
    tokenizer = transformers.PreTrainedTokenizerBase
    return {
        (torch.nn.utils, "clip_grad_norm_"): clip,
        (torch.nn.utils.clip_grad, "clip_grad_norm_"): clip,
        (torch, "save"): saving(session, torch.save),
        (torch.optim.Optimizer, "load_state_dict"): loading(
            session, torch.optim.Optimizer.load_state_dict
        ),
        (tokenizer, "save_pretrained"): writing(session, tokenizer.save_pretrained),
    }


def clipping(session: Session, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Clip by the norm over all ranks where the parameters are a model's under the plan."""

    @wraps(original)
    def clip_grad_norm_(
        parameters: Tensor | Iterable[Tensor],
        max_norm: float,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,  # noqa: FBT001, FBT002 - torch's signature
        foreach: bool | None = None,  # noqa: FBT001 - torch's signature
    ) -> Tensor:
        values = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        model = _owner(session, values)
        if model is None:
            return original(values, max_norm, norm_type, error_if_nonfinite, foreach)
        if float(norm_type) != 2.0:  # noqa: PLR2004
            refuse(f"clip_grad_norm_ with norm_type={norm_type}", "only the L2 norm is supported")
        norm: Tensor = model.stages.clip(float(max_norm))
        if error_if_nonfinite and not bool(norm.isfinite()):
            raise RuntimeError(f"the total norm of the gradients is {norm.item()}")
        return norm

    return clip_grad_norm_


def _owner(session: Session, values: list[Tensor]) -> Any:
    """Return the model whose parameters these are; None for tensors of no model under the plan."""
    given = {id(value) for value in values}
    for model in session.models:
        own = {id(value) for value in model.parameters() if value.requires_grad}
        if own <= given:
            return model
        if own & given:
            refuse(
                "clip_grad_norm_ was given a part of the model's parameters",
                "clip all of model.parameters() at once: the norm is taken over all ranks",
            )
    return None


def writing(session: Session, original: Callable[..., Any]) -> Callable[..., Any]:
    """Let rank 0 write and the others wait for it."""

    @wraps(original)
    def write(*args: Any, **kwargs: Any) -> Any:
        if session.mesh is None:
            return original(*args, **kwargs)
        meet(original.__qualname__)
        bound(session.mesh, SET_UP)
        result = original(*args, **kwargs) if dist.get_rank() == 0 else None
        dist.barrier()
        return result

    return write


def saving(session: Session, original: Callable[..., Any]) -> Callable[..., Any]:
    """Put sharded tensors together before ``torch.save``, and let rank 0 write."""
    write = writing(session, original)

    @wraps(original)
    def save(obj: object, f: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(f, str | PathLike):
            # A stream in memory: torch itself pickles tensors this way, on one rank alone.
            return original(obj, f, *args, **kwargs)
        if isinstance(obj, torch.nn.Module) and obj in session.models:
            refuse("torch.save(model) is not supported", "save model.state_dict() instead")
        return write(_whole(session, obj), f, *args, **kwargs)

    return save


def _whole(session: Session, obj: object) -> object:
    """Put together what is sharded in an object. Collective where anything is."""
    if session.mesh is None or not tree_any(_is_in_parts, obj, is_leaf=is_state):
        return obj
    meet("torch.save")
    return tree_map(partial(_whole_value, session), obj, is_leaf=is_state)


def _is_in_parts(value: object) -> bool:
    """Tell what every rank must bring its part of; a stage may have none of a state's tensors."""
    return isinstance(value, DTensor) or is_state(value)


def _whole_value(session: Session, value: Any) -> object:
    if is_state(value):
        return whole_state(session, value)
    if not isinstance(value, DTensor):
        return value
    if session.plan.pp > 1:
        refuse(
            "an object with a pipeline stage's tensors cannot be saved",
            "under pp > 1 no rank holds all of it; save model.state_dict() or "
            "optimizer.state_dict(), which are whole",
        )
    return full(value).cpu()
