"""Ranks of the built-in loop as forks of their launcher.

The launcher imports the loop once and forks; started as programs of their own, the launcher and
each rank would import torch, which takes seconds of a processor's time in each of them. torch's
agent starts, watches and ends the forks as it would programs: same environment, files for their
output, a session of their own, exit codes. A user's script is still started as a program.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from qwenft_trainer import boot
from qwenft_trainer.stopped import Lookout

MODULE = "qwenft_trainer.boot"
NAME = "qwenft-rank"
"""What ``ps`` calls a rank."""
NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
DRIVERS = ("nvidiactl", "dxg", "kfd")
"""What is under ``/dev`` where torch could find a GPU: NVIDIA's, in Windows' Linux, AMD's."""
_FACTORY = "get_subprocess_handler"
"""Where torch lets others put their own way of starting a process."""
_POLL_SECONDS = 0.02
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What torch's agent handles, and a rank must not handle as the agent does."""


@contextmanager
def driver_unasked() -> Iterator[None]:
    """Let torch ask NVIDIA's library of management for GPUs, not the driver; see ``_be_rank``."""
    before = os.environ.get(NVML)
    os.environ[NVML] = "1"
    try:
        yield
    finally:
        os.environ.pop(NVML)
        os.environ |= {} if before is None else {NVML: before}


@contextmanager
def ranks() -> Iterator[None]:
    """Let torch's agent fork those ranks that run the built-in loop."""
    before = getattr(api, _FACTORY)
    setattr(api, _FACTORY, Handler)
    try:
        yield
    finally:
        setattr(api, _FACTORY, before)


class Handler(SubprocessHandler):
    """torch's handler of a rank's process, which may be a fork."""

    def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> Any:
        if args[0] != sys.executable or args[-2:] != ("-m", MODULE):
            return Program(
                args, env=env, stdout=self._stdout, stderr=self._stderr, start_new_session=True
            )
        return Fork(args, env, {1: self._stdout, 2: self._stderr}, name=self._name())

    def _name(self) -> str:
        return f"{NAME}-{self.local_rank_id}"


class Program(subprocess.Popen[bytes]):
    """A rank that is a program of its own, and what watches it."""

    def __init__(self, args: tuple[str, ...], *, env: Mapping[str, str], **options: Any) -> None:
        super().__init__(args, env=env, **options)
        self._lookout = Lookout(self.pid, env)

    def poll(self) -> int | None:
        """Return the exit code; one that is stopped for too long is ended."""
        code = super().poll()
        if code is None:
            self._lookout.look()
        return code


class Fork:
    """A forked rank; what torch's agent uses of a ``Popen``."""

    def __init__(
        self, args: tuple[str, ...], env: Mapping[str, str], files: Mapping[int, Any], *, name: str
    ) -> None:
        self.returncode: int | None = None
        there, ready = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        # Neither may a signal that the agent handles reach the fork before it has forgotten how.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        self.pid = os.fork()
        if self.pid == 0:
            _be_rank(args, env, files, name=name)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(ready)
        # Ends when the fork leads a session of its own: from then on a signal to it reaches it.
        os.read(there, 1)
        os.close(there)
        self._lookout = Lookout(self.pid, env)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the rank runs.

        One that is stopped for too long is ended.
        """
        if self.returncode is None:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
                else:
                    self._lookout.look()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end; raises ``TimeoutExpired`` after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(NAME, timeout)
            time.sleep(_POLL_SECONDS)
        return code


def _be_rank(
    args: tuple[str, ...], env: Mapping[str, str], files: Mapping[int, Any], *, name: str
) -> NoReturn:
    """Do what a new process would find done, then run the loop; never returns."""
    code = 70
    try:
        _forget(files)
        os.environ.clear()
        os.environ.update(env)
        # A fork of a process that has asked the driver for anything cannot use the driver.
        if torch.cuda._is_in_bad_fork() and _has_driver():  # noqa: SLF001
            os.execve(args[0], args, os.environ)  # noqa: S606 - the very program it stands for
        with suppress(OSError):
            Path("/proc/self/comm").write_text(name, encoding="ascii")
        sys.argv = [boot.__file__]
        if threads := env.get("OMP_NUM_THREADS", ""):
            torch.set_num_threads(int(threads))
        code = boot.main([])
    except BaseException:  # noqa: BLE001 - no fork may go on where the launcher was
        traceback.print_exc()
    finally:
        boot.leave(code)


def _has_driver() -> bool:
    return any(Path("/dev", name).exists() for name in DRIVERS)


def _forget(files: Mapping[int, Any]) -> None:
    """Leave the launcher's session, signals and open files; the write end of its pipe goes last."""
    os.setsid()
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.set_wakeup_fd(-1)
    for descriptor, file in files.items():
        if file is not None:
            os.dup2(file.fileno(), descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
    # Connections, too: a peer takes them for the launcher's life.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
