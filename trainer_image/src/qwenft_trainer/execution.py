"""Running micro-batches through this rank's stages: a plain loop, or a pipeline.

Both take this rank's micro-batches and return *this rank's* loss sum (zero where the rank does not
hold the last stage); adding up over ranks is the caller's. Nothing here averages.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleMulti,
    get_schedule_class,
)
from torch.distributed.tensor.parallel import loss_parallel
from transformers import PretrainedConfig

from qwenft_plan.plan import Plan
from qwenft_trainer.batch import Batch
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.model import Stage
from qwenft_trainer.tensor_parallel import gathered


class Execution(Protocol):
    """How micro-batches of equal shape pass through the model."""

    def train(self, micro_batches: Sequence[Batch], trained_tokens: int) -> Tensor:
        """Forward and backward; gradients of sum / ``trained_tokens`` add up. The sum, 0-dim."""

    def evaluate(self, micro_batches: Sequence[Batch]) -> Tensor:
        """Forward only; the sum of the cross-entropy, 0-dim."""

    def logits(self, micro_batches: Sequence[Batch]) -> Tensor | None:
        """Forward only; logits [B, T, V] on ranks with the last stage, None on the others."""


class Loop:
    """One stage that is the whole model: micro-batch after micro-batch."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.stage = stage
        self.plan = plan

    def train(self, micro_batches: Sequence[Batch], trained_tokens: int) -> Tensor:
        """See :class:`Execution`."""
        sums = []
        with vocabulary_loss(self.plan):
            for index, batch in enumerate(micro_batches):
                self._synchronise(last=index == len(micro_batches) - 1)
                total = self.stage(batch.input_ids, **batch.context())
                (total / trained_tokens).sum().backward()
                sums.append(total.detach())
        return torch.cat(sums).sum()

    def evaluate(self, micro_batches: Sequence[Batch]) -> Tensor:
        """See :class:`Execution`."""
        with torch.no_grad(), vocabulary_loss(self.plan):
            sums = [self.stage(batch.input_ids, **batch.context()) for batch in micro_batches]
        return torch.cat(sums).sum()

    def logits(self, micro_batches: Sequence[Batch]) -> Tensor | None:
        """See :class:`Execution`."""
        with torch.no_grad():
            rows = [
                gathered(self.stage(batch.input_ids, **_without_targets(batch)))
                for batch in micro_batches
            ]
        return torch.cat(rows)

    def _synchronise(self, *, last: bool) -> None:
        """Sharded gradients are reduced every time, for memory; replicated ones once, for speed."""
        stage: Any = self.stage
        assert isinstance(stage, FSDPModule)  # noqa: S101 - an invariant of parallelize
        stage.set_requires_gradient_sync(last or self.plan.dp_shard > 1)
        stage.set_requires_all_reduce(last)


class Pipeline:
    """Stages on several ranks, run by torch's schedules.

    torch learns the shapes between stages by a trial run that also erases gradients; since every
    shape here is known beforehand, schedules are built with them, one for each shape met.
    """

    def __init__(
        self, stages: Sequence[Stage], plan: Plan, mesh: DeviceMesh, config: PretrainedConfig
    ) -> None:
        self.stages = stages
        self.plan = plan
        self.mesh = mesh
        self.config = config
        self.schedules: dict[tuple[str, int, int, int], Any] = {}

    def train(self, micro_batches: Sequence[Batch], trained_tokens: int) -> Tensor:
        """See :class:`Execution`."""
        losses: list[Tensor] = []
        schedule = self._schedule("train", micro_batches)
        with vocabulary_loss(self.plan):
            schedule.step(
                **self._inputs(micro_batches),
                target_mbs=[batch.targets for batch in micro_batches],
                losses=losses,
                loss_kwargs={"trained_tokens": trained_tokens},
                return_outputs=False,
            )
        if not losses:
            return torch.zeros((), device=micro_batches[0].input_ids.device)
        return torch.stack([loss.detach() for loss in losses]).sum() * trained_tokens

    def evaluate(self, micro_batches: Sequence[Batch]) -> Tensor:
        """See :class:`Execution`."""
        schedule = self._schedule("evaluate", micro_batches)
        with torch.no_grad(), vocabulary_loss(self.plan):
            sums = schedule.eval(**self._inputs(micro_batches))
        if sums is None:
            return torch.zeros((), device=micro_batches[0].input_ids.device)
        return sums.sum()  # type: ignore[no-any-return]

    def logits(self, micro_batches: Sequence[Batch]) -> Tensor | None:
        """See :class:`Execution`."""
        schedule = self._schedule("logits", micro_batches)
        inputs = self._inputs(micro_batches)
        inputs["kwarg_mbs"] = [_without_targets(batch) for batch in micro_batches]
        with torch.no_grad():
            rows: Tensor | None = schedule.eval(**inputs)
        return None if rows is None else gathered(rows)

    def _inputs(self, micro_batches: Sequence[Batch]) -> dict[str, Any]:
        first = any(stage.part.first for stage in self.stages)
        return {
            "arg_mbs": [(batch.input_ids,) for batch in micro_batches] if first else None,
            "kwarg_mbs": [batch.context() for batch in micro_batches],
        }

    def _schedule(self, use: str, micro_batches: Sequence[Batch]) -> Any:
        first = micro_batches[0]
        key = (use, len(micro_batches), len(first), first.length)
        if key not in self.schedules:
            self.schedules[key] = self._build(*key)
        return self.schedules[key]

    def _build(self, use: str, count: int, rows: int, length: int) -> Any:
        parts = [self._pipeline_stage(i, use, rows, length) for i in range(len(self.stages))]
        kind: Any = get_schedule_class(self.plan.pipeline_schedule)
        stages = parts if issubclass(kind, PipelineScheduleMulti) else parts[0]
        options: dict[str, Any] = {"scale_grads": False}
        if use == "train":
            options["loss_fn"] = per_token
        try:
            return kind(stages, count, **options)
        except ValueError as error:
            raise PlanInvalid(
                f"{self.plan.pipeline_schedule} over {self.plan.pp} stages cannot run {count} "
                f"micro-batches (gradient_accumulation_steps): {error}"
            ) from error

    def _pipeline_stage(self, index: int, use: str, rows: int, length: int) -> PipelineStage:
        stage = self.stages[index]
        training = use == "train"
        hidden = self._like(rows, length // self.plan.tp, self.config.hidden_size)
        last = self._like(rows, length, self.config.vocab_size) if use == "logits" else _scalar()
        tokens = torch.empty(rows, length, dtype=torch.int64, device="meta")
        return PipelineStage(
            stage,
            stage_indices(self.plan, self.mesh.get_local_rank("pp"))[index],
            stage_count(self.plan),
            self._device(),
            input_args=tokens if stage.part.first else hidden.requires_grad_(training),
            output_args=(last if stage.part.last else hidden).requires_grad_(training),
            group=self.mesh.get_group("pp"),
        )

    def _like(self, *shape: int) -> Tensor:
        compute = torch.bfloat16 if self.plan.precision == "bf16" else torch.float32
        return torch.empty(*shape, dtype=compute, device="meta")

    def _device(self) -> torch.device:
        return next(self.stages[0].parameters()).device


def build_execution(
    stages: Sequence[Stage], plan: Plan, mesh: DeviceMesh, config: PretrainedConfig
) -> Execution:
    """Choose the execution of a plan."""
    if plan.pp == 1:
        return Loop(stages[0], plan)
    return Pipeline(stages, plan, mesh, config)


def stage_count(plan: Plan) -> int:
    """Return the number of pipeline stages: two a rank for the schedules that interleave them."""
    interleaved = plan.pp > 1 and plan.pipeline_schedule in ("Interleaved1F1B", "ZBVZeroBubble")
    return plan.pp * (2 if interleaved else 1)


def stage_indices(plan: Plan, rank: int) -> tuple[int, ...]:
    """Return the stages of a pipeline rank: a loop, or a V for ZBV (there and back again)."""
    if stage_count(plan) == plan.pp:
        return (rank,)
    if plan.pipeline_schedule == "ZBVZeroBubble":
        return (rank, 2 * plan.pp - 1 - rank)
    return (rank, plan.pp + rank)


def per_token(total: Tensor, _targets: Tensor, *, trained_tokens: int) -> Tensor:
    """Divide a micro-batch's sum by the tokens of the whole step."""
    return (total / trained_tokens).sum()


def vocabulary_loss(plan: Plan) -> AbstractContextManager[None]:
    """Let cross-entropy work on logits that are sharded over the vocabulary."""
    return loss_parallel() if plan.tp > 1 else nullcontext()


def _scalar() -> Tensor:
    return torch.empty(1, dtype=torch.float32, device="meta")


def _without_targets(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in batch.context().items() if name != "targets"}
