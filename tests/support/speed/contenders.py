"""The trainers that are compared. Each trains :class:`Work` and tells its clock every step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from parity.tiny import make_plan
from qwenft_plan.plan import Plan
from qwenft_plan.spec import Dataset, FinetuneSpec, Model, Output, Training
from qwenft_trainer import boot, feed, train
from qwenft_trainer.preemption import StopSignal
from qwenft_trainer.settings import Settings
from speed.work import CLIP, RATE, Contender, Timed, Work, padded


def hf_loop(work: Work, folder: Path, clock: Timed) -> None:
    """Train as the plain loop of the Hugging Face course does, fused AdamW included."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    for samples in work.batches():
        loss = model(**padded(samples), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        clock.step(loss.item())


class _Rows(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, work: Work) -> None:
        self.samples = work.samples()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.samples[index]


class _InOrder(Trainer):  # type: ignore[misc] # transformers is untyped
    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class _Watch(TrainerCallback):  # type: ignore[misc] # transformers is untyped
    def __init__(self, clock: Timed) -> None:
        self.clock = clock

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.clock.step(float(logs["loss"]))


def hf_trainer(work: Work, folder: Path, clock: Timed) -> None:
    """Train with Hugging Face's Trainer, which wraps the model in DDP on several ranks."""
    ranks = int(os.environ["WORLD_SIZE"])
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), use_cpu=True, ddp_backend="gloo",
        per_device_train_batch_size=work.rows // ranks, max_steps=work.warm + work.steps,
        learning_rate=RATE, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=CLIP,
        optim="adamw_torch_fused", logging_steps=1, save_strategy="no", report_to=[],
        disable_tqdm=True, remove_unused_columns=False, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = _InOrder(
        model=model, args=arguments, train_dataset=_Rows(work), data_collator=padded,
        callbacks=[_Watch(clock)],
    )  # fmt: skip
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
        told, sys.stdout = sys.stdout, nowhere
        try:
            trainer.train()
        finally:
            sys.stdout = told
    clock.note = type(trainer.model_wrapped).__name__


def accelerate_fsdp(work: Work, folder: Path, clock: Timed) -> None:
    """Train through accelerate's FSDP2, which it is made to take: on a CPU it would take DDP."""
    from accelerate import (  # noqa: PLC0415
        Accelerator,
        DistributedType,
        FullyShardedDataParallelPlugin,
    )

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap"
    )
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    assert isinstance(model, FSDPModule), type(model)
    model.train()
    share = work.rows // accelerator.num_processes
    begin = accelerator.process_index * share
    for samples in work.batches():
        loss = model(**padded(samples[begin : begin + share]), use_cache=False).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        clock.step(loss.item())
    clock.note = "FSDP2"


def built_in(work: Work, folder: Path, clock: Timed, *, plan: Plan, packs: bool) -> None:
    """Train as the built-in loop does, its data feed and its meter included."""
    feed.order = lambda count, **_: torch.arange(count)  # as the others: one order for all
    if not packs:
        feed.pack = lambda lengths: tuple((i,) for i in range(len(lengths)))
    spec = FinetuneSpec(
        model=Model(path=str(folder / "model")),
        dataset=Dataset(path=str(folder / "data.pt")),
        training=Training(
            batch_size=work.rows, learning_rate=RATE, precision="fp32",
            sequence_length=work.longest, max_grad_norm=CLIP,
        ),
        output=Output(path=str(folder / "out" / f"{plan.world_size}-{plan.dp_shard}-{packs}")),
    )  # fmt: skip
    settings = Settings(plan=plan, spec=spec, attempt=1, identity="bench")
    with StopSignal() as stop:
        run = train.prepare(settings, stop)
        run.meter.start(step=0, validation_loss=None)
        for _ in range(work.warm + work.steps):
            clock.step(train.train_step(run))


def one_line(work: Work, folder: Path, clock: Timed) -> None:
    """Train with a user's script that has the one line; it writes its clock to a file."""
    ranks = int(os.environ["WORLD_SIZE"])
    place = folder / "one-line"
    place.mkdir(exist_ok=True)
    plan = make_plan(dp_replicate=ranks, rows=work.rows)
    (place / f"plan-{os.getpid()}.json").write_text(plan.to_json(), encoding="utf-8")
    os.environ["QWENFT_PLAN"] = str(place / f"plan-{os.getpid()}.json")
    script = str(Path(__file__).with_name("script.py"))
    times = place / f"times-{os.getpid()}.json"
    code = boot.main([script, str(folder / "model"), str(times), work.to_json()])
    assert code == 0, f"the script ended with {code}"
    told = json.loads(times.read_text())
    clock.ends, clock.losses = told["ends"], told["losses"]


def torchtune(work: Work, folder: Path, clock: Timed) -> None:
    """Train by torchtune's recipe, under the interpreter where it is installed."""
    times = folder / f"torchtune-{os.getpid()}.json"
    words = ("-m", "speed.tune", work.to_json(), str(folder), str(times))
    subprocess.run([os.environ[TORCHTUNE], *words], check=True)
    told = json.loads(times.read_text())
    clock.ends, clock.losses, clock.note = told["ends"], told["losses"], told["note"]


def _own(*, packs: bool, **degrees: int) -> Contender:
    def contender(work: Work, folder: Path, clock: Timed) -> None:
        dist.init_process_group("gloo")
        built_in(work, folder, clock, plan=make_plan(rows=work.rows, **degrees), packs=packs)
        dist.barrier()

    return contender


TORCHTUNE = "TORCHTUNE"
"""Names the interpreter that has torchtune; unset: it is not among the contenders."""
PLANNED = {"reshard_after_forward": False}
"""What the planner adds to two shards of :class:`Work` on this machine."""
CONTENDERS: dict[str, tuple[int, Contender]] = {
    "HF loop, 1 process": (1, hf_loop),
    "built-in, 1 process, padded": (1, _own(packs=False)),
    "HF Trainer, DDP": (2, hf_trainer),
    "built-in, replicate 2, padded": (2, _own(packs=False, dp_replicate=2)),
    "built-in, replicate 2, packed": (2, _own(packs=True, dp_replicate=2)),
    "built-in, shard 2, padded": (2, _own(packs=False, dp_shard=2, **PLANNED)),
    "one-line script, replicate 2": (2, one_line),
    "accelerate, FSDP2": (2, accelerate_fsdp),
}
"""Name to ranks and what each rank does."""
TUNED, TUNED_SHARDS = "torchtune, 1 process", "torchtune, FSDP2 of 2 ranks"
if os.environ.get(TORCHTUNE):
    CONTENDERS |= {TUNED: (1, torchtune), TUNED_SHARDS: (2, torchtune)}
