"""Which rows of a step make up a micro-batch, and which rank runs it.

A micro-batch is as wide as its widest row, so rows of like width belong together, and a micro-batch
of narrow rows may have more of them. What a step trains on is chosen before and is not changed
here, nor is the loss: it is a sum over all rows, divided by the tokens of the whole step.
"""

from collections.abc import Sequence

from qwenft_plan.plan import Plan

SET_UP = 256
"""Positions that take about as long as one more micro-batch does beside its own positions."""

Groups = tuple[tuple[int, ...], ...]


def is_free(plan: Plan) -> bool:
    """Tell whether micro-batches may differ in shape, from each other and between ranks.

    A pipeline's schedule is built for one shape, and split layers are compiled for one.
    """
    return plan.pp == 1 and plan.tp == 1


def arrange(widths: Sequence[int], *, ranks: int, most: int) -> tuple[Groups, ...]:
    """Return the micro-batches of each rank, as places in ``widths``; equally many on every rank.

    None has more than ``most`` positions (rows times the widest of them), or than the widest row of
    all has. There are as many as make the slowest rank fast. A rank that has run out of rows has
    empty ones.
    """
    order = sorted(range(len(widths)), key=lambda i: (-widths[i], i))
    falling = [widths[place] for place in order]
    fewest = -(-len(_runs(falling, most)) // ranks)
    best, least, count = _runs(falling, most), float("inf"), fewest
    while count * SET_UP + sum(widths) / ranks < least and (count - 1) * ranks < len(widths):
        runs = _evenly(falling, count * ranks, most)
        spent = max(_positions(falling, runs[rank::ranks]) for rank in range(ranks))
        if spent + count * SET_UP < least:
            best, least = runs, spent + count * SET_UP
        count += 1
    best += [range(0)] * (-len(best) % ranks)
    return tuple(
        tuple(tuple(order[i] for i in run) for run in best[rank::ranks]) for rank in range(ranks)
    )


def _positions(falling: Sequence[int], runs: Sequence[range]) -> int:
    return sum(len(run) * falling[run.start] for run in runs)


def _evenly(falling: Sequence[int], count: int, most: int) -> list[range]:
    """Cut rows into at most ``count`` runs (``most`` allows it), the largest as small as can be."""
    low, high = falling[0], max(falling[0], min(most, len(falling) * falling[0]))
    while low < high:
        middle = (low + high) // 2
        if len(_runs(falling, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return _runs(falling, low)


def _runs(falling: Sequence[int], limit: int) -> list[range]:
    """Cut rows into runs of at most ``limit`` positions, from the widest on."""
    runs, begin = [], 0
    while begin < len(falling):
        end = min(len(falling), begin + max(1, limit // falling[begin]))
        runs.append(range(begin, end))
        begin = end
    return runs
