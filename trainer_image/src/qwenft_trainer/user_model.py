"""What a script gets from ``from_pretrained`` under a plan.

It looks like the Hugging Face model that the script expects: the same parameter names, the same
call, the same outputs. The stages that do the work are hidden from module registration, since this
rank holds only a part of them. Every call takes the whole global batch, on every rank.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from qwenft_trainer import whole
from qwenft_trainer.arrange import is_free
from qwenft_trainer.batch import Batch, local_rows, round_up
from qwenft_trainer.blame import refuse, user_line
from qwenft_trainer.elsewhere import whole_model
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.handover import Held, hand_over, set_aside
from qwenft_trainer.loss import IGNORED
from qwenft_trainer.mesh import data_index, sum_over
from qwenft_trainer.stages import Stages
from qwenft_trainer.together import check_same_batch, meet, user_random_state

UNUSED = frozenset({"use_cache", "return_dict", "cache_position", "logits_to_keep"})
"""Arguments of Hugging Face's forward that change no number here."""
INSIDE = (
    "each rank holds a part of the layers only: use model.named_parameters(); in place of peft "
    "training.method: lora, in place of Trainer write the loop or use the built-in one"
)
TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a model came from: its directory, and the dtype of the weights there."""

    directory: Path
    dtype: torch.dtype
    generation: GenerationConfig


class LossOutput(CausalLMOutputWithPast):  # type: ignore[misc] # transformers is untyped
    """An output whose logits were never whole; asking for them is an error with a way out."""

    def __getattribute__(self, name: str) -> Any:
        """Return the attribute; explain the missing logits."""
        if name == "logits":
            refuse(
                "a training call (with labels) makes no logits",
                "call the model without labels under torch.no_grad() to get them",
            )
        return super().__getattribute__(name)


class EvaluationOutput(CausalLMOutputWithPast):  # type: ignore[misc] # transformers is untyped
    """An output whose logits are computed when they are asked for: most evaluations never do."""

    def __init__(self, *, loss: Tensor, make: Callable[[], Tensor]) -> None:
        super().__init__(loss=loss)
        object.__setattr__(self, "_make", make)

    def __getattribute__(self, name: str) -> Any:
        """Return the attribute; compute the logits at the first request. Collective."""
        if name == "logits" and super().__getattribute__("logits") is None:
            self["logits"] = super().__getattribute__("_make")()
        return super().__getattribute__(name)


class ParallelModel(GenerationMixin, nn.Module):  # type: ignore[misc] # transformers is untyped
    """A model spread over all ranks."""

    main_input_name = "input_ids"
    input_modalities = ("text",)
    base_model_prefix = "model"
    _is_stateful = False
    _supports_cache_class = False

    def __init__(self, stages: Stages, origin: Origin) -> None:
        nn.Module.__init__(self)
        self.stages = stages
        self.origin = origin
        self.config = stages.config
        self.generation_config = origin.generation
        # FSDP swaps parameters for gathered ones and back; the optimizer's are these.
        self._values = list(stages.parameters())
        self._named = whole_model(stages)
        self.last_loss: Tensor | None = None
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where this rank's parameters lie."""
        return self.stages.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters that the optimizer changes."""
        return torch.float32

    @classmethod
    def can_generate(cls) -> bool:
        """Tell transformers that :meth:`generate` works."""
        return True

    @classmethod
    def is_remote_code(cls) -> bool:
        """Tell transformers that it knows this class."""
        return False

    def get_experts_implementation(self) -> dict[str, str]:
        """Tell transformers that there are no experts."""
        return {}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """Run the whole global batch [B, T]; with labels and gradients on, backward too.

        Collective. Raises :class:`~qwenft_trainer.failure.PlanInvalid` for what a plan cannot do.
        """
        _check_arguments(input_ids, others)
        assert input_ids is not None  # noqa: S101 - _check_arguments has refused it
        check_same_batch((input_ids, attention_mask, position_ids, labels))
        targets = torch.full_like(input_ids, IGNORED) if labels is None else labels
        batch = Batch.from_rows(input_ids, targets, attention_mask)
        if position_ids is not None:
            batch = replace(batch, position_ids=position_ids.expand_as(input_ids))
        with user_random_state(), _ordinary_mode():
            output = self._run(batch, trains=labels is not None)
        return output if others.get("return_dict", True) else output.to_tuple()

    def _run(self, batch: Batch, *, trains: bool) -> Any:
        if not trains:
            if torch.is_grad_enabled() and self.training:
                refuse(
                    "the model was called for training without labels",
                    "pass labels=…: a plan computes the loss where the logits are",
                )
            return CausalLMOutputWithPast(logits=self._logits(batch))
        if not torch.is_grad_enabled():
            return EvaluationOutput(loss=self._evaluated(batch), make=lambda: self._logits(batch))
        return LossOutput(loss=self._trained(batch))

    def _evaluated(self, batch: Batch) -> Tensor:
        total = torch.zeros((), device=self.device)
        with set_aside(self._values):
            for share in self._trained_shares(batch):
                total += self.stages.loss_sum(share)
        self._reshard()
        return total / batch.trained_tokens.to(self.device)

    def _reshard(self) -> None:
        """Give gathered parameters back: without a backward nothing else does."""
        for part in self.stages.parts:
            for module in part.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def _trained(self, batch: Batch) -> Tensor:
        tokens = int(batch.trained_tokens)
        if tokens == 0:
            refuse("no label of the batch is trained on", "check the labels: all of them are -100")
        held = Held(self._values)

        def step() -> Tensor:
            parts = [
                self.stages.train_step(part, trained_tokens=tokens)
                for part in self._trained_shares(batch)
            ]
            return torch.stack(parts).sum()

        loss = held.compute(step)
        self.last_loss = loss.detach()
        return hand_over(loss, held)

    def _trained_shares(self, batch: Batch) -> Iterator[Batch | tuple[Batch, ...]]:
        """Yield this rank's rows of a global batch; only their loss counts, so without padding."""
        plan = self.stages.plan
        if not is_free(plan):
            yield from self._shares(batch)
            return
        most = plan.micro_batch_size * batch.length
        rank = data_index(self.stages.mesh)
        yield batch.micro_batches(ranks=plan.dp, most=most, rank=rank)

    def _shares(self, batch: Batch) -> Iterator[Batch]:
        """Cut a global batch as the plan does; yield this rank's rows of each cut."""
        plan = self.stages.plan
        # A pipeline's schedule is built for a number of micro-batches; a loop takes any number.
        most = plan.global_batch_size if plan.pp > 1 else max(len(batch), 1)
        for part in batch.split(most):
            even = part.padded(rows=round_up(len(part), plan.dp), length=part.length)
            yield even.rows(local_rows(len(even), plan, self.stages.mesh))

    def _logits(self, batch: Batch) -> Tensor:
        """Return the logits of the whole batch on every rank."""
        meet("outputs.logits")
        with _ordinary_mode():
            return self._gathered_logits(batch)

    def _gathered_logits(self, batch: Batch) -> Tensor:
        plan, mesh = self.stages.plan, self.stages.mesh
        found = []
        with set_aside(self._values):
            for share in self._shares(batch):
                mine = self.stages.logits(share)
                rows = mine.new_zeros(len(share) * plan.dp, *mine.shape[1:])
                rows[local_rows(len(rows), plan, mesh)] = mine
                found.append(sum_over(mesh, rows, "dp_replicate", "dp_shard"))
        self._reshard()
        return torch.cat(found)[: len(batch)]

    def named_parameters(
        self,
        prefix: str = "",
        recurse: bool = True,  # noqa: FBT001, FBT002 - torch's signature
        remove_duplicate: bool = True,  # noqa: FBT001, FBT002
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over all parameters under Hugging Face's names; see :mod:`elsewhere`."""
        del recurse, remove_duplicate
        for name, value in self._named.items():
            yield (f"{prefix}.{name}" if prefix else name), value

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """Return the whole model's weights on the CPU, on every rank. Collective."""
        return whole.state_dict(self.stages)

    def load_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        strict: bool = True,  # noqa: FBT001, FBT002 - torch's signature
        assign: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Take whole weights as :meth:`state_dict` gives them, each rank its part. Collective."""
        del assign
        return whole.load(self.stages, self._named, state_dict, strict=strict)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write a Hugging Face directory that ``from_pretrained`` loads anywhere. Collective."""
        whole.save(self.stages, Path(save_directory), self.origin.directory, self.origin.dtype)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as Hugging Face does, without a key-value cache. Collective."""
        kwargs.setdefault("use_cache", False)
        with torch.no_grad():
            return super().generate(*args, **kwargs)

    def num_parameters(
        self,
        only_trainable: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
        exclude_embeddings: bool = False,  # noqa: FBT001, FBT002
    ) -> int:
        """Count the whole model's parameters."""
        return sum(
            value.numel()
            for name, value in self._named.items()
            if (value.requires_grad or not only_trainable)
            and not (exclude_embeddings and "embed_tokens" in name)
        )

    def to(self, *args: Any, **kwargs: Any) -> "ParallelModel":
        """Stay where the plan put it; refuse another dtype."""
        values = (*args, *kwargs.values())
        if any(isinstance(v, torch.dtype) and v != torch.float32 for v in values):
            _refuse_dtype("to(dtype)")
        return self

    def cuda(self, *_: Any, **__: Any) -> "ParallelModel":
        """Stay where the plan put it."""
        return self

    cpu = float = cuda

    def half(self) -> NoReturn:
        """Refuse: the plan has the precision."""
        _refuse_dtype("half()")

    def bfloat16(self) -> NoReturn:
        """Refuse: the plan has the precision."""
        _refuse_dtype("bfloat16()")

    def _decided(self, *_: Any, **__: Any) -> None:
        """Do nothing: the plan decides about compilation and recomputation."""

    compile = gradient_checkpointing_enable = gradient_checkpointing_disable = _decided
    enable_input_require_grads = tie_weights = _decided

    def resize_token_embeddings(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the vocabulary is laid out already."""
        refuse("the embeddings cannot be resized", "save a resized model first and load that one")

    def get_input_embeddings(self) -> NoReturn:
        """Refuse: other ranks hold parts of them."""
        refuse("the embeddings are spread over the ranks", "read them from state_dict()")

    get_output_embeddings = get_input_embeddings

    def __deepcopy__(self, memo: object) -> NoReturn:
        del memo
        refuse("the model cannot be copied", "load it a second time by from_pretrained")

    def modules(self, *args: Any, **kwargs: Any) -> Iterator[nn.Module]:
        """Refuse, unless torch itself asks: what a caller would change is not here."""
        _refuse_modules()
        return super().modules(*args, **kwargs)

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, unless torch itself asks; wrappers such as peft's look for layers here."""
        _refuse_modules()
        return super().named_modules(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Explain that inner modules are not here; ``hasattr`` keeps working."""
        if name in ("model", "lm_head"):
            raise PartAbsent(f"{user_line()}: model.{name}: {INSIDE}")
        return super().__getattr__(name)


class PartAbsent(PlanInvalid, AttributeError):  # noqa: N818 - as its base
    """A part of the model that no rank holds whole: an attribute that is not there."""


def _refuse_modules() -> None:
    if not sys._getframe(2).f_code.co_filename.startswith(TORCH):  # noqa: SLF001 - see blame
        refuse("the modules of the model were asked for", INSIDE)


@contextmanager
def _ordinary_mode() -> Iterator[None]:
    """Leave inference mode: in it torch does not split the loss over tensor-parallel ranks."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(mode=False), torch.no_grad():
        yield


def _refuse_dtype(what: str) -> NoReturn:
    refuse(f"model.{what} is not supported", 'the plan has the precision: set "precision" there')


def _check_arguments(input_ids: Tensor | None, others: dict[str, Any]) -> None:
    given = {name for name, value in others.items() if value is not None and value is not False}
    if input_ids is None:
        refuse("input_ids are missing", "pass input_ids=…; inputs_embeds are not supported")
    unknown = sorted(given - UNUSED)
    if unknown:
        refuse(
            f"{', '.join(unknown)}: not supported by a model under a plan",
            "leave it out, or run this script without a plan",
        )
