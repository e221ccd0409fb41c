"""What finished runs taught: bounded corrections of predictions, by device, family and shape.

The operator keeps what was predicted and what was measured of its own runs in a ConfigMap, one key
a kind of run. A correction is the median of measured over predicted, drawn while runs are few
towards what its kin taught (runs of other shapes on the same device, with micro-batches of about
the same work), and that towards one. It never leaves its bounds: wrong or hostile measurements can
shift a prediction by so much and no more.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from qwenft_plan.workload import Layout, Workload

__all__ = ["NO_LESSONS", "UNTAUGHT", "Experience", "Lesson", "Lessons", "Pair", "lesson_key"]

SPEED_BOUNDS = (0.7, 1.3)
"""Measured over predicted speed stays within these."""

MEMORY_BOUNDS = (0.97, 1.25)
"""Measured over predicted memory: more is believed sooner than less, which could end in a crash."""

KEPT_RUNS, KEPT_KEYS = 16, 64
"""Runs of one kind, and kinds of runs, that are remembered; older ones are forgotten."""

_PRIOR = 2.0  # runs that the prediction without them weighs as much as
_KIN_PRIOR = 4.0  # the same for runs of other shapes, which tell less
_KIN_DECADES = 1  # a micro-batch of less work is ruled by launches and latencies, not by its plan
_SANE = (0.01, 100.0)
_MOST_TEXT = 16_384
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,200}")
_NAME = re.compile(r"[-.\w]{1,64}")
_ENDED = re.compile(r"[-:.TZ0-9]{0,32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One quantity of one run, predicted (without any correction) and measured."""

    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """One finished run. `run` is its uid: a run is counted once. `ended`: when, RFC 3339."""

    run: str
    ended: str = ""
    memory: Pair
    """GiB of the fullest device."""
    speed: Pair
    """Tokens a second of the whole run."""
    mfu: Pair | None = None

    @property
    def is_sane(self) -> bool:
        """Whether measurement and prediction can be of one run."""
        pairs = (self.memory, self.speed, *((self.mfu,) if self.mfu is not None else ()))
        return all(_is_sane(pair) for pair in pairs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """Factors on predicted speed and memory, and the runs behind them.

    `runs` were of the very kind, `kin` of other shapes on the same device and of similar work.
    """

    speed: float = 1.0
    memory: float = 1.0
    runs: int = 0
    kin: int = 0


UNTAUGHT = Lesson()
"""The correction before any run has finished: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lessons:
    """Everything learnt so far: key → finished runs, oldest first."""

    runs: Mapping[str, tuple[Experience, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """What could not be read, a sentence each."""

    @classmethod
    def from_data(cls, data: Mapping[str, str]) -> Lessons:
        """Read a ConfigMap's data; what cannot be read counts for nothing and is named."""
        runs: dict[str, tuple[Experience, ...]] = {}
        ignored: list[str] = []
        for key, text in sorted(data.items()):
            good, bad = _read(key, text)
            runs |= {key: good} if good else {}
            ignored += [f"{key[:64]!r}: {bad}"] if bad else []
        return cls(runs=_newest(runs), ignored=tuple(ignored))

    def lesson(self, key: str) -> Lesson:
        """Return the correction for one kind of run."""
        own = self.runs.get(key, ())
        kin = [run for other, runs in self.runs.items() if _is_kin(other, key) for run in runs]
        if not own and not kin:
            return UNTAUGHT
        return Lesson(
            speed=_factor([r.speed.ratio for r in own], [r.speed.ratio for r in kin], SPEED_BOUNDS),
            memory=_factor(
                [r.memory.ratio for r in own], [r.memory.ratio for r in kin], MEMORY_BOUNDS
            ),
            runs=len(own),
            kin=len(kin),
        )

    def knows(self, run: str) -> bool:
        """Return whether the run of this uid is among the lessons."""
        return any(known.run == run for runs in self.runs.values() for known in runs)

    def after(self, key: str, experience: Experience) -> Lessons:
        """Return the lessons with one more run; unchanged for a run known already or not sane."""
        if self.knows(experience.run) or not experience.is_sane:
            return self
        kept = (*self.runs.get(key, ()), experience)[-KEPT_RUNS:]
        others = {other: runs for other, runs in self.runs.items() if other != key}
        return Lessons(runs=_newest(others, KEPT_KEYS - 1) | {key: kept})

    def to_data(self) -> dict[str, str]:
        """Return the ConfigMap's data, a run a line; equal lessons give equal bytes."""
        return {key: _written(runs) for key, runs in sorted(self.runs.items()) if runs}


NO_LESSONS = Lessons()
"""Before the first run has finished."""


def lesson_key(work: Workload, layout: Layout) -> str:
    """Return the ConfigMap key of a kind of run.

    It names the device, the model's family, the method, the plan's shape and, as ``e`` and a power
    of ten, the work of a micro-batch on one device: parameters times tokens.
    """
    family = "qwen3" if work.model.qk_norm else "qwen2" if work.model.qkv_bias else "llama"
    shape = f"tp{layout.tp}.pp{layout.pp}.{layout.checkpointing}"
    decade = _decade(work, layout)
    method = work.method.kind
    if work.method.optimizer != "adamw":
        method += f"-{work.method.optimizer}"
    if work.method.offload_optimizer:
        method += "-offload"
    return f"{work.device.name}.{family}.{method}.{work.precision}.{shape}.e{decade}"


def _decade(work: Workload, layout: Layout) -> int:
    tokens = layout.micro_batch * work.sequence_length
    share = layout.tp * layout.pp * layout.cp
    return int(math.log10(max(work.model.parameters * tokens / share, 1.0)))


def _is_kin(other: str, key: str) -> bool:
    """Whether two different keys share device, family and method, and nearly the work."""
    (pool, decade), (its_pool, its_decade) = _pool(key), _pool(other)
    return other != key and pool == its_pool and abs(decade - its_decade) <= _KIN_DECADES


def _pool(key: str) -> tuple[str, int]:
    """Return a key's device, family and method in one, and the decade of its work; -1 without."""
    pool, _, shape = key.partition(".tp")
    decade = shape.rpartition(".e")[2]
    return pool, int(decade) if decade.isascii() and decade.isdigit() else -1


def _factor(own: list[float], kin: list[float], bounds: tuple[float, float]) -> float:
    """Median ratio, shrunk on the logarithm towards that of the kin, within its bounds."""
    shared = len(kin) / (len(kin) + _KIN_PRIOR) * math.log(median(kin)) if kin else 0.0
    weight = len(own) / (len(own) + _PRIOR)
    value = math.exp(weight * math.log(median(own)) + (1 - weight) * shared if own else shared)
    return min(max(value, bounds[0]), bounds[1])


def _newest(
    runs: Mapping[str, tuple[Experience, ...]], most: int = KEPT_KEYS
) -> dict[str, tuple[Experience, ...]]:
    """Keep the kinds of runs of which one ended last; equal input gives equal output."""
    keys = sorted(runs, key=lambda key: (max(run.ended for run in runs[key]), key))[-most:]
    return {key: runs[key] for key in sorted(keys)}


def _is_sane(pair: Pair) -> bool:
    numbers = (pair.predicted, pair.measured)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        return False
    return _SANE[0] < pair.ratio < _SANE[1]


def _written(runs: Iterable[Experience]) -> str:
    return "[" + ",\n ".join(json.dumps(_mapping(run)) for run in runs) + "]\n"


def _mapping(run: Experience) -> dict[str, Any]:
    pairs = {"memoryGiB": run.memory, "tokensPerSecond": run.speed, "mfu": run.mfu}
    numbers = {
        name: {"predicted": _rounded(pair.predicted), "measured": _rounded(pair.measured)}
        for name, pair in pairs.items()
        if pair is not None
    }
    return {"run": run.run, "ended": run.ended, **numbers}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _read(key: str, text: object) -> tuple[tuple[Experience, ...], str]:
    """Return the runs that a key's text tells of, and what is wrong with the rest."""
    if _KEY.fullmatch(key) is None:
        return (), "is no kind of run"
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        return (), f"is no text of at most {_MOST_TEXT} characters"
    try:
        entries: Any = json.loads(text)
    except (ValueError, RecursionError):
        return (), "is not JSON"
    if not isinstance(entries, list):
        return (), "is no list of runs"
    return _unique(entries)


def _unique(entries: Sequence[object]) -> tuple[tuple[Experience, ...], str]:
    found: dict[str, Experience] = {}
    for entry in entries:
        run = _experience(entry)
        if run is not None:
            found.setdefault(run.run, run)
    bad = len(entries) - len(found)
    good = tuple(found.values())[-KEPT_RUNS:]
    return good, f"{bad} of {len(entries)} entries are no sound runs" if bad else ""


def _experience(entry: object) -> Experience | None:
    if not isinstance(entry, Mapping):
        return None
    run, ended = entry.get("run"), entry.get("ended", "")
    if not (isinstance(run, str) and _NAME.fullmatch(run)):
        return None
    if not (isinstance(ended, str) and _ENDED.fullmatch(ended)):
        return None
    memory, speed = _pair(entry.get("memoryGiB")), _pair(entry.get("tokensPerSecond"))
    if memory is None or speed is None:
        return None
    found = Experience(
        run=run, ended=ended, memory=memory, speed=speed, mfu=_pair(entry.get("mfu"))
    )
    return found if found.is_sane else None


def _pair(value: object) -> Pair | None:
    if not isinstance(value, Mapping):
        return None
    numbers = (value.get("predicted"), value.get("measured"))
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in numbers):
        return None
    try:
        predicted, measured = map(float, numbers)  # type: ignore[arg-type]
    except OverflowError:
        return None
    return Pair(predicted=predicted, measured=measured)
