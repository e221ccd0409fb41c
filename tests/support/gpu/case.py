"""One way to train a Qwen model on one GPU, and what the planner says of it beforehand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from qwenft_plan.cost import step_time
from qwenft_plan.hardware import Device
from qwenft_plan.memory import peak_allocated, peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.row import Question
from qwenft_plan.runtimes import OWN
from qwenft_plan.spec import MATRICES, Lora, Training
from qwenft_plan.workload import Layout, Method, Workload

TINY = ModelShape(
    name="tiny",
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn=128,
    vocab=512,
    tied=False,
)
"""To try the bench itself where there is no GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Bytes of live tensors and of everything at the peak, and seconds of a step."""

    allocated: float
    total: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model by its hub name, and how it is trained.

    ``rows``: samples of a micro-batch. ``packing``: samples a row. ``profiled``: two further steps
    are profiled. ``who``: `qwenft`, or `hf` for the plain loop of the Hugging Face course, in bf16
    autocast.
    """

    model: str
    length: int = 4096
    rows: int = 1
    accumulation: int = 1
    checkpointing: str = "none"
    precision: str = "bf16"
    method: str = "full"
    optimizer: str = "adamw"
    offload: bool = False
    compile: bool = False
    packing: int = 1
    who: str = "qwenft"
    profiled: bool = False

    @property
    def shape(self) -> ModelShape:
        """The model's sizes."""
        return TINY if self.model == TINY.name else ModelShape.known(self.model)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.accumulation * self.length

    @property
    def lora(self) -> Lora | None:
        """The adapters, on every matrix, or None."""
        return None if self.method == "full" else Lora(rank=16, target_modules=MATRICES)

    def config(self) -> dict[str, Any]:
        """Return the keys of the model's config.json."""
        shape = self.shape
        return {
            "model_type": "qwen3" if shape.qk_norm else "qwen2",
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "intermediate_size": shape.ffn,
            "vocab_size": shape.vocab,
            "max_position_embeddings": shape.max_positions,
            "tie_word_embeddings": shape.tied,
        }

    def plan(self) -> Plan:
        """Return the plan of one process."""
        return Plan(
            world_size=1,
            nodes=1,
            processes_per_node=1,
            pp=1,
            dp_replicate=1,
            dp_shard=1,
            tp=1,
            micro_batch_size=self.rows,
            gradient_accumulation_steps=self.accumulation,
            global_batch_size=self.rows * self.accumulation,
            sequence_length=self.length,
            activation_checkpointing=self.checkpointing,
            precision=self.precision,
            method=self.method,
            optimizer=self.optimizer,
            offload_optimizer=self.offload,
            compile=self.compile,
        )

    def training(self) -> Training:
        """Return what the request would say."""
        return Training(
            batch_size=self.rows * self.accumulation, optimizer=self.optimizer, learning_rate=1e-5
        )

    def question(self, device: Device) -> Question:
        """Return what the planner is asked about ``device``."""
        work = Workload(
            model=self.shape,
            runtime=OWN,
            device=device,
            method=Method(
                kind=self.method,
                optimizer=self.optimizer,
                offload_optimizer=self.offload,
                rank=16,
                adapted=MATRICES,
            ),
            precision={"fp32": "fp32", "bf16": "bf16_mixed", "fp8": "fp8"}[self.precision],
            sequence_length=self.length,
            per_node=1,
            compiled=self.compile,
        )
        layout = Layout(
            micro_batch=self.rows,
            accumulation=self.accumulation,
            checkpointing=self.checkpointing,
        )
        return Question(work=work, layout=layout, semantics="")

    def predicted(self, device: Device) -> Prediction:
        """Return what the planner expects on ``device``."""
        question = self.question(device)
        work, layout = question.work, question.layout
        return Prediction(
            allocated=peak_allocated(work, layout),
            total=peak_memory(work, layout).total,
            seconds=step_time(work, layout).total,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields that differ from a plain run."""
        usual = asdict(Case(model=""))
        return {name: value for name, value in asdict(self).items() if value != usual[name]}
