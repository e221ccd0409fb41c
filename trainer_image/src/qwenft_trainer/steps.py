"""Progress of a user's script, which reports nothing itself: its optimizer's steps are counted.

How many steps will come is the script's secret, so reports carry no total and no remaining time.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from qwenft_plan.progress import Progress
from qwenft_trainer.option import Session
from qwenft_trainer.report import INTERVAL_SECONDS, Reporter


@contextmanager
def reported(session: Session, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Report the script's steps while it runs, and their number at its end. For rank 0."""
    # Standard output is the script's own; reports go to the operator only.
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no path is at hand
        reporter = Reporter(environ, stream=nowhere)
        count = StepCount(session, reporter, attempt=int(environ.get("QWENFT_ATTEMPT") or 1))
        handle = register_optimizer_step_post_hook(count)
        try:
            yield
            reporter.finish(count.result())
        finally:
            handle.remove()
            reporter.close()


class StepCount:
    """Hook that runs after each optimizer step."""

    def __init__(self, session: Session, reporter: Reporter, *, attempt: int) -> None:
        self.steps = 0
        self._session = session
        self._reporter = reporter
        self._attempt = attempt
        self._next = float("-inf")

    def __call__(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Count; report only so often, since reading the loss waits for the device."""
        self.steps += 1
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + INTERVAL_SECONDS
        rate = float(optimizer.param_groups[0]["lr"])
        self._reporter.update(
            Progress(
                attempt=self._attempt,
                step=self.steps,
                total_steps=0,
                loss=self._loss(),
                learning_rate=rate,
                plan_digest=self._session.plan.digest,
            )
        )

    def result(self) -> dict[str, Any]:
        """Return what the termination message says of a finished script."""
        loss = self._loss()
        return {"steps": self.steps} | ({} if loss is None else {"finalLoss": loss})

    def _loss(self) -> float | None:
        losses = [model.last_loss for model in self._session.models if model.last_loss is not None]
        return losses[-1].item() if losses else None
