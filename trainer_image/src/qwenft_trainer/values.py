"""Numbers that a script reads off sharded tensors: a gradient's norm by hand, a largest weight.

torch gives this rank's part of a sum or a norm for the whole, without a word. Here all ranks put
the parts together; under a pipeline no rank has all the gradients: the script's line is named.
"""

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch.distributed.tensor import DTensor

from qwenft_trainer.blame import is_user_s, refuse
from qwenft_trainer.option import Session
from qwenft_trainer.patches import Target
from qwenft_trainer.together import meet
from qwenft_trainer.whole import full

READS = ("item", "tolist", "numpy", "__float__", "__int__", "__bool__", "__format__")


def replacements(session: Session) -> Mapping[Target, Any]:
    """Return the ways of reading a number, and what replaces them."""
    return {(DTensor, name): reading(session, getattr(DTensor, name)) for name in READS}


def reading(session: Session, original: Callable[..., Any]) -> Callable[..., Any]:
    """Read the whole tensor's value where the script itself asks. Collective."""

    @wraps(original)
    def read(self: DTensor, *args: Any, **kwargs: Any) -> Any:
        if not is_user_s(sys._getframe(1)):  # noqa: SLF001 - torch reads its own part
            return original(self, *args, **kwargs)
        if session.plan.pp > 1:
            refuse(
                "a number is read off a parameter or gradient, but this rank holds those of one "
                "pipeline stage only",
                "take the norm from clip_grad_norm_(model.parameters(), float('inf')), weights "
                "from model.state_dict(), or plan with pp 1",
            )
        meet(f"reading a number by {original.__name__}")
        return getattr(full(self), original.__name__)(*args, **kwargs)

    return read
