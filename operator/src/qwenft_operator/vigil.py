"""For how long this process itself has seen attempts as they are: what patience is measured by.

An age by time stamps is wrong by as much as this machine's clock, and takes the hours in which no
operator ran, or no apiserver answered, for hours in which a run stood still. So what gives an
attempt up counts the time between the looks of one process, by a clock that nobody sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from qwenft_operator.situation import Situation

__all__ = ["PATROL", "Vigil", "sign_of"]

PATROL = 60.0
"""Seconds after which an attempt is looked at again that nothing is heard of."""
_LONGEST_GAP = 2 * PATROL
"""Seconds between two looks that count at most: for more than that nobody has watched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    sign: Hashable
    still: float
    at: float


class Vigil:
    """What was seen last of each run, and for how long nothing else."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds of any origin, that only ever go forward."""
        self._clock = clock
        self._seen: dict[Hashable, _Seen] = {}

    def still_for(self, key: Hashable, situation: Situation) -> float:
        """Return the seconds for which the run's newest attempt was seen without any change."""
        now, sign, last = self._clock(), sign_of(situation), self._seen.get(key)
        still = 0.0
        if last is not None and last.sign == sign:
            still = last.still + min(now - last.at, _LONGEST_GAP)
        self._seen[key] = _Seen(sign=sign, still=still, at=now)
        return still

    def forget(self, key: Hashable) -> None:
        """Drop what is known of a run that is gone."""
        self._seen.pop(key, None)


def sign_of(situation: Situation) -> Hashable:
    """Return what changes whenever the newest attempt gets on: its Job, its pods, its reports.

    A report counts once: when it was received, not when the status tells of it.
    """
    attempt, observed, history = situation.attempt, situation.observed, situation.history
    job, progress = observed.job_of(attempt), observed.progress
    heard = progress if progress is not None and progress.attempt == attempt else None
    known = history.step if history.trained_attempt == attempt else None
    told = None if heard is None else heard.step
    steps = [step for step in (known, told) if step is not None]
    pods = tuple(
        (pod.uid, pod.phase, bool(pod.node), bool(pod.waiting), bool(pod.unscheduled))
        for pod in observed.pods_of(attempt)
    )
    # A Job that a queue has admitted again starts anew, whatever was reported before.
    started = None if job is None else (job.uid, job.started_at)
    return (attempt, started, pods, heard, max(steps, default=None))
