"""`python -m fuzzing COUNT [SEED [NAME…]]`: COUNT inputs over all parsers, or those named.

Tells how many each one took.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

from fuzzing.targets import TARGETS, Target
from fuzzing.torch_targets import torch_targets

SLOW = {
    "dataset file": 0.05, "checkpoint manifest": 0.2, "checkpoint contents": 0.5,
    "checkpoint table": 0.5, "checkpoint directory": 0.1, "model's headers": 0.5,
    "flat dataset": 0.5,
}  # fmt: skip
"""Parsers that read a file take a smaller part."""
MOST_SHOWN = 5


def run(target: Target, count: int, seed: int) -> list[int]:
    """Feed a parser; return the seeds of the inputs that crashed it, the first with tracebacks."""
    crashed = []
    for number in range(seed, seed + count):
        try:
            target.try_one(Random(number))  # noqa: S311 - chance for a test
        except Exception:  # noqa: BLE001 - that is what is looked for
            crashed.append(number)
            if len(crashed) <= MOST_SHOWN:
                print(f"--- {target.name}, input {number}", file=sys.stderr)
                traceback.print_exc()
    return crashed


def main() -> int:
    """Fuzz every parser; 1 if any crashed."""
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        targets = (*TARGETS, *torch_targets(Path(folder)))
        targets = tuple(each for each in targets if each.name in (sys.argv[3:] or (each.name,)))
        weights = [SLOW.get(target.name, 1.0) for target in targets]
        done = crashes = 0
        for target, weight in zip(targets, weights, strict=True):
            count = -(-int(total * weight) // int(sum(weights)))
            began = time.monotonic()
            found = run(target, count, seed)
            done, crashes = done + count, crashes + len(found)
            rate = count / (time.monotonic() - began)
            print(f"{target.name:28} {count:9,} inputs {len(found):6} crashes {rate:9,.0f}/s",
                  flush=True)  # fmt: skip
    print(f"{'all':28} {done:9,} inputs {crashes:6} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
