"""Peak memory of one rank's step under a plan: torch's tracker beside the planner's prediction.

One process, torch's fake process group: collectives move nothing, tensors are as large as in a
real gang. `python -m parity.footprint` prints all combinations.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._tools.mem_tracker import MemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import Qwen2Config

from qwenft_plan.hardware import CPU
from qwenft_plan.memory import peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.runtimes import OWN
from qwenft_plan.spec import Training
from qwenft_plan.workload import Layout, Workload
from qwenft_trainer.batch import Batch
from qwenft_trainer.mesh import build_mesh
from qwenft_trainer.optim import build_optimizer
from qwenft_trainer.stages import build_stages
from qwenft_trainer.weights import Fresh

CONFIG: dict[str, Any] = {
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
LENGTH = 1024
DEGREES: tuple[dict[str, int], ...] = (
    {},
    {"dp_shard": 2},
    {"dp_shard": 4, "dp_replicate": 2},
    {"tp": 2},
    {"tp": 2, "dp_shard": 2},
)
CASES = tuple(
    (precision, checkpointing, degrees)
    for precision in ("fp32", "bf16")
    for checkpointing in ("none", "selective", "full")
    for degrees in DEGREES
)
"""Thirty combinations; pipelines and accumulation call a block twice, which the tracker refuses."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes at the peak of a step."""

    tracked: float
    predicted: float

    @property
    def ratio(self) -> float:
        """Predicted over tracked."""
        return self.predicted / self.tracked


def footprint(precision: str, checkpointing: str, degrees: dict[str, int]) -> Footprint:
    """Return the tracked and the predicted peak of the second step of rank 0."""
    plan = _plan(precision, checkpointing, degrees)
    dist.init_process_group("fake", rank=0, world_size=plan.world_size, store=FakeStore())
    try:
        tracked = _tracked(plan)
    finally:
        dist.destroy_process_group()
    return Footprint(tracked=tracked, predicted=_predicted(plan))


def _plan(precision: str, checkpointing: str, degrees: dict[str, int]) -> Plan:
    axes = {axis: degrees.get(axis, 1) for axis in ("pp", "dp_replicate", "dp_shard", "tp")}
    dp = axes["dp_replicate"] * axes["dp_shard"]
    world = axes["pp"] * dp * axes["tp"]
    return Plan(
        world_size=world,
        nodes=1,
        processes_per_node=world,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        global_batch_size=dp,
        sequence_length=LENGTH,
        activation_checkpointing=checkpointing,
        precision=precision,
        **axes,
    )


def _tracked(plan: Plan) -> float:
    stages = build_stages(plan, build_mesh(plan, "cpu"), Qwen2Config(**CONFIG), Fresh(seed=0))
    optimizer = build_optimizer(stages, Training())
    ids = torch.randint(0, CONFIG["vocab_size"], (1, LENGTH))
    batch = Batch.from_rows(input_ids=ids, labels=ids.clone())

    def step() -> None:
        stages.train_step(batch, trained_tokens=LENGTH * plan.dp)
        stages.clip(1.0)
        optimizer.step()
        stages.zero_grad()

    step()  # the first one makes the optimizer's state
    tracker = MemTracker()
    tracker.track_external(*stages.parts, optimizer)
    with tracker:
        step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return float(max(peak.values()))


def _predicted(plan: Plan) -> float:
    work = Workload(
        model=ModelShape.from_config({"model_type": "qwen2", **CONFIG}),
        runtime=OWN,
        device=CPU,
        precision="fp32" if plan.precision == "fp32" else "bf16_mixed",
        sequence_length=LENGTH,
        per_node=plan.world_size,
    )
    layout = Layout(
        tp=plan.tp,
        dp_shard=plan.dp_shard,
        dp_replicate=plan.dp_replicate,
        checkpointing=plan.activation_checkpointing,
    )
    return peak_memory(work, layout).allocated


if __name__ == "__main__":
    for each in CASES:
        found = footprint(*each)
        print(f"{found.ratio:.3f} {found.tracked / 1e6:7.1f} MB {each}", flush=True)
