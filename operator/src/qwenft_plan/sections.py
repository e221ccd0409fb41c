"""The sections of a request: what each field of ``spec`` means, its unit and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "MATRICES",
    "Checkpoint",
    "Dataset",
    "EnvFrom",
    "EnvVar",
    "Hub",
    "Lora",
    "Model",
    "Network",
    "NodeRange",
    "Output",
    "Parallelism",
    "Resources",
    "RunPolicy",
    "Script",
    "SecretRef",
    "Toleration",
    "Trainer",
    "Training",
    "Volume",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """Where a path lies: a PersistentVolumeClaim in the run's namespace."""

    claim_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """The model to fine-tune: a hub name, or a directory in a volume."""

    name: str = ""
    path: str = ""
    volume: Volume | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the model's ``config.json`` in its own spelling; needed where no name is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The prepared dataset file."""

    path: str
    """An absolute path, or a URL such as ``s3://bucket/file`` without a volume."""
    volume: Volume | None = None


MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a block, under Hugging Face's names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank adapters, in the words of Hugging Face's peft and with its defaults.

    An adapted matrix W computes ``W x + alpha / rank · B A x``; only A and B are trained.
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    """Share of the adapters' inputs that training zeroes, 0..1."""
    target_modules: tuple[str, ...] = MATRICES
    """Which matrices of every block are adapted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Hyper-parameters; none of them is ever changed by a plan."""

    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 64
    """Global batch: samples an optimizer step, over all ranks."""
    sequence_length: int = 2048
    """Tokens a sample, at most."""
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    warmup_steps: int = 0
    scheduler: str = "constant"
    max_grad_norm: float = 1.0
    seed: int = 0
    precision: str = "bf16"
    evaluate_every_steps: int | None = None
    report_to: tuple[str, ...] = ()
    """Trackers that get the curves beside the status: tensorboard, wandb, mlflow."""
    method: str = "full"
    """What is trained: all weights (``full``), or adapters beside frozen ones: in the precision
    that computes (``lora``), or in 4 bits (``qlora``)."""
    lora: Lora | None = None
    optimizer: str = "adamw"
    """AdamW with moments of 32 bits (``adamw``) or of 8 (``adamw8bit``)."""
    offload_optimizer: bool = False
    """Whether master weights, gradients and moments lie in the host's memory."""
    compile: bool = False
    """Whether torch compiles the layers; fp8 always does."""

    @property
    def compiles(self) -> bool:
        """Whether the layers are compiled: as asked for, or because fp8 pays in no other way."""
        return self.compile or self.precision == "fp8"

    @property
    def adapters(self) -> Lora | None:
        """The adapters to train; None for all weights."""
        return None if self.method == "full" else self.lora or Lora()


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRange:
    """How many nodes a run may use; ``max`` None means as many as there are."""

    min: int = 1
    max: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Toleration:
    """A Kubernetes toleration, passed on to the pods and heeded when nodes are read."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """How pods of several nodes reach each other; by default what all of the nodes offer."""

    fabric: str = "auto"
    resource: str = ""
    """Extended resource of the network cards."""
    count: int | None = None
    """Units of it that a pod asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a run may take. Absent fields are the planner's to choose."""

    nodes: NodeRange = field(default_factory=NodeRange)
    gpus_per_node: int | None = None
    processes_per_node: int | None = None
    """CPU nodes only: training processes a node."""
    cpus_per_process: int = 1
    memory_per_node: int | None = None
    """CPU nodes only: bytes that a pod asks for."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    network: Network = field(default_factory=Network)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallelism:
    """Degrees that the user fixes; None leaves one to the planner."""

    data_replicate: int | None = None
    data_shard: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    micro_batch_size: int | None = None
    activation_checkpointing: str | None = None
    pipeline_schedule: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A user's own training script in a ConfigMap."""

    config_map: str
    key: str = "train.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvVar:
    """One environment variable of the trainer container."""

    name: str
    value: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretRef:
    """A Secret in the run's namespace."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvFrom:
    """Where more variables come from; the kubelet reads them, the operator never does."""

    secret_ref: SecretRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """The container that trains; without a script it runs the built-in loop."""

    image: str = ""
    image_pull_policy: str = ""
    script: Script | None = None
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    rendezvous: str = "static"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """When to save; checkpoints lie in ``<output.path>/checkpoints``."""

    every_steps: int | None = None
    keep: int = 2
    keep_best: bool = False
    """Save where an evaluation finds the lowest validation loss so far, and keep that one too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """A repository of the Hugging Face hub that gets a copy of the result."""

    repository: str
    private: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Where the result goes: ``<path>/model`` in Hugging Face's layout, ``<path>/result.json``.

    Adapters go to ``<path>/adapter``, and a model to ``<path>/model`` only if they are merged. The
    path is an absolute one, or a URL such as ``s3://bucket/folder`` without a volume.
    """

    path: str
    volume: Volume | None = None
    merge_adapter: bool = False
    hub: Hub | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPolicy:
    """Life of the run, in the words of batch/v1 and the Training Operator."""

    suspend: bool = False
    backoff_limit: int = 3
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None
    clean_pod_policy: str = "Running"
    priority_class_name: str = ""
    """PriorityClass of the pods, and of the run among those that wait for nodes."""
    managed_by: str = ""
    """Controller that answers for the run; empty or ``qwenft.dev/operator`` is this operator."""
