"""`make bench`: run all contenders in turn, several rounds, and write docs/performance.md.

``PYTHONPATH=operator/src:trainer_image/src:tests/support python -m speed.report``. Ranks are forked
from this process, which has done the imports; a round runs every contender once, so a machine that
grows slower meanwhile slows all of them. Ratios are taken within a round.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers

import published
from loopback import free_ports
from parity.nursery import redirect, renew_threads
from speed.contenders import CONTENDERS, TUNED, TUNED_SHARDS
from speed.work import Timed, Work, forget_peak, peak_bytes

ROOT = Path(__file__).parents[3]
LOOP, TRAINER = "HF loop, 1 process", "HF Trainer, DDP"
ALONE, REPLICATE = "built-in, 1 process, padded", "built-in, replicate 2, padded"
SHARDS, ONE_LINE = "built-in, shard 2, padded", "one-line script, replicate 2"
Rounds = Mapping[str, Sequence[Mapping[str, Any]]]
WIDE = Work(
    layers=2, hidden=64, vocabulary=151_936, rows=2, longest=1024, median=1024, spread=0.0,
    steps=1, warm=1,
)  # fmt: skip
"""The load whose memory is measured: the vocabulary of Qwen over 2,048 tokens at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """A ratio of two contenders' tokens per second, and the least that it should be, if any."""

    what: str
    ours: str
    theirs: str
    least: float | None


def demands(fill: float) -> tuple[Demand, ...]:
    """Return what is required on a CPU; packing must win back most of what padding wastes."""
    packed = "built-in, replicate 2, packed"
    rows = (
        ("1 process, padded / HF loop", ALONE, LOOP, 1.02),
        ("replicate 2, padded / HF Trainer", REPLICATE, TRAINER, 1.05),
        ("replicate 2, packed / HF Trainer", packed, TRAINER, 0.75 / fill),
        ("shard 2, padded / own replicate 2", SHARDS, REPLICATE, 0.95),
        ("one-line script / own replicate 2", ONE_LINE, REPLICATE, 0.97),
    )
    return tuple(Demand(what=w, ours=o, theirs=t, least=least) for w, o, t, least in rows)


def compared(rounds: Rounds) -> tuple[Demand, ...]:
    """Return the ratios to peers that were there, of which nothing is required."""
    rows = (
        ("1 process, padded / torchtune", ALONE, TUNED),
        ("shard 2, padded / torchtune", SHARDS, TUNED_SHARDS),
    )
    made = (Demand(what=w, ours=o, theirs=t, least=None) for w, o, t in rows)
    return tuple(one for one in made if one.theirs in rounds)


def ratio(rounds: Rounds, demand: Demand) -> float:
    """Return the median over rounds of our tokens per second over theirs."""
    pairs = zip(rounds[demand.ours], rounds[demand.theirs], strict=True)
    return median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the document; 1 if a contender failed or a demand was not met."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=Work().steps)
    parser.add_argument("--hidden", type=int, default=Work().hidden)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    work = Work(steps=args.steps, hidden=args.hidden)
    load = os.getloadavg()[0]
    rounds = measure(work, tuple(CONTENDERS), args.rounds)
    memory = measure(WIDE, (LOOP, ALONE), 1)
    text = document(work, rounds, memory, load=max(load, os.getloadavg()[0]))
    print(text)
    published.put(args.output, "make bench", text)
    return int("**not met**" in text)


def measure(work: Work, names: Sequence[str], count: int) -> Rounds:
    """Run the contenders ``count`` times in turn; returns each one's rounds."""
    rounds: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        work.write_model(folder / "model")
        rows = [{"input_ids": sample.tolist()} for sample in work.samples()]
        torch.save({"train": rows}, folder / "data.pt")
        for index in range(count):
            # Another one begins each round, so that none always runs beside the same guest.
            for name in (*names[index % len(names) :], *names[: index % len(names)]):
                found = run(work, name, folder)
                rounds[name].append(found)
                speed = found["tokens_per_second"]
                print(f"round {index + 1}: {name}: {speed:.0f} tokens/s", file=sys.stderr)
    return rounds


def run(work: Work, name: str, folder: Path) -> Mapping[str, Any]:
    """Run one contender on forked ranks; returns what rank 0 measured."""
    ranks, _ = CONTENDERS[name]
    (port,) = free_ports()
    children = [os.fork() or _rank(work, name, folder, index, port) for index in range(ranks)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    if any(codes):
        logs = [(folder / f"log-{index}.txt").read_text()[-2000:] for index in range(ranks)]
        raise SystemExit(f"{name} failed: {codes}\n" + "\n".join(logs))
    found: Mapping[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def _rank(work: Work, name: str, folder: Path, rank: int, port: int) -> int:
    status = 1
    try:
        renew_threads()
        ranks, contender = CONTENDERS[name]
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        redirect({1: folder / f"log-{rank}.txt", 2: folder / f"log-{rank}.txt"})
        forget_peak()
        before, clock = peak_bytes(), Timed(work=work)
        contender(work, folder, clock)
        if rank == 0:
            found = clock.result()
            found["peak_bytes"] -= before
            (folder / "result.json").write_text(json.dumps(found))
        status = 0
    except BaseException:  # noqa: BLE001 - a forked rank must not return
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def document(work: Work, rounds: Rounds, memory: Rounds, *, load: float) -> str:
    """Return docs/performance.md."""
    count = len(rounds[LOOP])
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Performance", "",
        ("Generated by `make bench`: all contenders in turn, in one run, on one machine, with the "
        "same model, samples, order, batch and number of threads."), "",
        (f"Measured {datetime.now(UTC):%Y-%m-%d} on {cores} cores ({platform.machine()}, no GPU) "
        f"with torch {torch.__version__} and transformers {transformers.__version__}, one thread "
        f"a rank, fp32. The load average was {load:.0f}: other processes shared the cores, so read "
        "the ratios, which are taken within a round, and not the absolute speeds."), "",
        (f"Qwen2 of {work.layers} layers, hidden {work.hidden}, vocabulary {work.vocabulary:,}; "
        f"{work.rows} samples a step, lengths log-normal around {work.median} tokens (at most "
        f"{work.longest}). Padded to each step's longest sample, **{work.fill():.0%}** of the "
        f"positions are real tokens; only those count below. {work.steps} steps after {work.warm} "
        f"of warm-up, medians of {count} rounds."), "",
        *_speeds(rounds), "", *_verdicts(work, rounds), "", *_memory(memory), "", *_remarks(rounds),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _speeds(rounds: Rounds) -> list[str]:
    lines = [
        "| contender | tokens/s, median | least – most | wrapped in | first loss | last loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in rounds.items():
        speeds = [one["tokens_per_second"] for one in found]
        losses, note = found[0]["losses"], found[0]["note"]
        lines.append(
            f"| {name} | {median(speeds):,.0f} | {min(speeds):,.0f} – {max(speeds):,.0f} | {note} "
            f"| {losses[0]:.5f} | {losses[-1]:.5f} |"
        )
    return lines


def _verdicts(work: Work, rounds: Rounds) -> list[str]:
    lines = ["| tokens/s | required | now | |", "|---|---|---|---|"]
    for demand in (*demands(work.fill()), *compared(rounds)):
        found, least = ratio(rounds, demand), demand.least
        if least is None:
            lines.append(f"| {demand.what} | – | {found:.2f} | |")
            continue
        met = "met" if found >= least else "**not met**"
        lines.append(f"| {demand.what} | ≥ {least:.2f} | {found:.2f} | {met} |")
    return lines


def _memory(memory: Rounds) -> list[str]:
    theirs, ours = (found[0]["peak_bytes"] for found in memory.values())
    met = "met" if ours <= 0.5 * theirs else "**not met**"
    return [
        (
            f"Peak memory of a step over 2,048 tokens with a vocabulary of {WIDE.vocabulary:,} "
            f"({WIDE.layers} layers, hidden {WIDE.hidden}, one process, beyond the imports): "
            f"{ours / 2**30:.2f} GiB, the HF loop {theirs / 2**30:.2f} GiB, ratio "
            f"{ours / theirs:.2f} (required ≤ 0.50: {met})."
        ),
    ]


def _remarks(rounds: Rounds) -> list[str]:
    return [
        (
            "Padded means one sample a row. This trainer still runs rows of like length together "
            "and gives the ranks equal work, where Hugging Face's pads rows as they come: most of "
            "the difference is padding that is never computed. Packed means several samples a row, "
            "with attention kept inside each; runs do that by themselves. The shards keep their "
            "weights gathered through a step (reshard_after_forward: false), as the planner has it "
            "on cores wherever they fit."
        ),
        "",
        (
            "accelerate takes DDP on a CPU although FSDP2 is asked for; here it was made to take "
            "FSDP2, and the wrapper was checked. Its loss is that of rank 0's rows alone, hence "
            "another number."
        ),
        "",
        _of_peers(rounds),
    ]


def _of_peers(rounds: Rounds) -> str:
    titan = "Not measured: torchtitan, which installs beside the pinned torch but has no Qwen2"
    if TUNED not in rounds:
        return f"{titan}, and torchtune (`make bench TORCHTUNE=…`, see CONTRIBUTING.md)."
    return (
        "torchtune is its own recipe, unchanged, padded, with fused AdamW and the chunked loss of "
        "its Qwen2.5 config, beside the torchao named above, since it does not import beside the "
        "pinned one. Its recipe of several ranks is made for GPUs: the three calls that tell of a "
        f"GPU's memory were left out. {titan}."
    )


if __name__ == "__main__":
    sys.exit(main())
