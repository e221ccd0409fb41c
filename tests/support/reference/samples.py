"""A sample run for each Qwen size, on the fewest H100 that the planner finds enough.

The fewest that fit are the least that a run asks for; it may take twice as many nodes where they
are free. Batch and length are those of the tutorial; larger models get a smaller learning rate.
"""

from __future__ import annotations

from functools import cache

from qwenft_plan.errors import Infeasible
from qwenft_plan.families import KNOWN
from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.spec import FinetuneSpec
from reference.tables import NOTE, table

__all__ = ["NAMES", "SIZES", "hub_name", "listing", "nodes_of", "text"]

NAMES = tuple(KNOWN)
SIZES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (16, 8))
"""Nodes and devices a node, from the smallest."""
_RATES = ((2e9, "2.0e-5"), (20e9, "1.0e-5"), (float("inf"), "5.0e-6"))
"""Up to so many parameters → the learning rate."""
_TEXT = """\
# All weights of {hub}, on {nodes}×{devices} H100-80GB or more: the fewest that the planner
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
    epochs: 1
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


@cache
def nodes_of(name: str) -> tuple[int, int]:
    """Return nodes and devices a node of the smallest inventory that fits."""
    for nodes, devices in SIZES:
        try:
            _planned(name, nodes, devices)
        except Infeasible:
            continue
        return nodes, devices
    raise AssertionError(f"{name} fits nowhere")


def text(name: str) -> str:
    """Return the sample's YAML."""
    nodes, devices = nodes_of(name)
    parameters = ModelShape.known(name).parameters
    rate = next(rate for most, rate in _RATES if parameters <= most)
    return _TEXT.format(
        hub=hub_name(name), nodes=nodes, devices=devices, rate=rate, most=2 * nodes,
        name=name.replace(".", "-"),
    )  # fmt: skip


def listing() -> str:
    """Return manifests/samples/sizes/README.md: the plan of each sample on its smallest nodes."""
    rows = []
    for name in NAMES:
        nodes, devices = nodes_of(name)
        found = _planned(name, nodes, devices)
        rows.append((
            f"[{hub_name(name)}]({name}.yaml)", f"{nodes}×{devices}",
            found.summary.partition(" · ")[2] or "one device",
            f"{found.predicted.memory_gib:.0f}", f"{found.predicted.tokens_per_second:,.0f}",
        ))  # fmt: skip
    head = "# A run for each Qwen size\n\n" + NOTE
    head += (
        "All weights are trained, in bf16, on the fewest H100-80GB that the planner finds enough:"
        " batch 64 of\n2048 tokens. Predictions, not measurements.\n\n"
    )
    return head + table(("model", "nodes×GPUs", "plan", "GiB a GPU", "tokens/s"), rows)


@cache
def _planned(name: str, nodes: int, devices: int) -> Planned:
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"name": name},
            "dataset": {"path": "/data/qwen_dataset.pt"},
            "output": {"path": "/data/out"},
            "training": {"batchSize": 64, "sequenceLength": 2048},
            "resources": {"nodes": {"min": nodes, "max": nodes}, "gpusPerNode": devices},
        }
    )
    inventory = Inventory.parse(f"{nodes}x{devices}xH100-80G")
    return plan(spec=spec, model=ModelShape.known(name), inventory=inventory)
