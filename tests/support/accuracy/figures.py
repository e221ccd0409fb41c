"""The figures of `make accuracy`: errors of memory and step time, wrong verdicts, regret."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from accuracy.rows import HELD_OUT, HELD_OUT_MEMORY, Measured, load, visible
from qwenft_plan.estimate import estimate_row

__all__ = ["Grid", "Judged", "figures", "grids", "judged", "quantile", "step_error"]

MEMORY_FAMILY = ("torchtitan_h100_202412", "ms_swift_bench", "torchtune_flags", "simumax_b200")
"""Sources of the PyTorch, HF and FSDP family that print memory, and simumax_b200."""

_SMALLEST_GRID = 5


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A measured run beside its estimate."""

    row: Measured
    speed: float
    memory: float
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Plans of one model, batch and number of devices: chosen by estimate, best by measurement."""

    name: str
    billions: float
    plans: int
    chosen_over_best: float


def judged() -> tuple[Judged, ...]:
    """Return every row that is not refused, beside the estimate of its visible columns."""
    found = []
    for row in load():
        answer = estimate_row(visible(row.columns))
        if "error" not in answer:
            found.append(
                Judged(
                    row=row,
                    speed=answer["tokens_per_s_per_gpu"],
                    memory=answer["memory_gb"],
                    fits=answer["fits"],
                )
            )
    return tuple(found)


def step_error(item: Judged) -> float:
    """Return the relative error of the predicted step time."""
    assert item.row.speed is not None
    return abs(item.row.speed / item.speed - 1)


def memory_error(item: Judged) -> float:
    """Return the relative error of the predicted peak memory."""
    assert item.row.memory is not None
    return abs(item.memory / item.row.memory - 1)


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def timed(items: Iterable[Judged], *, fp8: bool = False) -> list[Judged]:
    """Return the items whose step time counts."""
    return [
        item
        for item in items
        if item.row.speed and not item.row.left_out_speed and item.row.fp8 == fp8
    ]


def weighed(items: Iterable[Judged]) -> list[Judged]:
    """Return the items whose memory counts, fp8 included: it changes no state's width."""
    return [item for item in items if item.row.memory and not item.row.left_out_memory]


def grids(items: Iterable[Judged]) -> tuple[Grid, ...]:
    """Return the grids: rows of one source, model, size and batch with at least five plans."""
    found: dict[tuple[str, ...], list[Judged]] = {}
    for item in items:
        if item.row.speed:
            columns = item.row.columns
            keys = ("source_id", "model", "gpu", "n_gpus", "global_batch", "seq_len", "precision")
            found.setdefault(tuple(columns[key] for key in keys), []).append(item)
    return tuple(_grid(key, plans) for key, plans in found.items() if _is_grid(plans))


def _is_grid(plans: Sequence[Judged]) -> bool:
    layouts = {
        tuple(plan.row.columns[k] for k in ("dp", "fsdp", "tp", "pp", "cp", "micro_batch"))
        for plan in plans
    }
    return len(layouts) >= _SMALLEST_GRID


def _grid(key: tuple[str, ...], plans: Sequence[Judged]) -> Grid:
    chosen = max(plans, key=lambda plan: plan.speed)
    best = max(plan.row.speed or 0.0 for plan in plans)
    return Grid(
        name=f"{key[1]}, {key[3]} GPUs, batch {key[4]}",
        billions=plans[0].row.billions,
        plans=len(plans),
        chosen_over_best=(chosen.row.speed or 0.0) / best,
    )


def figures(items: Sequence[Judged]) -> dict[str, float]:
    """Return every figure that has a threshold, and the ones beside it."""
    family = [item for item in weighed(items) if item.row.source in MEMORY_FAMILY]
    big = [item for item in timed(items) if item.row.billions >= 1]
    one = [item for item in big if item.row.nodes == 1]
    several = [item for item in big if item.row.nodes > 1]
    held = [item for item in timed(items) if item.row.source in HELD_OUT]
    all_grids = grids(items)
    large = [grid.chosen_over_best for grid in all_grids if grid.billions >= 1]
    memory = [memory_error(item) for item in family]
    unseen = [memory_error(item) for item in family if item.row.source in HELD_OUT_MEMORY]
    seen = [memory_error(item) for item in family if item.row.source not in HELD_OUT_MEMORY]
    return {
        "memory rows": len(family),
        "memory median": median(memory),
        "memory p90": quantile(memory, 0.9),
        "memory fitted rows": len(seen),
        "memory fitted median": median(seen),
        "memory fitted p90": quantile(seen, 0.9),
        "memory held out rows": len(unseen),
        "memory held out median": median(unseen),
        "memory held out p90": quantile(unseen, 0.9),
        "one node rows": len(one),
        "one node median": median(map(step_error, one)),
        "several nodes rows": len(several),
        "several nodes median": median(map(step_error, several)),
        "held out rows": len(held),
        "held out median": median(map(step_error, held)),
        "fp8 median": median(map(step_error, timed(items, fp8=True))),
        "grids": len(all_grids),
        "regret mean": fmean(grid.chosen_over_best for grid in all_grids),
        "regret worst": min(grid.chosen_over_best for grid in all_grids),
        "large grids": len(large),
        "regret large mean": fmean(large),
        "regret large worst": min(large),
        "false does not fit": sum(not item.fits for item in items) / len(items),
        "underestimated beyond margin": sum(
            item.memory < 0.92 * (item.row.memory or 0.0) for item in weighed(items)
        ),
    }
