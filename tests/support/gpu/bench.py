"""`make bench-gpu`: train each case in a process of its own, one after the other, on one GPU.

``python -m gpu.bench OUTPUT [CASES.json]`` writes what was measured; the pages are written from it
(:mod:`gpu.page`), on any machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from gpu.case import Case
from gpu.cases import CASES
from gpu.measure import measure
from gpu.older import MISSING  # noqa: F401 - before the trainer is imported


def main(arguments: list[str]) -> int:
    """Measure and write ``results.json`` into the directory ``arguments[0]`` after every case."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    cases = CASES
    if len(arguments) > 1:
        cases = tuple(Case(**each) for each in json.loads(Path(arguments[1]).read_text()))
    results = []
    for case in cases:
        began = time.monotonic()
        alone = len(cases) == 1
        found = attempt(case, folder) if alone else in_a_process(case, folder)
        found["wall"] = round(time.monotonic() - began, 1)
        results.append({"case": asdict(case), **found})
        (folder / "results.json").write_text(json.dumps(_told(results), indent=1))
        print(_line(case, found), flush=True)
    return int(any("error" in each for each in results))


def in_a_process(case: Case, folder: Path) -> dict[str, Any]:
    """Measure in a forked process, which has done the imports but has not touched the GPU."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        found = attempt(case, folder)
        os.write(writing, json.dumps(found).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        return {"error": f"ended with status {os.waitstatus_to_exitcode(status)}"}
    found = json.loads(text)
    return dict(found)


def attempt(case: Case, folder: Path) -> dict[str, Any]:
    """Measure in this process; a case that fails is a result."""
    try:
        found = measure(case, folder)
    except Exception as error:  # noqa: BLE001 - told as it is
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _told(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "results": results,
    }


def _line(case: Case, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{case.to_mapping()}: {found['error']} ({found['wall']} s)"
    speed = case.tokens / found["seconds"]
    flops = speed * case.shape.flops_per_token(case.length)
    return (
        f"{case.to_mapping()}: {found['seconds']:.3f} s a step, {speed:,.0f} tokens/s, "
        f"{flops / 1e12:.0f} TFLOP/s, allocated {found.get('allocated', 0) / 2**30:.2f} GiB, "
        f"reserved {found.get('reserved', 0) / 2**30:.2f}, outside "
        f"{found.get('outside', 0) / 2**30:.2f}, loss {found['first_loss']:.4f} -> "
        f"{found['last_loss']:.4f}, steps {found['all_seconds']}, all {found['wall']} s"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
