"""What a torch before 2.15 lacks, for a measuring machine whose image has such a one.

Importing this module puts in place what is missing and no measured case uses: the options of the
chunked loss in fp32 (bf16 has the trainer's own), and another patience for groups of one process.
"""

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.nn.attention import varlen


class _Options:
    """The name stands in annotations, and an instance is made; nothing reads it in bf16."""

    def __init__(self, **options: Any) -> None:
        self.options = options


def _keep_timeout(_limit: object, _group: object = None) -> None:
    """Leave a group's patience as it is."""


def _without_gqa(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Let an older kernel, which shares keys among heads unasked, be called as a newer one."""

    def called(*values: Any, enable_gqa: bool = False, **options: Any) -> Any:
        assert enable_gqa
        return attend(*values, **options)

    return called


def fill_in() -> list[str]:
    """Put in place what is missing; return its names."""
    missing = []
    if not hasattr(nn, "LinearCrossEntropyOptions"):
        nn.LinearCrossEntropyOptions = _Options
        missing.append("nn.LinearCrossEntropyOptions")
    if not hasattr(dist, "set_timeout"):
        dist.set_timeout = _keep_timeout
        missing.append("distributed.set_timeout")
    if "enable_gqa" not in inspect.signature(varlen.varlen_attn).parameters:
        varlen.varlen_attn = _without_gqa(varlen.varlen_attn)
        missing.append("varlen_attn(enable_gqa)")
    if version("torch") < "2.12":
        # Its stager forgets how to copy after the first time.
        StateDictStager.close = lambda self: self._cached_storage_mapping.clear()
        missing.append("a stager that can be used twice")
    return missing


MISSING = fill_in()
