"""``python -m demo``: the stages in order, each with its time, and a closing summary."""

from __future__ import annotations

import os
import platform as machine
import sys
import time
from pathlib import Path

from demo import install, platforms, training
from embedded import layout
from embedded.stages import StageError
from qwenft_cli.failure import CliError
from qwenft_cli.wording import duration

NAMESPACE = "qwenft-demo"
_SAMPLE = "qwen-stdlib.yaml"
_CLAIM = "data"


def main() -> int:
    """Run the demo; 0 when the model is trained, 1 with the one thing to do, 130 after Ctrl-C."""
    began = time.monotonic()
    try:
        _demo(began)
    except StageError as error:
        print(error.report(), file=sys.stderr)
        return 1
    except CliError as error:
        print(f"failed: {error.message}\nto do: {error.next_step}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; `make demo` begins anew, `make cluster-down` ends everything")
        return 130
    return 0


def _demo(began: float) -> None:
    target = platforms.choose()
    log = _log()
    _announce(began, f"environment: Python {machine.python_version()}, {_cores()} cores")
    _announce(began, f"cluster: {target.title}")
    target.up()
    _announce(began, "images")
    images = target.images()
    _announce(began, "operator")
    install.helm_install(target, images, log)
    _announce(began, "sample data: Python's functions and their docstrings")
    install.make_namespace(target, NAMESPACE)
    install.prepare_data(target, images, NAMESPACE)
    _announce(began, "fine-tune")
    body = install.sample(_SAMPLE)
    training.apply(target, body, NAMESPACE)
    last = training.follow(target, body["metadata"]["name"], NAMESPACE)
    _announce(began, "done")
    print(training.summary(target, last, NAMESPACE, _CLAIM))


def _announce(began: float, text: str) -> None:
    print(f"[{duration(time.monotonic() - began):>7}] {text}", flush=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _log() -> Path:
    """Return an empty log file for the commands of this demo."""
    path = layout.from_environment().logs / "demo.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
