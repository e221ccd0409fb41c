"""The bench's client of the apiserver outlives the connection that it keeps."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from bare.api import Api


class Connection:
    """Ends the first exchange of each connection but the last, as a server that has shut it."""

    def __init__(self, ends: int) -> None:
        self.ends, self.asked, self.closed = ends, 0, 0
        self.status = 200

    def request(self, *_: Any, **__: Any) -> None:
        self.asked += 1

    def getresponse(self) -> Connection:
        if self.asked <= self.ends:
            raise http.client.RemoteDisconnected("closed without response")
        return self

    def read(self) -> bytes:
        return b'{"items": [1]}'

    def close(self) -> None:
        self.closed += 1


def client(connection: Connection) -> Api:
    made = Api.__new__(Api)
    made._connection = connection  # type: ignore[assignment]
    return made


def test_a_connection_that_was_ended_while_it_rested_is_made_anew() -> None:
    connection = Connection(ends=1)
    api = client(connection)
    assert api.call("GET", "/x") == {"items": [1]}
    assert (connection.asked, connection.closed) == (2, 1)


@pytest.mark.parametrize(("method", "ends", "asked"), [("POST", 1, 1), ("GET", 2, 2)])
def test_no_write_is_sent_twice_and_nothing_for_ever(method: str, ends: int, asked: int) -> None:
    connection = Connection(ends=ends)
    api = client(connection)
    with pytest.raises(http.client.RemoteDisconnected):
        api.call(method, "/x", {})
    assert (connection.asked, connection.closed) == (asked, asked)
