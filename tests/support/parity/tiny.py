"""Tiny models, plans and batches that several tests share; the same on every rank."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from qwenft_plan.plan import Plan

ROWS = 8
LENGTH = 48
VOCABULARY = 512
STEPS = 8
RATE = 1e-3
LIMIT = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What a loop reports of one optimizer step."""

    loss: float
    norm: float


def make_plan(**choices: Any) -> Plan:
    """Return a plan over one node whose batch follows from its degrees."""
    degrees = {axis: choices.pop(axis, 1) for axis in ("pp", "dp_replicate", "dp_shard", "tp")}
    world = degrees["pp"] * degrees["dp_replicate"] * degrees["dp_shard"] * degrees["tp"]
    rows = choices.pop("rows", ROWS)
    accumulation = choices.pop("accumulation", 1)
    share = rows // (degrees["dp_replicate"] * degrees["dp_shard"])
    return Plan(
        world_size=world,
        nodes=1,
        processes_per_node=world,
        micro_batch_size=share // accumulation,
        gradient_accumulation_steps=accumulation,
        global_batch_size=rows,
        sequence_length=64,
        **degrees,
        **choices,
    )


def make_config(family: str = "qwen2", **changes: Any) -> PretrainedConfig:
    """Return the config of a model with four layers and four heads."""
    numbers: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
    }
    return AutoConfig.for_model(family, **(numbers | changes))


def write_model(directory: Path, config: PretrainedConfig) -> Path:
    """Write a random model of ``config``, biases and norms random too, so that nothing is zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.02)
    model.save_pretrained(directory)
    return directory


def make_batches(steps: int = STEPS, *, rows: int = ROWS) -> list[dict[str, torch.Tensor]]:
    """Return global batches of unequal samples, padded at their ends, as a script has them."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(steps):
        tokens = torch.randint(0, VOCABULARY, (rows, LENGTH), generator=generator)
        lengths = torch.randint(8, LENGTH + 1, (rows, 1), generator=generator)
        mask = (torch.arange(LENGTH)[None] < lengths).long()
        labels = tokens.masked_fill(mask == 0, -100)
        batches.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})
    return batches


def reference(directory: Path, *, steps: int = STEPS, rows: int = ROWS) -> list[Point]:
    """Train with the stock model, the whole global batch at once, in fp32, on one process."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    points = []
    for batch in make_batches(steps, rows=rows):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()
        optimizer.zero_grad()
        points.append(Point(loss=loss.item(), norm=norm.item()))
    return points
