"""Lists through the real cluster port: pages, age, and what is read of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwenft_operator import names
from qwenft_operator.cluster import ApiCluster
from qwenft_operator.excerpts import ListedPod
from qwenft_operator.port import Refused, Unavailable
from serving.apiserver import answering, ask


def test_a_list_is_filtered_by_the_server_and_read_page_by_page() -> None:
    apiserver = answering(
        (200, {"items": [{"n": 1}], "metadata": {"continue": "more"}}),
        (200, {"items": [{"n": 2}], "metadata": {}}),
    )
    selectors = {"labels": "a=b", "fields": "c=d"}
    found = ask(apiserver, lambda c: c.list("Pod", "team", **selectors))
    assert found == ({"n": 1}, {"n": 2})
    first, second = (asked["query"] for asked in apiserver.asked)
    assert (first["labelSelector"], first["fieldSelector"]) == ("a=b", "c=d")
    assert "continue" not in first
    assert apiserver.asked[0]["encoding"] == "identity", "gzip would cost more than the list"
    assert second["continue"] == "more"


def test_of_a_list_only_what_is_asked_for_is_read() -> None:
    metadata = {"labels": {"a": "b"}, "managedFields": [{}]}
    apiserver = answering(
        (200, {"items": [{"metadata": metadata}], "metadata": {"continue": "more"}}),
        (200, {"items": [{"spec": {"nodeName": "n", "hostname": "h"}}], "metadata": {}}),
        (200, {"items": None, "metadata": {}}),
    )
    found = ask(apiserver, lambda c: c.list("Pod", "team", shape=ListedPod))
    assert found == ({"metadata": {"labels": {"a": "b"}}}, {"spec": {"nodeName": "n"}})
    assert ask(apiserver, lambda c: c.list("Pod", "team", shape=ListedPod)) == ()


@pytest.mark.parametrize("garbage", ["<html>", '{"items": 3}', '{"items": [{"spec": "x"}]}', ""])
def test_a_list_that_cannot_be_read_is_asked_for_again_later(garbage: str) -> None:
    apiserver = answering((200, garbage))
    with pytest.raises(Unavailable, match="/pods: the list cannot be read"):
        ask(apiserver, lambda c: c.list("Pod", shape=ListedPod))


def test_a_refused_list_says_why_whatever_was_to_be_read() -> None:
    apiserver = answering((403, {"message": "no right to list pods"}))
    with pytest.raises(Refused, match="no right to list pods"):
        ask(apiserver, lambda c: c.list("Pod", shape=ListedPod))


def test_a_list_that_grew_old_between_two_pages_is_read_anew() -> None:
    apiserver = answering(
        (200, {"items": [{"n": 1}], "metadata": {"continue": "more"}}),
        (410, {"message": "too old"}),
        (200, {"items": [{"n": 1}, {"n": 2}], "metadata": {}}),
    )
    assert ask(apiserver, lambda c: c.list("Pod")) == ({"n": 1}, {"n": 2})
    assert "continue" not in apiserver.asked[2]["query"]


def aged(version: str) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version}}


JOB = {"kind": "Job", "metadata": {"name": "tiny-1", "namespace": "team"}}


@pytest.mark.parametrize("version", ["99", "100", "", "opaque"])
def test_a_list_that_does_not_know_what_was_written_before_is_no_answer(version: str) -> None:
    async def apply_and_list(cluster: ApiCluster) -> Any:
        await cluster.apply(JOB)
        assert await cluster.list("Pod") == (), "other kinds may lie in another store"
        return await cluster.list("Job")

    apiserver = answering((201, aged("100")), (200, aged("7")), (200, aged(version)))
    if version != "99":
        assert ask(apiserver, apply_and_list) == ()
        return
    with pytest.raises(Unavailable, match="of version 99, 100 was seen before"):
        ask(apiserver, apply_and_list)


def test_a_list_that_was_asked_for_before_a_write_may_be_older_than_it() -> None:
    async def both(cluster: ApiCluster) -> Any:
        listing = asyncio.create_task(cluster.list("Job"))
        await asyncio.sleep(0)
        cluster._note_age("Job", aged("100"))
        return await listing

    assert ask(answering((200, aged("99"))), both) == ()


def test_lists_of_runs_may_not_be_older_than_the_status_that_was_written() -> None:
    async def write_and_list(cluster: ApiCluster) -> Any:
        await cluster.replace_status(
            {"metadata": {"name": "tiny", "namespace": "team"}, "status": {}}
        )
        return await cluster.list(names.KIND)

    with pytest.raises(Unavailable):
        ask(answering((200, aged("100")), (200, aged("99"))), write_and_list)
