"""Peak memory of one rank's step under a plan, tracked in torch, beside the planner's prediction.

Torch's fake process group: collectives move nothing, tensors are as large as in a real gang.
`python -m parity.footprint > tests/truth/trainer_footprint.csv` writes all combinations down.
"""

from __future__ import annotations

import csv
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._tools.mem_tracker import MemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig

from parity.storages import Storages
from qwenft_plan.hardware import CPU
from qwenft_plan.memory import peak_allocated
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.runtimes import OWN
from qwenft_plan.spec import MATRICES, Lora, Training
from qwenft_plan.workload import Layout, Method, Workload
from qwenft_trainer.batch import Batch
from qwenft_trainer.mesh import build_mesh
from qwenft_trainer.optim import build_optimizer
from qwenft_trainer.packing import packed
from qwenft_trainer.stages import Stages, build_stages
from qwenft_trainer.weights import Fresh

LENGTH = 1024
FOLD = 4
"""Samples that share a row where samples are packed."""
NARROW: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "intermediate_size": 704,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
WIDE = NARROW | {
    "hidden_size": 512,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1408,
    "vocab_size": 16_384,
}
"""Grouped queries, and four times the vocabulary: most of its memory is at the loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """One way to train a small model; ``adapted`` names the matrices with adapters."""

    wide: bool = False
    family: str = "qwen2"
    precision: str = "bf16"
    checkpointing: str = "none"
    adapted: tuple[str, ...] = ()
    optimizer: str = "adamw"
    packed: bool = False
    """Whether the matrices beneath the adapters are in 4 bits."""
    packing: bool = False
    accumulation: int = 1
    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    tp: int = 1
    reshard_after_forward: bool = True

    @property
    def text(self) -> str:
        """What differs from a plain run."""
        numbers = ("pp", "dp_replicate", "dp_shard", "tp", "accumulation")
        parts = [self.family] * (self.family != "qwen2")
        parts += ["wide"] * self.wide + ["packing"] * self.packing
        parts += [f"{name}={getattr(self, name)}" for name in numbers if getattr(self, name) > 1]
        word = "qlora" if self.packed else "lora"
        parts += [f"{word}={len(self.adapted)}"] * bool(self.adapted)
        parts += [self.optimizer] * (self.optimizer != "adamw")
        parts += ["kept"] * (not self.reshard_after_forward)
        return " ".join(parts) or "plain"

    @property
    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        return WIDE if self.wide else NARROW

    @property
    def lora(self) -> Lora | None:
        """The adapters, None for all weights."""
        return Lora(rank=8, target_modules=self.adapted) if self.adapted else None

    @property
    def method(self) -> str:
        """What is trained."""
        return "full" if not self.adapted else "qlora" if self.packed else "lora"


PLAIN = Combination()
ADAPTED = Combination(adapted=MATRICES)
PIPED = Combination(pp=2, accumulation=4)
DEGREES: tuple[dict[str, int], ...] = (
    {},
    {"dp_shard": 2},
    {"dp_shard": 4, "dp_replicate": 2},
    {"tp": 2},
    {"tp": 2, "dp_shard": 2},
)
FULL_PRECISION: dict[str, Any] = {"precision": "fp32"}
FULL: dict[str, Any] = {"checkpointing": "full"}
GRID = tuple(
    Combination(precision=precision, checkpointing=checkpointing, **degrees)
    for precision, checkpointing, degrees in product(
        ("fp32", "bf16"), ("none", "selective", "full"), DEGREES
    )
)
OTHERS = (
    ADAPTED,
    replace(ADAPTED, **FULL_PRECISION),
    replace(ADAPTED, **FULL),
    replace(ADAPTED, checkpointing="selective", dp_shard=2),
    replace(ADAPTED, dp_shard=4, dp_replicate=2),
    replace(ADAPTED, tp=2),
    replace(ADAPTED, adapted=("q_proj", "v_proj")),
    replace(ADAPTED, dp_shard=2, **FULL_PRECISION, **FULL),
    replace(PLAIN, accumulation=4),
    replace(PLAIN, accumulation=4, dp_shard=2, **FULL_PRECISION),
    replace(PLAIN, accumulation=4, dp_shard=2, **FULL),
    replace(PLAIN, packing=True),
    replace(PLAIN, packing=True, dp_shard=2, **FULL),
    PIPED,
    replace(PIPED, **FULL_PRECISION, **FULL),
    replace(PIPED, dp_shard=2),
)
BROAD = tuple(
    replace(each, wide=True)
    for each in (
        PLAIN,
        replace(PLAIN, dp_shard=2),
        replace(PLAIN, dp_shard=2, **FULL),
        replace(PLAIN, **FULL_PRECISION),
        replace(PLAIN, dp_shard=2, **FULL_PRECISION),
        ADAPTED,
        replace(ADAPTED, dp_shard=2, **FULL),
        *OTHERS[-3:],
    )
)
EIGHT = Combination(optimizer="adamw8bit")
FOUR = Combination(adapted=MATRICES, packed=True)
LEAN = (
    EIGHT,
    replace(EIGHT, dp_shard=2, **FULL),
    replace(EIGHT, tp=2, **FULL_PRECISION),
    replace(EIGHT, wide=True),
    FOUR,
    replace(FOUR, **FULL),
)
"""Moments in 8 bits, frozen weights in 4."""
KEPT = Combination(dp_shard=2, reshard_after_forward=False)
STAYING = (
    KEPT,
    replace(KEPT, **FULL_PRECISION),
    replace(KEPT, dp_shard=4, dp_replicate=2, **FULL),
    replace(KEPT, tp=2),
    replace(KEPT, accumulation=4),
    replace(KEPT, accumulation=4, **FULL_PRECISION, **FULL),
    replace(KEPT, wide=True),
    replace(KEPT, wide=True, accumulation=4, **FULL),
    replace(KEPT, adapted=MATRICES),
    replace(KEPT, adapted=MATRICES, packed=True),
)
"""What layers gather stays gathered through a step."""
NORMED = tuple(
    replace(each, family="qwen3")
    for each in (
        PLAIN,
        replace(PLAIN, **FULL_PRECISION),
        replace(PLAIN, checkpointing="selective", dp_shard=2),
        replace(PLAIN, accumulation=4),
        replace(PLAIN, tp=2),
        ADAPTED,
    )
)
"""Queries and keys have norms of their own."""
COMBINATIONS = (*GRID, *OTHERS, *BROAD, *LEAN, *STAYING, *NORMED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Bytes at the peak of a step."""

    tracked: float
    predicted: float

    @property
    def ratio(self) -> float:
        """Predicted over tracked."""
        return self.predicted / self.tracked


def footprint(combination: Combination) -> Footprint:
    """Return the tracked and the predicted peak of the fullest rank's second step."""
    return Footprint(tracked=tracked(combination), predicted=predicted(combination))


def tracked(combination: Combination) -> float:
    """Return the highest sum of the storages that are alive at once, of the fullest rank."""
    if combination.pp == 1:
        return _as_rank(0, combination, _by_storages)
    # A process each: torch remembers the meshes of an earlier rank. It is no fork, because
    # backward fails in the child of a process that has run backward.
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        last = _plan(combination).world_size - 1
        jobs = [(rank, combination, _by_storages) for rank in (0, last)]
        return max(pool.starmap(_as_rank, jobs, chunksize=1))


def tracked_by_torch(combination: Combination) -> float:
    """Return what torch's own tracker says, which refuses a module that runs twice in a step."""
    return _as_rank(0, combination, _by_modules)


def predicted(combination: Combination) -> float:
    """Return the planner's peak of live tensors."""
    adapted = combination.adapted
    work = Workload(
        model=ModelShape.from_config({"model_type": combination.family, **combination.config}),
        runtime=OWN,
        device=CPU,
        method=Method(
            kind=combination.method,
            optimizer=combination.optimizer,
            rank=8,
            adapted=adapted or MATRICES,
        ),
        precision="fp32" if combination.precision == "fp32" else "bf16_mixed",
        sequence_length=LENGTH,
        per_node=8,
    )
    layout = Layout(
        pp=combination.pp,
        tp=combination.tp,
        dp_shard=combination.dp_shard,
        dp_replicate=combination.dp_replicate,
        accumulation=combination.accumulation,
        checkpointing=combination.checkpointing,
        reshard_after_forward=combination.reshard_after_forward,
    )
    return peak_allocated(work, layout)


Step = Callable[[], None]
Measure = Callable[[Stages, torch.optim.Optimizer, Step], float]


def _as_rank(rank: int, combination: Combination, measure: Measure) -> float:
    plan = _plan(combination)
    dist.init_process_group("fake", rank=rank, world_size=plan.world_size, store=FakeStore())
    try:
        return _second_step(plan, combination, measure)
    finally:
        dist.destroy_process_group()


def _second_step(plan: Plan, combination: Combination, measure: Measure) -> float:
    config = AutoConfig.for_model(combination.family, **combination.config)
    mesh = build_mesh(plan, "cpu")
    stages = build_stages(plan, mesh, config, Fresh(seed=0), lora=combination.lora)
    optimizer = build_optimizer(stages, Training(optimizer=combination.optimizer))
    batches = _batches(combination)

    def step() -> None:
        stages.train_step(batches, trained_tokens=LENGTH * plan.global_batch_size)
        stages.clip(1.0)
        optimizer.step()
        stages.zero_grad()

    step()  # the first one makes the optimizer's state
    return measure(stages, optimizer, step)


def _by_storages(stages: Stages, optimizer: torch.optim.Optimizer, step: Step) -> float:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    with Storages([*stages.parameters(), *moments]) as storages:
        step()
    return float(storages.peak)


def _by_modules(stages: Stages, optimizer: torch.optim.Optimizer, step: Step) -> float:
    tracker = MemTracker()
    tracker.track_external(*stages.parts, optimizer)
    with tracker:
        step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return float(max(peak.values()))


def _plan(combination: Combination) -> Plan:
    axes = {axis: getattr(combination, axis) for axis in ("pp", "dp_replicate", "dp_shard", "tp")}
    dp = axes["dp_replicate"] * axes["dp_shard"]
    world = axes["pp"] * dp * axes["tp"]
    return Plan(
        world_size=world,
        nodes=1,
        processes_per_node=world,
        micro_batch_size=1,
        gradient_accumulation_steps=combination.accumulation,
        global_batch_size=dp * combination.accumulation,
        sequence_length=LENGTH,
        activation_checkpointing=combination.checkpointing,
        precision=combination.precision,
        method=combination.method,
        optimizer=combination.optimizer,
        reshard_after_forward=combination.reshard_after_forward,
        **axes,
    )


def _batches(combination: Combination) -> Batch | tuple[Batch, ...]:
    """Return a step's rows; where gradients wait for its end, a short micro-batch goes before.

    Feeds split a step by the length of its rows, so gradients meet activations in any such plan.
    """
    batch = _batch(combination)
    if combination.reshard_after_forward or combination.accumulation > 1:
        return batch
    short = torch.randint(0, combination.config["vocab_size"], (1, LENGTH // FOLD))
    return Batch.from_rows(input_ids=short, labels=short.clone()), batch


def _batch(combination: Combination) -> Batch:
    rows = combination.accumulation
    ids = torch.randint(0, combination.config["vocab_size"], (rows, LENGTH))
    if not combination.packing:
        return Batch.from_rows(input_ids=ids, labels=ids.clone())
    samples = [part for row in ids for part in row.split(LENGTH // FOLD)]
    together = [range(row * FOLD, (row + 1) * FOLD) for row in range(rows)]
    return packed(samples, samples, together)


if __name__ == "__main__":
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(
        ("precision", "checkpointing", "combination", "tracked_mb", "predicted_over_tracked")
    )
    for each in COMBINATIONS:
        found = footprint(each)
        numbers = (f"{found.tracked / 1e6:.1f}", f"{found.ratio:.3f}")
        table.writerow((each.precision, each.checkpointing, each.text, *numbers))
        sys.stdout.flush()
