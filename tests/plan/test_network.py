"""Collectives take latency and volume over bandwidth; groups across nodes share the network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planning import DEVICE, UNFUSED, work
from qwenft_plan.hardware import cpu_device
from qwenft_plan.network import Span, collective, span
from qwenft_plan.workload import Workload

GROUP = Span(ranks=4, in_node=4, bandwidth=1e9, latency=1e-3)


def latencies(ranks: int, stride: int = 1) -> float:
    """Return the latency of a group whose every source of latency is a power of ten."""
    device = replace(DEVICE, link_latency=1.0, network_latency=10.0)
    runtime = replace(UNFUSED, collective=1000.0, collective_rank=100.0)
    return span(work(runtime=runtime, device=device), ranks=ranks, stride=stride).latency


@pytest.mark.parametrize(
    ("ranks", "stride", "in_node"),
    [
        (1, 1, 1),
        (2, 1, 2),
        (8, 1, 8),
        (16, 1, 8),
        (4, 2, 4),
        (8, 2, 4),
        (2, 4, 2),
        (4, 4, 2),
        (2, 8, 1),
        (4, 16, 1),
    ],
)
def test_ranks_lie_on_nodes_as_their_stride_says(ranks: int, stride: int, in_node: int) -> None:
    assert span(work(), ranks=ranks, stride=stride).in_node == in_node


@pytest.mark.parametrize(
    ("ranks", "stride", "in_node"), [(6, 1, 6), (12, 1, 6), (2, 6, 1), (3, 2, 3), (4, 4, 1)]
)
def test_nodes_need_not_have_a_power_of_two_of_devices(
    ranks: int, stride: int, in_node: int
) -> None:
    assert span(work(per_node=6), ranks=ranks, stride=stride).in_node == in_node


@pytest.mark.parametrize(("ranks", "stride"), [(2, 1), (8, 1), (4, 2), (2, 4)])
def test_a_group_inside_a_node_has_a_share_of_the_link(ranks: int, stride: int) -> None:
    bandwidth = span(work(), ranks=ranks, stride=stride).bandwidth
    assert 0.5 * DEVICE.link < bandwidth <= DEVICE.link
    assert bandwidth == span(work(), ranks=8, stride=1).bandwidth


def test_a_group_over_whole_nodes_has_a_share_of_the_node_s_network() -> None:
    bandwidth = span(work(), ranks=16, stride=1).bandwidth
    assert 0.5 * DEVICE.network < bandwidth <= DEVICE.network


@pytest.mark.parametrize(
    ("ranks", "stride", "groups"), [(8, 2, 2), (4, 4, 4), (2, 8, 8), (16, 8, 8)]
)
def test_groups_that_leave_a_node_side_by_side_share_its_network(
    ranks: int, stride: int, groups: int
) -> None:
    whole = span(work(), ranks=16, stride=1).bandwidth
    shared = span(work(), ranks=ranks, stride=stride).bandwidth
    assert shared == pytest.approx(whole / groups)


def test_a_network_faster_than_the_link_does_not_make_a_ring_faster_than_the_link() -> None:
    fast = work(device=replace(DEVICE, network=1e15))
    inside, across = (span(fast, ranks=ranks, stride=1).bandwidth for ranks in (8, 16))
    assert inside == across


def test_one_process_a_node_has_the_whole_network() -> None:
    alone = span(work(per_node=1), ranks=2, stride=1)
    assert (alone.in_node, alone.bandwidth) == (1, span(work(), ranks=16, stride=1).bandwidth)


def test_processes_on_one_cpu_node_have_the_whole_link() -> None:
    cpu = cpu_device(cpus=1)
    assert span(work(device=cpu), ranks=4, stride=1).bandwidth == cpu.link


@pytest.mark.parametrize(
    ("ranks", "stride", "expected"),
    [
        (2, 1, 1001),
        (3, 1, 1101),
        (8, 1, 1601),
        (16, 1, 1601 + 10),
        (64, 1, 1601 + 30),
        (2, 8, 1001 + 10),
        (8, 8, 1001 + 30),
        (4, 4, 1001 + 10),
    ],
)
def test_latency_grows_with_ranks_in_a_node_and_with_the_logarithm_of_nodes(
    ranks: int, stride: int, expected: float
) -> None:
    assert latencies(ranks, stride) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "ranks", "passes"),
    [
        ("all_reduce", 2, 1.0),
        ("all_reduce", 4, 1.5),
        ("all_reduce", 8, 1.75),
        ("gather", 2, 0.5),
        ("gather", 4, 0.75),
        ("gather", 8, 0.875),
        ("send", 2, 1.0),
    ],
)
def test_a_ring_moves_its_share_of_the_volume_through_each_rank(
    kind: str, ranks: int, passes: float
) -> None:
    seconds = collective(replace(GROUP, ranks=ranks), 1e9, kind=kind)
    assert seconds == pytest.approx(1e-3 + passes)


@pytest.mark.parametrize("kind", ["all_reduce", "gather", "send"])
def test_a_group_of_one_talks_to_nobody(kind: str) -> None:
    assert collective(replace(GROUP, ranks=1), 1e9, kind=kind) == 0.0


@pytest.mark.parametrize("kind", ["all_reduce", "gather", "send"])
def test_nothing_to_move_takes_no_time(kind: str) -> None:
    assert collective(GROUP, 0.0, kind=kind) == 0.0


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather_in_one_call() -> None:
    both = 2 * collective(GROUP, 1e9, kind="gather")
    assert collective(GROUP, 1e9, kind="all_reduce") == pytest.approx(both - GROUP.latency)


@pytest.mark.parametrize("kind", ["all_reduce", "gather", "send"])
@pytest.mark.parametrize("field", ["bandwidth", "latency"])
def test_a_better_link_is_faster(kind: str, field: str) -> None:
    factor = 2.0 if field == "bandwidth" else 0.5
    better = replace(GROUP, **{field: factor * getattr(GROUP, field)})
    assert collective(better, 1e9, kind=kind) < collective(GROUP, 1e9, kind=kind)


@pytest.mark.parametrize(
    ("megabytes", "busbw"), [(3, 59e9), (16, 131e9), (66, 201e9), (1000, 229e9)]
)
def test_the_formula_reproduces_all_reduces_measured_on_eight_a100(
    megabytes: float, busbw: float
) -> None:
    fitted = Span(ranks=8, in_node=8, bandwidth=231e9, latency=69e-6)
    volume = megabytes * 1e6
    measured = 1.75 * volume / busbw
    assert collective(fitted, volume, kind="all_reduce") == pytest.approx(measured, rel=0.15)


def test_a_hundred_times_slower_network_is_a_hundred_times_slower() -> None:
    def seconds(question: Workload) -> float:
        return collective(span(question, ranks=16, stride=1), 1e9, kind="gather")

    slow = work(device=replace(DEVICE, network=DEVICE.network / 100))
    assert seconds(slow) == pytest.approx(100 * seconds(work()))
