"""Nodes are free that a running run could use: whether a better plan pays for the restart it costs.

No failure leads here. Two things keep a run from restarting again and again for little: what it
would save must be a multiple of what the restart costs, and after each growth the next one has to
wait for twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LEAST_AGE", "MARGIN", "MOST_AGE", "ROW", "Prospect", "age_needed"]

MARGIN = 2.0
"""The time saved over the time that a restart costs, at least."""
LEAST_AGE, MOST_AGE = 60.0, 7200.0
"""Seconds for which an attempt must have run: at first unless set otherwise, after many growths."""
_UNKNOWN_START = 120.0
"""Seconds that a start is taken to cost where none was measured."""

ROW = (
    "nodes free again, or more of them (`nodes.max` raised), while the run trains",
    (
        "save and go on by the better plan when what it saves is twice what a restart costs, "
        "nobody waits for the nodes and the attempt is old enough; not counted, and each time the "
        "next growth waits twice as long"
    ),
)
"""The rule as it is documented."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect:
    """What a better plan promises; all times in seconds."""

    remaining: float
    """What is left by the trainer's own estimate under the plan that it runs."""
    speedup: float
    """Predicted speed of the better plan over that of the plan that runs."""
    start: float | None = None
    """From this attempt's Job to its first report, measured."""
    save: float | None = None
    """How long the newest save took, measured."""

    @property
    def gain(self) -> float:
        """Time that the better plan saves on what is left, the restart not counted."""
        return self.remaining * max(0.0, 1.0 - 1.0 / self.speedup) if self.speedup > 0 else 0.0

    @property
    def cost(self) -> float:
        """Time that nothing is trained: a save, and a start. An unknown save counts as a start."""
        start = _UNKNOWN_START if self.start is None else self.start
        return start + (start if self.save is None else self.save)

    @property
    def pays(self) -> bool:
        """Whether the gain is worth the restart."""
        return self.gain >= MARGIN * self.cost


def age_needed(growths: int, least: float = LEAST_AGE) -> float:
    """Return how old an attempt must be before it is ended for a better plan, in seconds.

    So a run of ``t`` seconds grows about ``log2(t / least)`` times, whatever nodes do. ``least``
    is what the first growth waits for; it bounds from below what later ones do.
    """
    return max(least, min(MOST_AGE, least * 2.0 ** min(growths, 30)))
