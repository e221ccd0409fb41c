"""A gang: ranks that are forked after the slow imports and run one case after another."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from parity import fake, looping, nursery, saving
from parity.stand import Stand, finish_step, train_steps
from parity.tiny import make_batches, make_plan
from qwenft_trainer.batch import Batch
from qwenft_trainer.gradients import local
from qwenft_trainer.model import read_config
from qwenft_trainer.packing import pack, packed
from qwenft_trainer.stages import build_stages
from qwenft_trainer.weights import Fresh

SECONDS = 240
EMPTY = -1


def train(stand: Stand, options: Mapping[str, Any]) -> list[list[float]]:
    """Train as the built-in loop does; [loss, norm] of each step."""
    return train_steps(stand, stand.build(**options))


def train_packed(stand: Stand, options: Mapping[str, Any]) -> list[list[float]]:
    """Train with each rank's samples packed into common rows."""

    def step(batch: Batch, trained_tokens: int) -> torch.Tensor:
        samples = [row[row != EMPTY] for row in batch.input_ids]
        rows = pack([len(sample) for sample in samples])
        saved.append(len(samples) - len(rows))
        count = torch.tensor(len(rows))
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        made = packed(samples, samples, rows)
        made = made.padded(rows=int(count), length=made.length)
        return built.stages.train_step(made, trained_tokens=trained_tokens)

    built = stand.build(**options)
    points, saved = [], list[int]()
    for raw in make_batches(rows=stand.plan.global_batch_size):
        whole = Batch.from_rows(**raw)
        tokens = raw["input_ids"].masked_fill(raw["attention_mask"] == 0, EMPTY)
        share = stand.share(Batch.from_rows(tokens, tokens))
        loss = step(share, int(whole.trained_tokens))
        points.append(finish_step(built, loss))
    assert sum(saved) > 0, "nothing was packed"
    return points


def mean_of_means(stand: Stand, _options: Mapping[str, Any]) -> list[list[float]]:
    """Train with the classic mistake: each row's mean, averaged over the rows."""

    def wrong(batch: Batch) -> torch.Tensor:
        stages, rows = built.stages, batch.split(1)
        means = [
            stages.train_step(row, trained_tokens=int(row.trained_tokens) * len(rows))
            for row in rows
        ]
        return torch.stack(means).sum()

    built = stand.build()
    return train_steps(stand, built, step=wrong)


def evaluate(stand: Stand, _options: Mapping[str, Any]) -> list[float]:
    """Return the loss sums of three batches, without gradients, the last one smaller."""
    built = stand.build()
    batches = [Batch.from_rows(**raw) for raw in make_batches(3)]
    batches[2] = batches[2].rows(slice(0, stand.plan.dp))
    shards = [id(value) for value in built.stages.parameters()]
    sums = [float(built.stages.loss_sum(stand.share(batch))) for batch in batches]
    assert [id(value) for value in built.stages.parameters()] == shards, "left gathered"
    assert all(value.grad is None for value in built.stages.parameters())
    return sums


def logits(stand: Stand, _options: Mapping[str, Any]) -> list[float]:
    """Return the logits of the first row's positions 0 and 20, the same on every rank."""
    built = stand.build()
    batch = Batch.from_rows(**make_batches(1)[0]).rows(slice(0, 1))
    rows = built.stages.logits(batch)
    assert rows.shape == (1, batch.length, built.stages.config.vocab_size)
    return [float(x) for x in rows[0, [0, 20]].flatten()]


def fresh(stand: Stand, options: Mapping[str, Any]) -> float:
    """Build from a seed; a weighted sum over all parameters, which any difference would change."""
    config = read_config(Path(options["config"]))
    stages = build_stages(stand.plan, stand.mesh, config, Fresh(seed=options["seed"]))
    total = 0.0
    for name, value in sorted(stages.named_parameters()):
        whole = value.full_tensor() if hasattr(value, "full_tensor") else local(value)
        weights = torch.arange(whole.numel(), dtype=torch.float64).remainder(97)
        total += float((whole.detach().double().flatten() * weights).sum()) * (1 + len(name))
    return total


def batch_norms(stand: Stand, _options: Mapping[str, Any]) -> list[float]:
    """Clip twice: the norm before, and the norm after, which must be the limit."""
    built = stand.build()
    batch = Batch.from_rows(**make_batches(1)[0])
    built.stages.train_step(stand.share(batch), trained_tokens=int(batch.trained_tokens))
    before = built.stages.clip(0.01)
    return [float(before), float(built.stages.gradient_norm())]


KINDS: Mapping[str, Callable[[Stand, Mapping[str, Any]], Any]] = {
    "train": train,
    "train_packed": train_packed,
    "mean_of_means": mean_of_means,
    "evaluate": evaluate,
    "logits": logits,
    "fresh": fresh,
    "clip": batch_norms,
    "save_and_go_on": saving.save_and_go_on,
    "resume": saving.resume,
    "restore_only": saving.restore_only,
    "fenced": saving.fenced,
    "export": saving.export,
    "export_apart": saving.export_apart,
    "loop": looping.loop,
}


def main(place: str, count: str) -> int:
    """Run the folder's cases on ``count`` forked ranks; the exit status says if all went well."""
    torch.set_num_threads(1)
    folder, ranks = Path(place), int(count)
    cases = json.loads((folder / "cases.json").read_text())
    if cases[0]["kind"] == "fake":
        _write(
            folder, ((case["name"], fake.build(make_plan(**case["plan"]), case)) for case in cases)
        )
        return 0
    children = [pid for pid in (_fork(folder, rank, ranks, cases) for rank in range(ranks)) if pid]
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in children)


def _fork(folder: Path, rank: int, ranks: int, cases: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    status = 1
    try:
        nursery.renew_threads()
        _run_rank(folder, rank, ranks, cases)
        status = 0
    except Exception:  # noqa: BLE001 - a forked rank must not return
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _run_rank(folder: Path, rank: int, ranks: int, cases: Any) -> None:
    store = f"file://{folder / 'store'}"
    wait = timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=wait)
    for case in cases:
        stand = Stand.of(make_plan(**case["plan"]), Path(case["model"]))
        try:
            value = KINDS[case["kind"]](stand, case["options"])
        except Exception as error:
            _write(folder, [(case["name"], {"error": f"{type(error).__name__}: {error}"})])
            raise
        if rank == 0:
            _write(folder, [(case["name"], value)])
    dist.barrier()
    dist.destroy_process_group()


def _write(folder: Path, values: Any) -> None:
    for name, value in values:
        with (folder / "results.jsonl").open("a") as file:
            file.write(json.dumps({"name": name, "value": value}) + "\n")
