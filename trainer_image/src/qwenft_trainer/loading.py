"""Importing the built-in loop with as little else as its plan allows.

What torch and transformers can do beside is most of what they load: compilers, quantisers,
launchers. Half of the processor time of a pod's start went there.
"""

import gc
import importlib
import logging
import os
from types import ModuleType

from qwenft_plan.plan import Plan
from qwenft_trainer import planfile, uncompiled
from qwenft_trainer.hidden import hide

LOOP = "qwenft_trainer.train"


def loop(plan: Plan | None) -> ModuleType:
    """Return the built-in loop's module, imported for ``plan``."""
    # Importing torchao makes torch remark, on every rank, that enumerations are registered in vain.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    if plan is not None:
        _leave_out(plan)
    # Of a million new objects none is garbage; looking for it takes a tenth of the load.
    collecting = gc.isenabled()
    gc.disable()
    found = importlib.import_module(LOOP)
    if collecting:
        gc.enable()
    return found


def _leave_out(plan: Plan) -> None:
    """Hide packages which transformers imports wherever they are, though this plan needs none."""
    if plan.precision != "fp8":
        hide("torchao")
        if not planfile.compiles(plan, os.environ):
            uncompiled.stand_in()
    if plan.method == "full":
        hide("accelerate")  # peft needs it
