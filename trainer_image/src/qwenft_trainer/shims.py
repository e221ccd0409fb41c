"""What a user's script finds changed when it starts: see :func:`installed`."""

from collections.abc import Iterator
from contextlib import contextmanager

from qwenft_plan.plan import Plan


@contextmanager
def installed(plan: Plan | None) -> Iterator[None]:
    """Give the script its surroundings."""
    del plan
    yield
