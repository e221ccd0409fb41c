"""Speed, memory and remaining time of a run, measured and handed to the reporter."""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from qwenft_plan.progress import Progress
from qwenft_trainer.mesh import pick_device
from qwenft_trainer.report import Reporter
from qwenft_trainer.settings import Settings
from qwenft_trainer.trackers import END_SECONDS, FINISH_SECONDS, Trackers, about

WINDOW_STEPS = 50
"""Speed is taken over at most this many steps; it is the median step's, warm-up apart."""
GIB = 1024**3


class Meter:
    """Watches one attempt. ``reporter`` is None on all ranks but the first."""

    def __init__(self, settings: Settings, *, total: int, reporter: Reporter | None) -> None:
        self._settings = settings
        self._total = total
        self._step = 0
        self._reporter = reporter
        self._validation_loss: float | None = None
        self._rates: list[float] = []
        self._seconds: list[float] = []
        self._waits: list[float] = []
        self._last: dict[str, Any] = {}
        self._mark = time.monotonic()
        self.memory_gib: float | None = None
        self.trackers: Trackers | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Real tokens of all ranks a second, in the median of the last steps."""
        return _median(self._rates)

    @property
    def step_seconds(self) -> float | None:
        """How long a step takes, in the median of the last ones."""
        return _median(self._seconds)

    def start(self, *, step: int, validation_loss: float | None, **values: float | None) -> None:
        """Say where the run begins; ``values`` are told with it, as with a step."""
        self.memory_gib, self._step = peak_memory(), step
        if self._reporter is not None:
            told = about(self._settings, begin=step)
            self.trackers = Trackers(self._settings.spec.training.report_to, told)
        self.validated(validation_loss)
        self._report(step=step, **values)
        self._mark = time.monotonic()

    def validated(self, loss: float | None) -> None:
        """Note a new validation loss for the next report."""
        self._validation_loss = loss
        if self.trackers is not None:
            self.trackers.evaluated(self._step, loss)

    def stepped(self, *, step: int, tokens: int, **values: float | None) -> None:
        """Report an optimizer step that has just ended."""
        now, self._step = time.monotonic(), step
        seconds, self._mark = max(now - self._mark, 1e-9), now
        self._seconds = [*self._seconds, seconds][-WINDOW_STEPS:]
        self._rates = [*self._rates, tokens / seconds][-WINDOW_STEPS:]
        if step % WINDOW_STEPS == 1 or step == self._total:
            self.memory_gib = peak_memory()
        self._report(step=step, **values)

    def finish(self, result: Mapping[str, Any], *, step: int, **values: Any) -> None:
        """Report the end and hand the result over."""
        self.validated(values.pop("validation_loss"))
        self._report(step=step, **values)
        if self._reporter is not None:
            self._reporter.finish(result)
        self.close(patience=FINISH_SECONDS)

    def close(self, *, patience: float = END_SECONDS) -> None:
        """Hand over what reporter and trackers have not sent yet; takes seconds at the most.

        ``patience``: how many the trackers have.
        """
        if self._reporter is not None:
            self._reporter.close()
        if self.trackers is not None:
            self.trackers.close(patience=patience)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens inside out of the speed of steps."""
        began = time.monotonic()
        yield
        self._mark += time.monotonic() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside as the step's wait for its rows."""
        began = time.monotonic()
        yield
        self._waits = [*self._waits, time.monotonic() - began][-WINDOW_STEPS:]

    def _report(self, *, step: int, **values: Any) -> None:
        if self._reporter is None:
            return
        self._last |= values
        rate, seconds = self.tokens_per_second, self.step_seconds
        remaining = None if seconds is None else seconds * (self._total - step)
        predicted = self._settings.plan.predicted
        progress = Progress(
            attempt=self._settings.attempt,
            step=step,
            total_steps=self._total,
            validation_loss=self._validation_loss,
            tokens_per_second=rate,
            memory_gib=self.memory_gib,
            mfu=self._utilisation(rate),
            predicted_memory_gib=None if predicted is None else predicted.memory_gib,
            data_wait_seconds=_median(self._waits),
            estimated_remaining_seconds=remaining,
            plan_digest=self._settings.plan.digest,
            **self._last,
        )
        self._reporter.update(progress)
        if self.trackers is not None:
            self.trackers.update(progress)

    def _utilisation(self, rate: float | None) -> float | None:
        """Scale the plan's predicted utilisation by the measured speed: both are proportional."""
        predicted = self._settings.plan.predicted
        if predicted is None or rate is None or predicted.tokens_per_second <= 0:
            return None
        return predicted.mfu * rate / predicted.tokens_per_second


def peak_memory() -> float:
    """Return the peak memory of the fullest rank, GiB: the device's, or a CPU process's RSS."""
    device = pick_device()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device) / GIB
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    value = torch.tensor(peak, device=device)
    if dist.get_world_size() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return float(value)


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
