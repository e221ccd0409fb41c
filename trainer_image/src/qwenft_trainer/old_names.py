"""Names that scripts import and the libraries no longer have."""

import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch

DECAY, EPSILON = 0.0, 1e-6
"""Defaults of the optimizer that transformers shipped until version 4; torch's are others."""


class AdamW(torch.optim.AdamW):
    """``transformers.AdamW`` with its old signature and its old defaults."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = EPSILON,
        weight_decay: float = DECAY,
        correct_bias: bool = True,  # noqa: FBT001, FBT002 - the signature was so
        no_deprecation_warning: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        del no_deprecation_warning
        if not correct_bias:
            raise ValueError("correct_bias=False is not supported; leave it out")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def option_modules(enable: Callable[[], None]) -> dict[str, ModuleType]:
    """Return the modules behind ``torch.moreh.option.enable_advanced_parallelization``."""
    option = ModuleType("torch.moreh.option", "The one-line switch.")
    vars(option)["enable_advanced_parallelization"] = enable
    package = ModuleType("torch.moreh", "The one-line switch's package.")
    vars(package).update(option=option, __path__=[])
    return {"torch.moreh": package, "torch.moreh.option": option}


def install(modules: dict[str, ModuleType]) -> None:
    """Make modules importable; they stay for the life of the process."""
    sys.modules.update(modules)
    vars(torch)["moreh"] = modules["torch.moreh"]
