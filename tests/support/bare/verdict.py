"""What a soak does not forgive an operator."""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Verdict", "judge"]

_TOLERANCE = 0.10


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a soak has shown."""

    minutes: float
    lives: dict[str, int]
    """Kind → lives that ended."""
    wrong: tuple[str, ...]
    """Ends that were not as they ought to be, and steps that took too long."""
    orphans: int
    memory_mib: float
    """Median after the first sixth, five minutes at most."""
    lowest: float
    highest: float
    """Least and most of any sample after that, as shares of the median."""
    load: float
    """The machine's load average of the last five minutes, at the end."""

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong and memory was flat."""
        flat = self.lowest >= 1 - _TOLERANCE and self.highest <= 1 + _TOLERANCE
        return not self.wrong and not self.orphans and flat and all(self.lives.values())

    def told(self) -> dict[str, Any]:
        """Return the figures as the page's file has them."""
        return asdict(self) | {"passed": self.passed}


def judge(
    seconds: float,
    lives: dict[str, int],
    wrong: tuple[str, ...],
    orphans: int,
    samples: list[tuple[float, float]],
) -> Verdict:
    """Return the verdict; ``samples`` are times and MiB, those of the first sixth do not count."""
    late = [mib for when, mib in samples if when > min(300.0, seconds / 6)]
    median = statistics.median(late)
    return Verdict(
        minutes=seconds / 60,
        lives=lives,
        wrong=wrong,
        orphans=orphans,
        memory_mib=round(median, 1),
        lowest=round(min(late) / median, 3),
        highest=round(max(late) / median, 3),
        load=round(os.getloadavg()[1], 1),
    )
