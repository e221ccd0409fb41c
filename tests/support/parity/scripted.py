"""Users' scripts on ranks that are forked from one process which has done the slow imports.

The jobs run one after another. A rank does all that one started by the launcher does: variables,
the boot module, the script, the end. What is about the launcher itself is tested with a real one.
"""

import faulthandler
import json
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from loopback import free_ports
from parity import nursery
from qwenft_trainer import boot

SECONDS = 200
"""When a rank that still runs writes where it stands to its standard error, and ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A script with its arguments; without a plan one plain process runs it."""

    name: str
    script: Path
    arguments: tuple[str, ...]
    plan: Mapping[str, Any] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What rank 0 printed, what all ranks wrote to standard error, and the worst exit code."""

    code: int
    output: str
    errors: str


def run(folder: Path, jobs: Sequence[Job]) -> dict[str, Ended]:
    """Run all jobs, each to its end however that is, and return what came of them by name."""
    described = []
    for index, job in enumerate(jobs):
        place = folder / f"job-{index}"
        place.mkdir()
        if job.plan is not None:
            (place / "plan.json").write_text(json.dumps(job.plan), encoding="utf-8")
        ranks = 1 if job.plan is None else job.plan["world_size"]
        command = [str(job.script), *job.arguments]
        described.append(
            {
                "place": str(place),
                "ranks": ranks,
                "command": command,
                "variables": dict(job.variables),
            }
        )
    (folder / "jobs.json").write_text(json.dumps(described), encoding="utf-8")
    assert nursery.run("parity.scripted", folder) == 0
    return {job.name: _read(folder / f"job-{index}") for index, job in enumerate(jobs)}


def _read(place: Path) -> Ended:
    codes = json.loads((place / "codes.json").read_text())
    errors = [(place / f"stderr-{rank}").read_text() for rank in range(len(codes))]
    return Ended(
        code=max(codes), output=(place / "stdout-0").read_text(), errors="\n".join(errors)[-4000:]
    )


def main(folder: str) -> int:
    """Run the folder's jobs, all ranks of one at a time."""
    torch.set_num_threads(1)
    for job in json.loads((Path(folder) / "jobs.json").read_text()):
        place, port = Path(job["place"]), free_ports()[0]
        children = [_fork(job, rank, port) for rank in range(job["ranks"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        (place / "codes.json").write_text(json.dumps([abs(code) for code in codes]))
    return 0


def _fork(job: Mapping[str, Any], rank: int, port: int) -> int:
    return os.fork() or _rank(job, rank, port)


def _rank(job: Mapping[str, Any], rank: int, port: int) -> NoReturn:
    try:
        nursery.renew_threads()
        _become(Path(job["place"]), rank, job["ranks"], port)
        os.environ |= job["variables"]
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        boot.leave(boot.main(job["command"]))
    except BaseException:  # noqa: BLE001 - a forked rank must not return
        traceback.print_exc()
    finally:
        os._exit(99)


def _become(place: Path, rank: int, ranks: int, port: int) -> None:
    """Take a rank's variables, directory and output files."""
    os.chdir(place)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_ERROR_FILE": str(place / f"error-{rank}.json"),
    }
    if (place / "plan.json").exists():
        os.environ["QWENFT_PLAN"] = str(place / "plan.json")
    nursery.redirect({1: place / f"stdout-{rank}", 2: place / f"stderr-{rank}"})
