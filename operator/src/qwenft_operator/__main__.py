"""`python -m qwenft_operator`: the operator, in a cluster or beside one.

Becomes `kopf run` with the flags that have no setting, so that signals reach it directly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["arguments"]


def arguments(environ: Mapping[str, str]) -> list[str]:
    """Return the command line of kopf."""
    namespace = environ.get("QWENFT_WATCH_NAMESPACE", "")
    probe = environ.get("QWENFT_PROBE_URL", "http://127.0.0.1:8080/healthz")
    scope = ["--namespace", namespace] if namespace else ["--all-namespaces"]
    log = environ.get("QWENFT_LOG_FORMAT", "full")
    return [
        sys.executable, "-m", "kopf", "run", "--standalone", *scope,
        "--liveness", probe, "--log-format", log, "-m", "qwenft_operator.main",
    ]  # fmt: skip


if __name__ == "__main__":
    command = arguments(os.environ)
    os.execv(command[0], command)  # noqa: S606 - no shell is meant
