"""Network cards that a container was given and cannot use are gone around, and said so."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenft_trainer import cards

PLAIN = "Name:\tpython\nCapEff:\t0000000000000000\n"
LOCKING = "Name:\tpython\nCapEff:\t0000000000004000\n"
OTHER = "CapEff:\t000000000000b000\n"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    folder = tmp_path / "infiniband"
    folder.mkdir()
    return folder


def status(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "status"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("text", [PLAIN, OTHER, ""])
def test_cards_whose_memory_cannot_be_locked_are_gone_around(
    device: Path, tmp_path: Path, text: str
) -> None:
    variables, message = cards.way_around(
        {}, devices=device, limit=64 * 1024, capabilities=status(tmp_path, text)
    )
    assert variables == {"NCCL_NET": "Socket"}
    assert "may lock only 64 KiB" in message
    assert "LimitMEMLOCK=infinity" in message


def test_without_a_file_of_capabilities_there_are_none(device: Path, tmp_path: Path) -> None:
    variables, _ = cards.way_around({}, devices=device, limit=0, capabilities=tmp_path / "absent")
    assert variables


@pytest.mark.parametrize(
    ("limit", "text"), [(cards.UNLIMITED, PLAIN), (64 * 1024, LOCKING), (cards.UNLIMITED, LOCKING)]
)
def test_cards_that_work_are_left_to_nccl(
    device: Path, tmp_path: Path, limit: int, text: str
) -> None:
    found = cards.way_around({}, devices=device, limit=limit, capabilities=status(tmp_path, text))
    assert found == ({}, "")


@pytest.mark.parametrize("name", ["NCCL_NET", "NCCL_IB_DISABLE", "NCCL_NET_PLUGIN"])
def test_who_has_chosen_is_not_overruled(device: Path, tmp_path: Path, name: str) -> None:
    found = cards.way_around(
        {name: "IB"}, devices=device, limit=0, capabilities=status(tmp_path, PLAIN)
    )
    assert found == ({}, "")


def test_a_container_without_cards_has_nothing_to_avoid(tmp_path: Path) -> None:
    assert cards.way_around({}, devices=tmp_path / "absent", limit=0) == ({}, "")


def test_this_system_answers_for_itself(device: Path) -> None:
    """Whatever this machine allows, the answer is one of the two."""
    variables, message = cards.way_around({}, devices=device)
    assert bool(variables) is bool(message)
