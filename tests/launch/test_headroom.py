"""How much memory is free, as the kernel's files tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenft_trainer.headroom import available_bytes

MEMINFO = "MemTotal:       8000 kB\nMemFree:        100 kB\nMemAvailable:   {kb} kB\n"


def kernel(folder: Path, *, kb: int | None = None, **group: object) -> float:
    """Return what is made of these files; those not given are absent."""
    if kb is not None:
        (folder / "meminfo").write_text(MEMINFO.format(kb=kb))
    for name, content in group.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")
    return available_bytes(folder / "meminfo", folder)


def test_the_machines_free_memory_counts_in_bytes(tmp_path: Path) -> None:
    assert kernel(tmp_path, kb=3000) == 3000 * 1024


def test_a_containers_limit_counts_where_it_is_nearer(tmp_path: Path) -> None:
    assert kernel(tmp_path, kb=3000, max=500_000, current=200_000) == 300_000


def test_the_machine_counts_where_it_is_nearer_than_the_limit(tmp_path: Path) -> None:
    assert kernel(tmp_path, kb=3, max=500_000, current=200_000) == 3 * 1024


def test_the_file_cache_makes_way(tmp_path: Path) -> None:
    stat = "anon 150000\ninactive_file 40000\nactive_file 7"
    assert kernel(tmp_path, max=500_000, current=490_000, stat=stat) == 50_000


def test_a_container_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert kernel(tmp_path, max=500_000, current=600_000) == 0.0


@pytest.mark.parametrize("limit", ["max", "", "?"])
def test_a_container_without_a_limit_may_take_what_there_is(tmp_path: Path, limit: str) -> None:
    assert kernel(tmp_path, kb=7, max=limit, current=1) == 7 * 1024


def test_a_kernel_that_tells_nothing_sets_no_limit(tmp_path: Path) -> None:
    assert kernel(tmp_path) == float("inf")
