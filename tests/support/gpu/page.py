"""The parts of the documentation that tell what was measured on a GPU.

``python -m gpu.page`` writes docs/performance.md's; ``make accuracy`` takes :func:`accuracy`.
"""

# ruff: noqa: E501 - the text as it is printed

from __future__ import annotations

from pathlib import Path
from statistics import median

import published
from gpu.calibrate import left_out, stepped
from gpu.runs import Run, device, found, read

__all__ = ["accuracy", "main", "text"]

ROOT = Path(__file__).parents[3]
AIM, FROM = 0.60, 3.5e9
GIB = 2**30


def text() -> str:
    """Return the section of docs/performance.md."""
    about, runs = found(), read(ours=None)
    profile = about["profile"]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in profile["shares"].items())
    rest = 1 - sum(profile["shares"].values())
    large = [run for run in runs if run.case.shape.parameters >= FROM and not run.earlier]
    full = [run for run in large if run.case.method == "full" and run.case.who == "qwenft"]
    best = max(_mfu(run) for run in full)
    met = "met" if best >= AIM else "**not met**"
    return "\n".join(
        [
            "## On a GPU", "",
            f"Measured with `make bench-gpu`, written by `python -m gpu.page` from `tests/truth/gpu_runs.json`: {about['date']} on one {about['gpu']} (driver {about['driver']}) with torch {about['torch']} and transformers {about['transformers']}, older than the pinned ones: what they lack is filled in by `tests/support/gpu/older.py`. Products of 8,192² bf16 matrices ran at {about['ceilings']['matmul_bf16_8192_tflops']} TFLOP/s there, copies at {about['ceilings']['copy_tbs']} TB/s. Random weights and tokens, every position trained on, AdamW and clipping included; medians of 3 steps after 2 (5 after 3 in the older runs). MFU is over {device().peak_bf16 / 1e12:.0f} TFLOP/s, recomputation not counted.", "",
            *_table([run for run in runs if not run.earlier]), "",
            f"Aimed at: MFU of {AIM:.0%} from 4 B parameters up: {met}, {best:.1%} is the best of a full fine-tune. A profiled step ({profile['case']}, {profile['seconds']} s) went into {shares}; the other {rest:.0%} into fused norms, gates and rotations and into kernels below 1.5 %. Its products run at 703 TFLOP/s, {703 / about['ceilings']['matmul_bf16_8192_tflops']:.0%} of the ceiling above, so most of what is left to cut is everything else.", "",
            "What the profile led to: the loss computes its gradients along with itself, once, where each chunk's logits were computed a second time in backward; packed rows go to torch's kernel for unequal lengths, where a mask of all pairs of positions was kept for every layer; and selective checkpointing keeps what cuDNN's attention puts out. Before and after, same card:", "",
            *_cuts(runs), "",
            "Measured before that change, whose speed is therefore a little below today's:", "",
            *_table([run for run in runs if run.earlier and not _again(run, runs)]), "",
            "Not measured: several GPUs, other cards, sequences of 8,192 tokens, torchtitan and torchtune.",
        ]
    )  # fmt: skip


def accuracy() -> str:
    """Return docs/accuracy.md's paragraph and table: the planner's word beside the GPU's."""
    runs = [run for run in read() if _same(run)]
    total = [abs(run.predicted().total / run.total - 1) for run in runs]
    live = [abs(run.predicted().allocated / run.allocated - 1) for run in runs]
    now = [run for run in runs if not run.earlier]
    time = [abs(run.predicted().seconds / run.seconds - 1) for run in now]
    lines = [
        f"On one {found()['gpu']} (`make bench-gpu`, {len(runs)} runs), memory as the driver counts it is off by {median(total):.1%} in the median and {max(total):.1%} at most; live tensors by {median(live):.1%} and {max(live):.1%}. No constant of memory was fitted to these runs; two terms were missing before them and were counted then: what norms of queries and keys keep (Qwen3), and the pool that FSDP's reduction keeps under gradient accumulation. The trainer's constants of speed *are* fitted to the {len(now)} runs of today's code, and off by {median(time):.1%} in the median and {max(time):.1%} at most on them. There is one source, so models were held out in turn (`python -m gpu.calibrate`); a fit without it is off, in the median, by {_left_out()}.",
        "",
        "| run | live tensors, GiB | predicted | all, GiB | predicted | s a step | predicted |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        expected = run.predicted()
        speed = "–" if run.earlier else f"{expected.seconds:.3f}"
        seconds = "–" if run.earlier else f"{run.seconds:.3f}"
        allocated = f"{expected.allocated / GIB:.1f}"
        lines.append(
            f"| {_how(run)} | {run.allocated / GIB:.1f} | {allocated} | {run.total / GIB:.1f} | {expected.total / GIB:.1f} | {seconds} | {speed} |"
        )
    return "\n".join(lines)


def _left_out() -> str:
    shares = left_out(stepped())
    return ", ".join(f"{share:.1%} on {model}" for model, share in shares.items())


def main() -> None:
    """Write docs/performance.md's part."""
    published.put(ROOT / "docs" / "performance.md", "make bench-gpu", text())


def _same(run: Run) -> bool:
    """Whether the run's tensors are those of today: masks of packed rows are gone since."""
    return not (run.earlier and run.case.packing > 1)


def _mfu(run: Run) -> float:
    return run.flops / device().peak_bf16


def _again(run: Run, runs: list[Run]) -> bool:
    return any(other.case == run.case and not other.earlier for other in runs)


def _how(run: Run) -> str:
    case = run.case
    words = [case.model, f"{case.rows} × {case.length:,}"]
    words += [f"accumulation {case.accumulation}"] * (case.accumulation > 1)
    words += [f"{case.packing} samples a row"] * (case.packing > 1)
    words += [f"{case.checkpointing} recompute"] * (case.checkpointing != "none")
    words += [case.method] * (case.method != "full") + [case.optimizer] * (
        case.optimizer != "adamw"
    )
    words += ["offloaded"] * case.offload + [case.precision] * (case.precision != "bf16")
    words += ["compiled"] * case.compile + ["Hugging Face's loop"] * (case.who == "hf")
    return ", ".join(words)


def _table(runs: list[Run]) -> list[str]:
    lines = ["| run | tokens/s | TFLOP/s | MFU | memory, GiB |", "|---|---|---|---|---|"]
    for run in sorted(runs, key=lambda run: (run.case.shape.parameters, _how(run))):
        # Of adapters the formula counts gradients that frozen weights do not have.
        share = f"{_mfu(run):.1%}" if run.case.method == "full" else "–"
        rate = f"{run.flops / 1e12:.0f}" if run.case.method == "full" else "–"
        lines.append(
            f"| {_how(run)} | {run.tokens_per_second:,.0f} | {rate} | {share} | {run.total / GIB:.1f} |"
        )
    return lines


def _cuts(runs: list[Run]) -> list[str]:
    lines = [
        "| run | tokens/s before | after | | memory before, GiB | after |",
        "|---|---|---|---|---|---|",
    ]
    for old in runs:
        for new in runs:
            if old.earlier and not new.earlier and old.case == new.case:
                gain = new.tokens_per_second / old.tokens_per_second
                lines.append(
                    f"| {_how(old)} | {old.tokens_per_second:,.0f} | {new.tokens_per_second:,.0f} | × {gain:.2f} | {old.total / GIB:.1f} | {new.total / GIB:.1f} |"
                )
    return lines


if __name__ == "__main__":
    main()
