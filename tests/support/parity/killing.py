"""Saves that are cut off by kill -9 at their k-th file operation.

``python -m parity.killing FOLDER RANKS VICTIM MOMENT…`` prints a JSON line for each moment: whether
the victim died, which checkpoints lie there, and what a next attempt goes on from. Python's audit
events count the operations, so a moment is the same in every run.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from parity.plain import Plain
from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.checkpoint_files import find, verify
from qwenft_trainer.saver import Saver

PATIENCE = timedelta(seconds=120)
_BY_PATH = ("open", "os.mkdir", "os.rename", "os.listdir", "os.scandir", "shutil.rmtree")
# Removing a tree names files relative to an open directory.
_ALWAYS = ("os.remove", "os.rmdir")


def die_at(moment: int, folder: Path) -> None:
    """Let this process be killed at its ``moment``-th operation on a file of ``folder``."""
    left = moment

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        ours = event in _BY_PATH and str(arguments[0]).startswith(str(folder))
        if ours or event in _ALWAYS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def save_thrice(rank: int, ranks: int, folder: Path, moment: int) -> None:
    """Save step 1 whole; then step 2 in the background and step 3, with a moment to die at.

    One checkpoint is kept, so removing older ones is among what may be cut off.
    """
    _join(rank, ranks, folder / "store")
    plain = Plain()
    store = CheckpointStore(directory=folder / "checkpoints", identity="run", attempt=1, keep=1)
    store.claim()
    saver = Saver(store)
    saver.save(plain.stages, plain.optimizer, 1, wait=True, digest=plain.digest())
    if moment:
        die_at(moment, folder / "checkpoints")
    for step in (2, 3):
        plain.train()
        saver.save(plain.stages, plain.optimizer, step, wait=step == 3, digest=plain.digest())


def go_on(folder: Path) -> None:
    """Restore as attempt 2 on one rank, and write down the step if the values are the saved."""
    _join(0, 1, folder / "second store")
    plain = Plain()
    store = CheckpointStore(directory=folder / "checkpoints", identity="run", attempt=2)
    store.claim()
    restored = store.restore(plain.stages, plain.optimizer)
    right = restored.notes.get("digest") == plain.digest()
    (folder / "restored").write_text(str(restored.step if right else -1))


def cut_off(folder: Path, ranks: int, victim: int, moment: int) -> dict[str, Any]:
    """Run one case; the victim's peers are killed after it, as a kubelet would."""
    folder.mkdir(parents=True)
    children = [
        _fork(lambda r=rank: save_thrice(r, ranks, folder, moment if r == victim else 0))
        for rank in range(ranks)
    ]
    status = os.waitstatus_to_exitcode(os.waitpid(children[victim], 0)[1])
    for rank, child in enumerate(children):
        if rank != victim:
            if status:
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    checkpoints = find(folder / "checkpoints")
    whole = [found.step for found in checkpoints if verify(found.path, found.files) is None]
    os.waitpid(_fork(lambda: go_on(folder)), 0)
    written = folder / "restored"
    return {
        "moment": moment,
        "status": status,
        "found": [found.step for found in checkpoints],
        "whole": whole,
        "restored": int(written.read_text()) if written.exists() else None,
    }


def _join(rank: int, ranks: int, store: Path) -> None:
    where = f"file://{store}"
    dist.init_process_group(
        "gloo", init_method=where, rank=rank, world_size=ranks, timeout=PATIENCE
    )


def _fork(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def main(folder: Path, ranks: int, victim: int, moments: list[int]) -> None:
    """Cut off at each moment; with no moment: at every one, until the saves get through."""
    for moment in moments or range(1, 1000):
        outcome = cut_off(folder / f"{victim}-{moment}", ranks, victim, moment)
        print(json.dumps(outcome), flush=True)
        if not moments and outcome["status"] == 0:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [int(k) for k in sys.argv[4:]])
