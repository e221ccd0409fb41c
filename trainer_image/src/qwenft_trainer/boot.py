"""What each rank runs: prepare the process, then the user's script or the built-in loop.

``python -m qwenft_trainer.boot [-m] [script args…]``; the launcher starts it. Errors become typed
exits here, with the cause in the error file of torch's agent.
"""

import atexit
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing.errors import record

from qwenft_trainer import loading, planfile
from qwenft_trainer.errorfile import TypedErrorHandler
from qwenft_trainer.failure import TrainerError, classify


def main(arguments: Sequence[str]) -> int:
    """Run this rank; return its exit code."""
    recorded = record(run, error_handler=TypedErrorHandler())
    try:
        recorded(arguments)
    except Exception as error:  # noqa: BLE001 - the boundary: every error ends in a typed exit
        traceback.print_exception(error)
        return classify(error).exit_code
    return 0


def run(arguments: Sequence[str]) -> None:
    """Check the plan and run what the arguments name."""
    plan = planfile.load(os.environ, world_size=int(os.environ.get("WORLD_SIZE", "1")))
    if not arguments:
        loading.loop(plan).main()
        return
    from qwenft_trainer import shims  # noqa: PLC0415 - the loop's rank needs no shims

    with shims.installed(plan):
        _run_script(arguments)


def _run_script(arguments: Sequence[str]) -> None:
    as_module = arguments[0] == "-m"
    sys.argv = list(arguments[as_module:])
    try:
        if as_module:
            sys.path.insert(0, "")
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            script = _script(sys.argv[0])
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as exit_request:
        _raise_unless_clean(exit_request.code)


def _script(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise TrainerError(f"the script {name} does not exist (in {Path.cwd()})")
    return path.resolve()


def _raise_unless_clean(code: Any) -> None:
    if code not in (None, 0):
        raise TrainerError(f"the script ended itself with sys.exit({code!r})") from None


def leave(code: int) -> NoReturn:
    """End this rank's process without tearing the interpreter down.

    After an error, destroying process groups would wait for peers that wait for this rank's end.
    After success, torch's communication threads sometimes abort the process during the tear-down
    ("terminate called without an active exception"), and a finished run would count as failed.
    What a script asked to happen at its end still happens: its threads end, its exit handlers run.
    """
    if code == 0:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()  # noqa: SLF001 - the only way to run them before os._exit
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
