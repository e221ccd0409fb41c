"""Running micro-batches through this rank's stages: a plain loop, or a pipeline.

Both take this rank's micro-batches and return *this rank's* loss sum (zero where the rank does not
hold the last stage); adding up over ranks is the caller's. Nothing here averages.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
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
        """Gradients that are kept sharded, or by the host, are reduced every time, for memory.

        Others are reduced once, for speed: those of replicas, and of a plan that keeps what is
        gathered. What a micro-batch needs first and frees last, embedding and head, stays gathered
        for the next one in any case: the peak is no higher.
        """
        stage, plan = self.stage, self.plan
        assert isinstance(stage, FSDPModule)  # noqa: S101 - an invariant of parallelize
        alone = plan.dp_shard == 1 and not plan.offload_optimizer
        whole = alone or not plan.reshard_after_forward
        stage.set_requires_gradient_sync(last or not whole)
        stage.set_requires_all_reduce(last)
        stage.set_reshard_after_backward(last, recurse=whole)


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
        self.schedules: dict[tuple[int, int, int], Any] = {}

    def train(self, micro_batches: Sequence[Batch], trained_tokens: int) -> Tensor:
        """See :class:`Execution`."""
        losses: list[Tensor] = []
        schedule = self._schedule(micro_batches)
        first = any(stage.part.first for stage in self.stages)
        with vocabulary_loss(self.plan):
            schedule.step(
                arg_mbs=[(batch.input_ids,) for batch in micro_batches] if first else None,
                kwarg_mbs=[batch.context() for batch in micro_batches],
                target_mbs=[batch.targets for batch in micro_batches],
                losses=losses,
                loss_kwargs={"trained_tokens": trained_tokens},
                return_outputs=False,
            )
        if not losses:
            return torch.zeros((), device=self._device())
        return torch.stack([loss.detach() for loss in losses]).sum() * trained_tokens

    def evaluate(self, micro_batches: Sequence[Batch]) -> Tensor:
        """See :class:`Execution`."""
        with torch.no_grad(), vocabulary_loss(self.plan):
            sums = [self._forward(batch, batch.context()) for batch in micro_batches]
        mine = [total for total in sums if total is not None]
        return torch.cat(mine).sum() if mine else torch.zeros((), device=self._device())

    def logits(self, micro_batches: Sequence[Batch]) -> Tensor | None:
        """See :class:`Execution`."""
        with torch.no_grad():
            rows = [self._forward(batch, _without_targets(batch)) for batch in micro_batches]
        mine = [gathered(part) for part in rows if part is not None]
        return torch.cat(mine) if mine else None

    def _forward(self, batch: Batch, context: dict[str, Tensor]) -> Tensor | None:
        """Pass one micro-batch through all stages; what the last one gives, where it lies.

        Forward alone needs no schedule: a rank that has sent goes on with the next micro-batch.
        (torch 2.15's own ``eval`` fails where two neighbouring stages lie on one rank.)
        """
        owners = stage_owners(self.plan)
        me = self.mesh.get_local_rank("pp")
        group = self.mesh.get_group("pp")
        mine = iter(self.stages)
        value: Tensor = batch.input_ids
        for index, owner in enumerate(owners):
            if owner != me:
                continue
            if index and owners[index - 1] != me:
                value = self._hidden(len(batch), batch.length, device=self._device())
                dist.recv(value, group=group, group_src=owners[index - 1])
            value = next(mine)(value, **context)
            if index + 1 < len(owners) and owners[index + 1] != me:
                dist.send(value.contiguous(), group=group, group_dst=owners[index + 1])
        return value if owners[-1] == me else None

    def _schedule(self, micro_batches: Sequence[Batch]) -> Any:
        first = micro_batches[0]
        key = (len(micro_batches), len(first), first.length)
        if key not in self.schedules:
            self.schedules[key] = self._build(*key)
        return self.schedules[key]

    def _build(self, count: int, rows: int, length: int) -> Any:
        # Brings torch's compiler: seconds that a run without a pipeline does not have to wait.
        from torch.distributed.pipelining import schedules  # noqa: PLC0415

        parts = [self._pipeline_stage(i, rows, length) for i in range(len(self.stages))]
        kind: Any = schedules.get_schedule_class(self.plan.pipeline_schedule)
        stages = parts if issubclass(kind, schedules.PipelineScheduleMulti) else parts[0]
        try:
            return kind(stages, count, loss_fn=per_token, scale_grads=False)
        except ValueError as error:
            raise PlanInvalid(
                f"{self.plan.pipeline_schedule} over {self.plan.pp} stages cannot run {count} "
                f"micro-batches (gradient_accumulation_steps): {error}"
            ) from error

    def _pipeline_stage(self, index: int, rows: int, length: int) -> Any:
        from torch.distributed.pipelining import PipelineStage  # noqa: PLC0415 - see above

        stage = self.stages[index]
        hidden = self._hidden(rows, length, device=torch.device("meta")).requires_grad_()
        total = torch.empty(1, device="meta", requires_grad=True)
        tokens = torch.empty(rows, length, dtype=torch.int64, device="meta")
        return PipelineStage(
            stage,
            stage_indices(self.plan, self.mesh.get_local_rank("pp"))[index],
            stage_count(self.plan),
            self._device(),
            input_args=tokens if stage.part.first else hidden,
            output_args=total if stage.part.last else hidden,
            group=self.mesh.get_group("pp"),
        )

    def _hidden(self, rows: int, length: int, *, device: torch.device) -> Tensor:
        """Return room for what passes between stages: hidden states of this rank's positions."""
        compute = torch.float32 if self.plan.precision == "fp32" else torch.bfloat16
        width = int(self.config.hidden_size)
        return torch.empty(rows, length // self.plan.tp, width, dtype=compute, device=device)

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


def stage_owners(plan: Plan) -> tuple[int, ...]:
    """Return the pipeline rank of each stage, in order."""
    owners = {i: rank for rank in range(plan.pp) for i in stage_indices(plan, rank)}
    return tuple(owners[index] for index in range(stage_count(plan)))


def per_token(total: Tensor, _targets: Tensor, *, trained_tokens: int) -> Tensor:
    """Divide a micro-batch's sum by the tokens of the whole step."""
    return (total / trained_tokens).sum()


def vocabulary_loss(plan: Plan) -> AbstractContextManager[None]:
    """Let cross-entropy work on logits that are sharded over the vocabulary."""
    return loss_parallel() if plan.tp > 1 else nullcontext()


def _without_targets(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in batch.context().items() if name != "targets"}
