"""Everything that a plan makes of a model, behind one object.

The built-in loop and the one-line switch both stand on :func:`build_stages`; neither knows which
axes a plan uses.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from transformers import PretrainedConfig

from qwenft_plan.plan import Plan
from qwenft_plan.spec import Lora
from qwenft_trainer.adapters import adapt
from qwenft_trainer.batch import Batch, round_up
from qwenft_trainer.execution import Execution, build_execution, stage_count, stage_indices
from qwenft_trainer.fourbit import pack_layers
from qwenft_trainer.gradients import gradient_norm
from qwenft_trainer.loss import CHUNK_TOKENS
from qwenft_trainer.mesh import SET_UP, STEP, bound, pick_device, sum_over
from qwenft_trainer.model import Stage, checked_config, layer_count, slices
from qwenft_trainer.parallelize import parallelize
from qwenft_trainer.validate import check_plan
from qwenft_trainer.weights import Source, fill, parameters_of

LENGTH_STEP = 64
"""Row lengths are rounded up to this where each new length costs a set-up (pipelines, compiled
layers)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """The part of the model that this rank holds, and how it runs together with the others."""

    plan: Plan
    mesh: DeviceMesh
    config: PretrainedConfig
    device: torch.device
    parts: tuple[Stage, ...]
    execution: Execution
    length_multiple: int

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over this rank's parameters under Hugging Face's names."""
        return iter(parameters_of(self.parts).items())

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over those of them that the optimizer changes: all, or the adapters' alone."""
        return ((name, value) for name, value in self.named_parameters() if value.requires_grad)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over this rank's parameters."""
        return (value for _, value in self.named_parameters())

    def train_step(self, batch: Batch | Sequence[Batch], *, trained_tokens: int) -> Tensor:
        """Run forward and backward over this rank's rows. Collective.

        ``batch`` holds at most ``micro_batch_size · gradient_accumulation_steps`` rows, equally
        many on every rank, or micro-batches of any shape where the plan is free of shapes, equally
        many too; ``trained_tokens`` counts the whole global batch. Gradients of
        (sum of cross-entropy / ``trained_tokens``) *add* to ``.grad``. Returns the mean loss of the
        global batch, 0-dim fp32, the same on every rank.
        """
        self._switch(training=True)
        total = self.execution.train(self._micro_batches(batch), trained_tokens)
        total = self._everywhere(total) / trained_tokens
        bound(self.mesh, STEP)
        return total

    def wait_long(self) -> None:
        """Let ranks wait for one another while one reads or writes, until the next step."""
        bound(self.mesh, SET_UP)

    def loss_sum(self, batch: Batch | Sequence[Batch]) -> Tensor:
        """Add up the cross-entropy over every rank's rows, without gradients. Collective."""
        self._switch(training=False)
        total = self._everywhere(self.execution.evaluate(self._micro_batches(batch)))
        self._reshard()
        return total

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits [B, T, V] of this rank's rows, on all its peers. Collective."""
        self._switch(training=False)
        rows = self.execution.logits(self._micro_batches(batch))
        self._reshard()
        rows = self._from_last_stage(rows, batch)
        return rows[: len(batch), : batch.length]

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of all gradients of the model, 0-dim, the same everywhere."""
        return gradient_norm(self.mesh, self.parameters())

    def clip(self, limit: float) -> Tensor:
        """Scale all gradients so that their norm is at most ``limit``; returns the norm before."""
        norm = self.gradient_norm()
        nn.utils.clip_grads_with_norm_(list(self.parameters()), limit, norm)
        return norm

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for value in self.parameters():
            value.grad = None

    def _switch(self, *, training: bool) -> None:
        for part in self.parts:
            part.train(training)

    def _reshard(self) -> None:
        # Without a backward pass after it, a forward pass may leave gathered parameters in place
        # of the shards, and a checkpoint or an export would then write those.
        for part in self.parts:
            for module in part.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def _micro_batches(self, batch: Batch | Sequence[Batch]) -> tuple[Batch, ...]:
        if not isinstance(batch, Batch):
            return tuple(self._here(one, rows=len(one)) for one in batch)
        size, rows = self.plan.micro_batch_size, max(len(batch), 1)
        if self.plan.pp > 1:
            # A pipeline always runs its full number of micro-batches, if of fewer rows.
            count = self.plan.gradient_accumulation_steps
            size = round_up(rows, count) // count
            rows = size * count
        return self._here(batch, rows=rows).split(size)

    def _here(self, batch: Batch, *, rows: int) -> Batch:
        length = round_up(batch.length, self.length_multiple)
        return batch.to(self.device).padded(rows=rows, length=length)

    def _everywhere(self, total: Tensor) -> Tensor:
        return sum_over(self.mesh, total.float(), "pp", "dp_replicate", "dp_shard")

    def _from_last_stage(self, rows: Tensor | None, batch: Batch) -> Tensor:
        if self.plan.pp == 1 and rows is not None:
            return rows
        padded = self._micro_batches(batch)
        if rows is None:
            size = (len(padded) * len(padded[0]), padded[0].length, self.config.vocab_size)
            rows = torch.zeros(size, device=self.device)
        return sum_over(self.mesh, rows.float(), "pp")


def build_stages(
    plan: Plan,
    mesh: DeviceMesh,
    config: PretrainedConfig,
    source: Source,
    *,
    compile_backend: str | None = None,
    chunked_loss: bool = True,
    lora: Lora | None = None,
) -> Stages:
    """Build this rank's stages on the meta device, make them parallel, then read their weights.

    ``compile_backend`` names the compiler for the layers ("inductor"), None leaves them as they
    are; ``lora`` freezes them and trains adapters instead. Collective.
    Raises :class:`PlanInvalid` if the model cannot be cut as planned, :class:`ModelInvalid` if the
    weights do not fit the config.
    """
    config = checked_config(config)
    check_plan(plan, config)
    device = pick_device()
    parts = tuple(_stages_of_rank(plan, mesh, config, chunked=chunked_loss))
    for part in parts:
        if lora is not None:
            adapt(part, lora, plan)
        if plan.method == "qlora":
            pack_layers(part)
        parallelize(part, plan, mesh, compile_backend=compile_backend)
        # Under offload all parameters are shards, which the host keeps.
        part.to_empty(device=torch.device("cpu") if plan.offload_optimizer else device)
        part.reset_rotary(device, config)
        part.tie()
    fill(parts, source, config)
    steady = plan.pp > 1 or compile_backend is not None
    return Stages(
        plan=plan,
        mesh=mesh,
        config=config,
        device=device,
        parts=parts,
        execution=build_execution(parts, plan, mesh, config),
        length_multiple=round_up(LENGTH_STEP, plan.tp) if steady else plan.tp,
    )


def _stages_of_rank(
    plan: Plan, mesh: DeviceMesh, config: PretrainedConfig, *, chunked: bool
) -> Iterable[Stage]:
    cut = slices(layer_count(config), stage_count(plan))
    chunks = _chunks(plan) if chunked else None
    for index in stage_indices(plan, mesh.get_local_rank("pp")):
        with torch.device("meta"):
            yield Stage(config, cut[index], chunks=chunks)


def _chunks(plan: Plan) -> nn.LinearCrossEntropyOptions | None:
    # A zero-bubble schedule runs a stage's backward twice: for its input, then for its weights.
    twice = plan.pp > 1 and plan.pipeline_schedule == "ZBVZeroBubble"
    if twice and plan.precision != "fp32":
        return None
    # torch's own choice is as many tokens as fill the size of the input: with a large vocabulary a
    # few dozen, whose narrow products are slow.
    return nn.LinearCrossEntropyOptions(allow_retain_graph=twice, batch_chunk_size=CHUNK_TOKENS)
