"""Builders for tests of the planner: requests, round numbers to compute by hand, rows of a table.

The runtime, device and model here have round constants of their own, so that a test checks a
formula and never a calibrated number.
"""

from planning.requests import config, planned, refusal, request
from planning.rows import answer, row
from planning.works import DEVICE, FUSED, MEGATRON_LIKE, MODEL, UNFUSED, layout, work

__all__ = [
    "DEVICE",
    "FUSED",
    "MEGATRON_LIKE",
    "MODEL",
    "UNFUSED",
    "answer",
    "config",
    "layout",
    "planned",
    "refusal",
    "request",
    "row",
    "work",
]
