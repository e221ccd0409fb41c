"""AdamW whose two moments take a byte a number each, under every plan.

The arithmetic is AdamW's own in fp32, on a part of a matrix at a time; between steps the moments
lie as codes (:mod:`qwenft_trainer.lowbit`). Biases, norms and matrices of odd widths keep fp32
moments. Nothing is compiled, so the image needs no compiler.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qwenft_plan.states import moment_block
from qwenft_trainer.gradients import local
from qwenft_trainer.lowbit import decode, encode, rows_at_once, signed_book, unsigned_book

BETAS = (0.9, 0.999)
EPSILON = 1e-8
SCALED = {"exp_avg": "exp_avg_scale", "exp_avg_sq": "exp_avg_sq_scale"}
"""A moment's codes, and where its scales are."""


class AdamW8bit(torch.optim.Optimizer):
    """Decoupled weight decay and bias correction as in ``torch.optim.AdamW``."""

    def __init__(self, params: Iterable[Any], *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step on every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("a closure is not supported: gradients must be there")
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    self._update(value, lr=group["lr"], decay=group["weight_decay"])

    def prepare(self, value: nn.Parameter, step: float = 0.0) -> dict[str, Any]:
        """Give a parameter empty moments, as they are before step ``step + 1``."""
        state: dict[str, Any] = {"step": torch.tensor(step)}
        block = _block(value)
        for moment, scale in SCALED.items():
            state[moment] = _beside(value, 1, torch.uint8 if block else torch.float32)
            if block:
                state[scale] = _beside(value, block, torch.float32)
        self.state[value] = state
        if block:
            zero = torch.bucketize(0.0, signed_book(local(value).device).middles, right=True)
            local(state["exp_avg"]).fill_(int(zero))
        return state

    def _update(self, value: nn.Parameter, *, lr: float, decay: float) -> None:
        state = self.state[value] or self.prepare(value)
        state["step"] += 1
        weights, gradient = local(value), local(value.grad)  # type: ignore[arg-type]
        step = rows_at_once(max(1, weights.shape[1])) if _block(value) else max(1, len(weights))
        for begin in range(0, len(weights), step):
            rows = slice(begin, begin + step)
            _adam(weights[rows], gradient[rows].float(), state, rows, lr=lr, decay=decay)


def _adam(
    weights: Tensor,
    gradient: Tensor,
    state: dict[str, Any],
    rows: slice,
    *,
    lr: float,
    decay: float,
) -> None:
    """Step some rows in place."""
    count = float(state["step"])
    first = _load(state, "exp_avg", rows).lerp_(gradient, 1 - BETAS[0])
    second = _load(state, "exp_avg_sq", rows).lerp_(gradient.square(), 1 - BETAS[1])
    _store(state, "exp_avg", first, rows)
    _store(state, "exp_avg_sq", second, rows)
    correction = 1 - BETAS[0] ** count, math.sqrt(1 - BETAS[1] ** count)
    weights.mul_(1 - lr * decay)
    weights.addcdiv_(
        first, second.sqrt().div_(correction[1]).add_(EPSILON), value=-lr / correction[0]
    )


def _load(state: dict[str, Any], moment: str, rows: slice) -> Tensor:
    """Return a moment's rows in fp32; where they are kept so, themselves."""
    kept = local(state[moment])[rows]
    if SCALED[moment] not in state:
        return kept
    return decode(kept, local(state[SCALED[moment]])[rows], _book(moment, kept.device))


def _store(state: dict[str, Any], moment: str, numbers: Tensor, rows: slice) -> None:
    if SCALED[moment] not in state:
        return
    scales = local(state[SCALED[moment]])[rows]
    block = numbers.shape[1] // scales.shape[1]
    codes, scale = encode(numbers, _book(moment, numbers.device), block)
    if moment == "exp_avg_sq":
        # Rounded down to nothing, a small second moment would make its number's next step huge.
        codes.clamp_(min=1)
    local(state[moment])[rows].copy_(codes)
    scales.copy_(scale)


def _book(moment: str, device: torch.device) -> Any:
    return signed_book(device) if moment == "exp_avg" else unsigned_book(device)


def _block(value: Tensor) -> int:
    """Return how many numbers of a row share a scale; by the whole shape, never by a rank's."""
    return moment_block(value.shape[1]) if value.dim() == 2 else 0  # noqa: PLR2004 - a matrix


def _beside(value: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """Return zeros, one for each `block` columns of ``value``, sharded as it is."""
    mine = local(value)
    columns = [] if mine.dim() == 1 else [mine.shape[1] // block]
    part = torch.zeros(len(mine), *columns, dtype=dtype, device=mine.device)
    if not isinstance(value, DTensor):
        return part
    shape = value.shape if block == 1 else torch.Size((value.shape[0], value.shape[1] // block))
    return DTensor.from_local(
        part,
        value.device_mesh,
        value.placements,
        run_check=False,
        shape=shape,
        stride=(1,) if len(shape) == 1 else (shape[1], 1),
    )
