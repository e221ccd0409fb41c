"""Train one case for some steps on this machine's GPU and say what it took."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from gpu.case import Case
from gpu.older import MISSING
from qwenft_trainer import planfile
from qwenft_trainer import stages as stages_module
from qwenft_trainer.batch import Batch
from qwenft_trainer.fourbit import packed_matrices
from qwenft_trainer.gradients import local
from qwenft_trainer.mesh import build_mesh, pick_device
from qwenft_trainer.model import Stage
from qwenft_trainer.optim import build_optimizer
from qwenft_trainer.packing import packed
from qwenft_trainer.stages import build_stages
from qwenft_trainer.weights import Fresh

WARM, STEPS = 2, 3
TOP = 25
Step = Callable[[], Tensor]


def measure(case: Case, profiles: Path | None = None) -> dict[str, Any]:
    """Return seconds of a step (median), losses, and bytes allocated, reserved and used."""
    device = pick_device()
    torch.manual_seed(0)
    began = time.perf_counter()
    step = _hf(case, device) if case.who == "hf" else _own(case)
    built = time.perf_counter() - began
    seconds, losses = [], []
    for index in range(WARM + STEPS):
        if index == WARM and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        losses.append(float(step()))
        seconds.append(time.perf_counter() - begin)
    found = {
        "seconds": median(seconds[WARM:]),
        "all_seconds": [round(each, 4) for each in seconds],
        "built": built,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "filled_in": MISSING,
        **_memory(device),
    }
    if case.profiled and profiles is not None:
        _profile(step, profiles / f"{case.model}-{case.compile}-{case.packing}.txt")
    return found


def _memory(device: torch.device) -> dict[str, int]:
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "outside": total - free - torch.cuda.memory_reserved(),
        "device": total,
    }


def _own(case: Case) -> Step:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    device = pick_device()
    store = dist.HashStore()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    plan = case.plan()
    mesh = build_mesh(plan, device.type)
    config = AutoConfig.for_model(**case.config())
    stages_module.fill = _fill  # the trainer draws on the CPU, minutes for billions of numbers
    stages = build_stages(
        plan,
        mesh,
        config,
        Fresh(seed=0),
        lora=case.lora,
        compile_backend=planfile.compiler(plan, {}),
    )
    optimizer = build_optimizer(stages, case.training())
    batches = _batches(case)

    def step() -> Tensor:
        batch = next(batches)
        loss = stages.train_step(batch, trained_tokens=int(batch.trained_tokens))
        stages.clip(1.0)
        optimizer.step()
        stages.zero_grad()
        return loss

    return step


def _hf(case: Case, device: torch.device) -> Step:
    config = AutoConfig.for_model(**case.config())
    with device:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    if case.checkpointing == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if case.compile:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batches = _batches(case)

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for batch in next(batches).to(device).split(case.rows):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = model(
                    input_ids=batch.input_ids, labels=batch.input_ids, use_cache=False
                ).loss
            (loss / case.accumulation).backward()
            total += loss.detach() / case.accumulation
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def _batches(case: Case) -> Any:
    generator = torch.Generator().manual_seed(1)
    rows = case.rows * case.accumulation
    while True:
        ids = torch.randint(0, case.shape.vocab, (rows, case.length), generator=generator)
        if case.packing == 1:
            yield Batch.from_rows(input_ids=ids, labels=ids.clone())
            continue
        samples = [part for row in ids for part in row.split(case.length // case.packing)]
        together = [range(row * case.packing, (row + 1) * case.packing) for row in range(rows)]
        yield packed(samples, samples, together)


def _fill(parts: Sequence[Stage], _source: Fresh, _config: Any) -> None:
    """Draw weights on the device; quick, and no plan must be equal to another here."""
    for part in parts:
        for matrices in packed_matrices(part):
            for matrix in matrices.values():
                matrix.fill(matrix.room().normal_(0.0, 0.02))
        for name, value in part.named_parameters():
            shard = local(value.detach())
            if shard.dtype == torch.uint8:
                continue
            if name.endswith("bias"):
                shard.zero_()
            elif shard.dim() == 1:
                shard.fill_(1.0)
            else:
                shard.normal_(0.0, 0.02)


def _profile(step: Step, path: Path) -> None:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        step()
    averages = found.key_averages()
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    path.write_text(averages.table(sort_by=order, row_limit=TOP, max_name_column_width=90))
    sys.stderr.write(f"{path}\n")
