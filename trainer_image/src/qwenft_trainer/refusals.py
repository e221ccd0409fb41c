"""Calls that cannot work under a plan, refused where torch's own message would say little."""

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
import transformers
from torch.distributed.tensor import DTensor

from qwenft_trainer.blame import is_user_s, refuse
from qwenft_trainer.handover import is_handed_over
from qwenft_trainer.option import Session
from qwenft_trainer.patches import Target
from qwenft_trainer.user_model import ParallelModel

HOOKS = ("register_hook", "register_post_accumulate_grad_hook")


def replacements(session: Session) -> Mapping[Target, Any]:
    """Return the calls and what replaces them."""
    return {
        (torch.autograd, "grad"): grad(torch.autograd.grad),
        (torch, "compile"): compiling(torch.compile),
        (torch.nn.parallel.DistributedDataParallel, "__init__"): wrapping(
            torch.nn.parallel.DistributedDataParallel
        ),
        (torch.nn.DataParallel, "__init__"): wrapping(torch.nn.DataParallel),
        **{(DTensor, name): hooking(session, getattr(DTensor, name)) for name in HOOKS},
        (torch.amp.GradScaler, "scale"): scaling(session, torch.amp.GradScaler.scale),
        (torch.optim.Adafactor, "__init__"): factoring(session, torch.optim.Adafactor),
        (transformers.Adafactor, "__init__"): factoring(session, transformers.Adafactor),
    }


def grad(original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse ``torch.autograd.grad`` of a model's loss: its graph has no parameters."""

    @wraps(original)
    def wrapper(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        if any(map(is_handed_over, outputs if isinstance(outputs, list | tuple) else (outputs,))):
            refuse("torch.autograd.grad is not supported", "call loss.backward() and read .grad")
        return original(outputs, *args, **kwargs)

    return wrapper


def compiling(original: Callable[..., Any]) -> Callable[..., Any]:
    """Leave a parallel model as it is: the plan decides about compilation."""

    @wraps(original)
    def wrapper(model: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(model, ParallelModel):
            return model
        return original(model, *args, **kwargs)

    return wrapper


def wrapping(kind: type) -> Callable[..., None]:
    """Refuse to wrap a parallel model once more."""
    original: Callable[..., None] = kind.__init__  # type: ignore[misc] # it is put back as it was

    @wraps(original)
    def wrapper(self: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(module, ParallelModel):
            refuse(f"{kind.__name__}(model)", "leave the wrapper out: the plan spreads the model")
        original(self, module, *args, **kwargs)

    return wrapper


def hooking(session: Session, original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a script's hooks on gradients, which are delivered without autograd."""

    @wraps(original)
    def wrapper(self: DTensor, *args: Any, **kwargs: Any) -> Any:
        if session.models and is_user_s(sys._getframe(1)):  # noqa: SLF001 - torch hooks as well
            refuse(
                f"{original.__name__} of a parameter would never be called",
                "change the gradients between loss.backward() and optimizer.step()",
            )
        return original(self, *args, **kwargs)

    return wrapper


def scaling(session: Session, original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse fp16 loss scaling."""

    @wraps(original)
    def wrapper(self: Any, outputs: Any) -> Any:
        if session.models and self.is_enabled():
            refuse(
                "GradScaler", 'leave it out: set "precision": "bf16" in the plan, which needs none'
            )
        return original(self, outputs)

    return wrapper


def factoring(session: Session, kind: type) -> Callable[..., None]:
    """Refuse optimizers whose state is made of whole rows and columns."""
    original: Callable[..., None] = kind.__init__  # type: ignore[misc] # it is put back as it was

    @wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if session.models:
            refuse(f"{kind.__name__} needs whole matrices", "use torch.optim.AdamW")
        original(self, *args, **kwargs)

    return wrapper
