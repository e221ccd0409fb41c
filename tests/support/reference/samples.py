"""A sample run for each Qwen size and method, on the fewest H100 that the planner finds enough.

The fewest that fit are the least that a run asks for; it may take twice as many nodes where they
are free. Batch and length are those of the tutorial; larger models get a smaller learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from qwenft_plan.errors import Infeasible
from qwenft_plan.families import KNOWN
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.spec import FinetuneSpec
from reference.tables import NOTE, table

__all__ = ["METHODS", "NAMES", "SIZES", "STEMS", "Sample", "hub_name", "listing", "text"]

NAMES = tuple(KNOWN)
METHODS = ("full", "lora", "qlora")
SIZES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (16, 8))
"""Nodes and devices a node, from the smallest."""
_RATES = ((2e9, "2.0e-5", "2.0e-4"), (20e9, "1.0e-5", "2.0e-4"), (float("inf"), "5.0e-6", "1.0e-4"))
"""Up to so many parameters → the learning rate, of all weights and of adapters."""
_WHAT = {
    "full": "All weights of",
    "lora": "Adapters (LoRA) beside",
    "qlora": "Adapters beside 4-bit weights (QLoRA) of",
}
_HEADS = {"full": "All weights", "lora": "LoRA", "qlora": "QLoRA"}
_ASKED = {
    "full": "",
    "lora": "    method: lora\n    lora: {rank: 16, alpha: 32}\n",
    "qlora": "    method: qlora\n    lora: {rank: 16, alpha: 32}\n",
}
_TEXT = """\
# {what} {hub}, on {nodes}×{devices} H100-80GB or more: the fewest that the planner
# finds enough. `qwenft plan` on this file says what it would choose on other nodes.
# Written by `make docs-reference`.
apiVersion: qwenft.dev/v1alpha1
kind: QwenFineTune
metadata:
  name: {name}
spec:
  model:
    name: {hub}
  dataset:
    path: /data/qwen_dataset.pt
    volume: {{persistentVolumeClaim: {{claimName: data}}}}
  training:
{asked}    epochs: 1
    batchSize: 64
    sequenceLength: 2048
    learningRate: {rate}
    warmupSteps: 20
    scheduler: cosine
  resources:
    nodes: {{min: {nodes}, max: {most}}}
    gpusPerNode: {devices}
  checkpoint: {{everySteps: 100, keep: 2}}
  output:
    path: /data/{name}
    volume: {{persistentVolumeClaim: {{claimName: data}}}}
"""


def hub_name(name: str) -> str:
    """Return the hub's spelling, Qwen/Qwen2.5-7B for qwen2.5-7b."""
    family, _, size = name.partition("-")
    return f"Qwen/{family.capitalize()}-{size.upper()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A model's known name, and what is trained of it."""

    name: str
    method: str

    @property
    def stem(self) -> str:
        """The file's name without its end."""
        return self.name if self.method == "full" else f"{self.name}-{self.method}"

    def nodes(self) -> tuple[int, int]:
        """Return nodes and devices a node of the smallest inventory that fits."""
        return _smallest(self)

    def planned(self) -> Planned:
        """Return its plan there."""
        return _planned(self, *self.nodes())


STEMS = {
    sample.stem: sample
    for sample in (Sample(name=name, method=method) for name in NAMES for method in METHODS)
}
"""File name → sample."""


def text(stem: str) -> str:
    """Return the sample's YAML."""
    sample = STEMS[stem]
    nodes, devices = sample.nodes()
    parameters = ModelShape.known(sample.name).parameters
    _, whole, adapters = next(row for row in _RATES if parameters <= row[0])
    return _TEXT.format(
        hub=hub_name(sample.name), nodes=nodes, devices=devices, most=2 * nodes,
        rate=whole if sample.method == "full" else adapters, name=stem.replace(".", "-"),
        what=_WHAT[sample.method], asked=_ASKED[sample.method],
    )  # fmt: skip


def listing() -> str:
    """Return manifests/samples/sizes/README.md: the plan of each sample on its smallest nodes."""
    text = "# A run for each Qwen size and method\n\n" + NOTE
    text += (
        "In bf16, on the fewest H100-80GB that the planner finds enough: batch 64 of 2048 tokens."
        " Predictions, not\nmeasurements. 8-bit Adam, offloading and fp8 have samples of their own"
        " in the folder above.\n"
    )
    for method in METHODS:
        rows = [_row(sample) for sample in STEMS.values() if sample.method == method]
        text += f"\n## {_HEADS[method]}\n\n"
        text += table(("model", "nodes×GPUs", "plan", "GiB a GPU", "tokens/s"), rows)
    return text


def _row(sample: Sample) -> tuple[str, ...]:
    nodes, devices = sample.nodes()
    found = sample.planned()
    return (
        f"[{hub_name(sample.name)}]({sample.stem}.yaml)", f"{nodes}×{devices}",
        found.summary.partition(" · ")[2] or "one device",
        f"{found.predicted.memory_gib:.0f}", f"{found.predicted.tokens_per_second:,.0f}",
    )  # fmt: skip


@cache
def _smallest(sample: Sample) -> tuple[int, int]:
    for nodes, devices in SIZES:
        try:
            _planned(sample, nodes, devices)
        except Infeasible:
            continue
        return nodes, devices
    raise AssertionError(f"{sample.stem} fits nowhere")


@cache
def _planned(sample: Sample, nodes: int, devices: int) -> Planned:
    adapters = {} if sample.method == "full" else {"lora": {"rank": 16, "alpha": 32}}
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"name": sample.name},
            "dataset": {"path": "/data/qwen_dataset.pt"},
            "output": {"path": "/data/out"},
            "training": {
                "batchSize": 64, "sequenceLength": 2048, "method": sample.method, **adapters
            },
            "resources": {"nodes": {"min": nodes, "max": nodes}, "gpusPerNode": devices},
        }
    )  # fmt: skip
    inventory = Inventory.parse(f"{nodes}x{devices}xH100-80G")
    return plan(spec=spec, model=ModelShape.known(sample.name), inventory=inventory)
