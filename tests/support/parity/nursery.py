"""One process that has done the slow imports, and forks whoever needs them.

Importing torch and transformers takes longer than most tiny trainings. A test run therefore starts
``python -m parity.nursery`` once for each of its workers and asks it, a line at a time, to run a
module's ``main`` in a forked process with an output file.
"""

import atexit
import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path

import torch

PACKAGES = ("qwenft_plan", "qwenft_trainer", "parity")
MODULES = ("parity.worker", "parity.scripted", "qwenft_trainer.boot", "qwenft_trainer.shims")
SECONDS = 570


def run(module: str, folder: Path, *arguments: str) -> int:
    """Run ``module.main(folder, *arguments)``; return its exit status and print what it said.

    ``module`` is one of :mod:`parity`. It ends after ``SECONDS``, its descendants with it.
    """
    nursery = _nursery()
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    output = folder / "output.txt"
    words = {"module": module, "arguments": [str(folder), *arguments], "output": str(output)}
    nursery.stdin.write(json.dumps(words) + "\n")
    nursery.stdin.flush()
    code = int(nursery.stdout.readline())
    if code:
        print(output.read_text())
    return code


def sources() -> list[str]:
    """Return where this process has its packages from, be it a copy of them."""
    found = [importlib.util.find_spec(name) for name in PACKAGES]
    return [str(Path(str(each.origin)).parents[1]) for each in found if each is not None]


@cache
def _nursery() -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("QWENFT_", "PET_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "parity.nursery"],
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sources())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def main() -> int:
    """Serve requests until standard input ends."""
    for module in MODULES:
        importlib.import_module(module)
    importlib.import_module("transformers.generation.utils")
    for line in sys.stdin:
        request = json.loads(line)
        child = _fork(request["module"], request["arguments"], Path(request["output"]))
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):  # what it left running
            os.killpg(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return 0


def _fork(module: str, arguments: list[str], output: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setsid()
        signal.alarm(SECONDS)
        redirect({0: Path(os.devnull), 1: output, 2: output})
        status = int(importlib.import_module(module).main(*arguments))
    except BaseException:  # noqa: BLE001 - a forked process must not return
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def renew_threads() -> None:
    """Let torch replace its thread pool, which a fork has broken, while there is one thread.

    torch 2.15 does so at the next use, but two threads that use it at once (backward starts its
    own) race, and the loser ends the process: "Invalid thread pool!".
    """
    torch.set_num_threads(1)


def redirect(files: dict[int, Path]) -> None:
    """Let descriptors of this process be these files."""
    for descriptor, path in files.items():
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)


if __name__ == "__main__":
    sys.exit(main())
