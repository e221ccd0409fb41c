"""``"cuda"`` means the machine's own device where there is no CUDA.

Tutorials move every batch with ``.cuda()``. On a machine without a GPU the same line must run, so a
function mode rewrites the device of each torch call; nothing of torch is replaced, which would
leave constructors that torch has already looked up half replaced.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class CudaMeansHere(TorchFunctionMode):
    """Rewrites devices of type cuda in the arguments of torch functions to the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func`` with what it would get on a machine whose only device is the CPU."""
        del types
        if func is Tensor.cuda:
            return args[0]
        if any(map(_is_cuda, args)):
            args = tuple(_here(value) for value in args)
        if kwargs and "device" in kwargs:
            kwargs = {**kwargs, "device": _here(kwargs["device"])}
        return func(*args, **(kwargs or {}))


def cuda_calls(torch_cuda: Any = torch.cuda) -> dict[tuple[Any, str], Any]:
    """Return the calls of ``torch.cuda`` that scripts make unasked, and what stands in for them."""
    names = ("set_device", "synchronize", "manual_seed", "manual_seed_all")
    return {(torch_cuda, name): _nothing() for name in names}


def _nothing() -> Callable[..., None]:
    """Make a function that does nothing; each name has its own, as the compiler has its rules."""

    def nothing(*_: Any, **__: Any) -> None:
        """Do nothing: there is no CUDA."""

    return nothing


def _is_cuda(value: object) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))


def _here(value: Any) -> Any:
    return "cpu" if _is_cuda(value) else value
