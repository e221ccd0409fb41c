"""What a user's script finds changed when it starts, before its first import.

Without a plan: old names that the libraries dropped, and ``"cuda"`` meaning this machine where it
has no GPU. Under a plan also the calls that must know about the other ranks. They are replaced
here and not by the one line, since ``from torch.nn.utils import clip_grad_norm_`` at a script's top
would keep the original.
"""

import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import transformers

from qwenft_plan.plan import Plan
from qwenft_trainer import here, old_names, option, ranked, refusals, steps, values
from qwenft_trainer.blame import parts_explained
from qwenft_trainer.patches import Target, replaced
from qwenft_trainer.together import meet

SEED = 0
"""Where a script that does not seed begins; one that does is left alone."""


@contextmanager
def installed(plan: Plan | None) -> Iterator[None]:
    """Give a script its surroundings, and take them away at its end."""
    found = option.start_session(plan)
    # torch seeds each process by chance; equal scripts shall shuffle equally, plan or no plan.
    random.seed(SEED)
    torch.manual_seed(SEED)
    old_names.install(old_names.option_modules(option.enable_advanced_parallelization))
    with ExitStack() as stack:
        # transformers replaces its own module object while it loads; the object's class stays.
        stack.enter_context(replaced({(type(transformers), "AdamW"): old_names.AdamW}))
        if not torch.cuda.is_available():
            stack.enter_context(replaced(here.cuda_calls()))
            stack.enter_context(here.CudaMeansHere())
        if found is not None:
            stack.enter_context(replaced(under_a_plan(found)))
            rank = int(os.environ.get("RANK", "0"))
            stack.enter_context(_quiet(rank))
            if rank == 0:
                stack.enter_context(steps.reported(found))
            stack.enter_context(parts_explained())
        yield
        if found is not None:
            found.check_end()
            if dist.is_initialized():
                meet("the end of the script")
                dist.destroy_process_group()


def under_a_plan(found: option.Session) -> Mapping[Target, Any]:
    """Return the calls that a plan replaces, with their replacements."""
    load = classmethod(option.loader(found))
    return {
        (transformers.AutoModelForCausalLM, "from_pretrained"): load,
        (transformers.AutoModelForCausalLM, "from_config"): classmethod(option.from_config),
        **{(kind, "from_pretrained"): load for kind in _causal_models()},
        **ranked.replacements(found),
        **refusals.replacements(found),
        **values.replacements(found),
    }


def _causal_models() -> tuple[type, ...]:
    names = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM")
    return tuple(getattr(transformers, name) for name in names)


@contextmanager
def _quiet(rank: int) -> Iterator[None]:
    """Silence standard output and progress bars of all ranks but 0: they say the same."""
    if rank == 0:
        with nullcontext():
            yield
        return
    os.environ["TQDM_DISABLE"] = "1"
    transformers.utils.logging.disable_progress_bar()
    before = sys.stdout
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no path is at hand
        sys.stdout = nowhere
        try:
            yield
        finally:
            sys.stdout = before
