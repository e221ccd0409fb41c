"""Ports of servers that start later are free then, too."""

from __future__ import annotations

import socket

import loopback as ports


def test_no_outgoing_connection_is_given_such_a_port() -> None:
    first, last = map(int, ports._RANGE.read_text("ascii").split())
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert not [port for port in found if first <= port <= last]


def test_they_can_be_listened_on() -> None:
    for port in ports.free_ports(5):
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_on_which_somebody_listens_is_passed_over() -> None:
    (taken,) = ports.free_ports()
    chosen = iter([taken, taken, taken + 1])

    class Choice:
        @staticmethod
        def randrange(*_: int) -> int:
            return next(chosen)

    with socket.create_server(("127.0.0.1", taken)):
        kept, ports._CHOICE = ports._CHOICE, Choice  # type: ignore[assignment]
        try:
            found = ports.free_ports()
        finally:
            ports._CHOICE = kept
    assert found == [taken + 1]
