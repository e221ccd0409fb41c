"""Training adapters with peft itself on one process, for plans to be compared with."""

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from parity.tiny import LIMIT, RATE, STEPS, Point, make_batches
from qwenft_plan.spec import Lora
from qwenft_trainer.adapters import NAME, is_adapter, peft_config
from qwenft_trainer.weights import random_value

PREFIX = "base_model.model."


def reference(directory: Path, lora: Lora, *, steps: int = STEPS) -> tuple[list[Point], PeftModel]:
    """Train as peft does, the whole global batch at once, in fp32; the steps and the model.

    Only the first values of the adapters are the trainer's: peft draws its own in another order.
    """
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model = get_peft_model(base, peft_config(lora), adapter_name=NAME)
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    with torch.no_grad():
        for name, value in trained:
            assert is_adapter(name)
            value.copy_(random_value(name.removeprefix(PREFIX), value.shape, seed=0, deviation=0))
    model.train()
    optimizer = torch.optim.AdamW([value for _, value in trained], lr=RATE, weight_decay=0.0)
    points = []
    for batch in make_batches(steps):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()
        optimizer.zero_grad()
        points.append(Point(loss=loss.item(), norm=norm.item()))
    return points, model
