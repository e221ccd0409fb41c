"""What this machine has to train on: its GPUs as the trainer's torch sees them, else its cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import find_device
from qwenft_plan.inventory import Inventory, NodeShape

__all__ = ["HIDDEN", "Gpu", "Machine", "ask_torch"]

HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
"""Variables under which the trainer sees no GPU and takes the cores."""
_SIGNS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Devices of NVIDIA's driver, of that of Windows' Linux, and of AMD's."""
_QUESTION = """\
import json, torch
found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([[each.name, each.total_memory] for each in found]))
"""
_SECONDS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU: the driver's name of it, and bytes of memory."""

    name: str
    memory: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The node that `qwenft run` plans for: the one it runs on."""

    gpus: tuple[Gpu, ...] = ()
    """Those that can be planned for: of one kind, and known to the planner."""
    seen: int | None = None
    """GPUs that the trainer would take unasked; None where there is no sign of any."""
    remark: str = ""
    """Why it is planned for its cores although there is a GPU; empty without one."""

    @classmethod
    def look(cls, *, cpu: bool, ask: Callable[[], tuple[Gpu, ...] | None] | None = None) -> Machine:
        """Return what there is; ``cpu`` asks for the cores in any case.

        ``ask`` tells the GPUs that the trainer would see, or None where there is no sign of any.
        """
        found = None if cpu else (ask or ask_torch)()
        if found is None:
            return cls(seen=0 if cpu else None)
        names = sorted({gpu.name for gpu in found})
        if not found:
            return cls(seen=0, remark="torch sees no GPU here, although there is a driver for one")
        unknown = [name for name in names if find_device(name) is None]
        if unknown or len(names) > 1:
            why = "the planner does not know it" if unknown else "they are of several kinds"
            told = f"there is {' and '.join(unknown or names)}, but {why}"
            return cls(seen=len(found), remark=told)
        return cls(gpus=found, seen=len(found))

    def inventory(self, processes: int | None = None) -> Inventory:
        """Return the machine as one node: a process for each GPU or core, or so many.

        Raises :class:`SpecError` for less than one process, or more than there are GPUs.
        """
        if processes is not None and processes < 1:
            raise SpecError("--processes", f"must be at least 1, not {processes}")
        if not self.gpus:
            return Inventory(nodes=(_cores(processes),))
        if processes is not None and processes > len(self.gpus):
            message = f"{processes} is more than the {len(self.gpus)} GPUs here; --cpu takes cores"
            raise SpecError("--processes", message)
        shape = NodeShape(
            name="this machine",
            product=self.gpus[0].name,
            devices=processes or len(self.gpus),
            device_memory_bytes=min(gpu.memory for gpu in self.gpus),
            host_memory_bytes=_memory(),
        )
        return Inventory(nodes=(shape,))

    def variables(self, world_size: int, *, planned_here: bool) -> Mapping[str, str]:
        """Return what the trainer must be told so that its ranks train where they were planned.

        A plan from elsewhere is for the GPUs if there are enough of them.
        """
        wanted = len(self.gpus) if planned_here else self.seen
        return {} if self.seen is None or world_size <= (wanted or 0) else HIDDEN


def ask_torch() -> tuple[Gpu, ...] | None:
    """Ask the trainer's torch, which takes seconds, only where there is a sign of a GPU."""
    if not any(Path(sign).exists() for sign in _SIGNS):
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _QUESTION],
            capture_output=True, text=True, check=True, timeout=_SECONDS,
        )  # fmt: skip
        found = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return ()
    return tuple(Gpu(name=name, memory=memory) for name, memory in found)


def _cores(processes: int | None) -> NodeShape:
    count = processes or len(os.sched_getaffinity(0))
    return NodeShape(
        name="this machine", product="cpu", devices=count, device_memory_bytes=_memory() // count
    )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
