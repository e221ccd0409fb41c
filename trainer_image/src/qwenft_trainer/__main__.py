"""``python -m qwenft_trainer [torchrun flags] [script.py args…]``."""

import os
import signal

_PREEMPTED = 64


def _stop(*_: object) -> None:
    os._exit(_PREEMPTED)


# Before torch is loaded, which takes seconds: as process 1 of a container this process would not
# even die of a SIGTERM that it has no handler for; its pod would stay for its whole grace period.
signal.signal(signal.SIGTERM, _stop)

from qwenft_trainer.boot import leave  # noqa: E402 - see above
from qwenft_trainer.launch import main  # noqa: E402

# Tearing torch down takes longer than all that a restart still has to wait for here.
leave(main())
