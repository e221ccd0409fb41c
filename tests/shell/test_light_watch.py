"""What kopf is kept from doing: reading whole pods, and copying every object for handlers of none.

The apiserver of these tests is a small HTTP server that writes down what it is asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import pytest
from aiohttp import web

from qwenft_operator import main, names, watches

PLAIN = "*/*"


async def _served(tmp_path: Path, *paths: str) -> list[str]:
    """Log in as the operator does, ask for the paths, and return what was accepted each time."""
    accepted: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        accepted.append(request.headers.get("Accept", ""))
        told = {"authorization": request.headers.get("Authorization", ""), "items": None}
        return web.json_response(told)

    for told in await _logged_in(tmp_path, answer, *paths):
        assert told["authorization"] == "Bearer secret"
        assert told["items"] == [], "of no pods the apiserver tells null"
    return accepted


async def _logged_in(
    tmp_path: Path, answer: Callable[[web.Request], Awaitable[web.Response]], *paths: str
) -> list[Any]:
    """Log in as the operator does, and return what it reads under the paths."""
    application = web.Application()
    application.router.add_get("/{rest:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    kubeconfig = _kubeconfig(tmp_path, server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        info = await main.login(settings=kopf.OperatorSettings(), logger=None)
    assert info is not None
    assert info.server == server
    found = []
    async with info.aiohttp_session as session:
        for path in paths:
            async with session.get(server + path) as response:
                found.append(await response.json())
    await runner.cleanup()
    return found


def _kubeconfig(folder: Path, server: str) -> Path:
    file = folder / "kubeconfig"
    document = {
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def accepted(tmp_path: Path, *paths: str) -> list[str]:
    return asyncio.run(_served(tmp_path, *paths))


@pytest.mark.parametrize("place", ["/api/v1/pods", "/api/v1/namespaces/team/pods"])
def test_of_pods_nothing_but_their_metadata_is_asked_for(tmp_path: Path, place: str) -> None:
    listed, watched = accepted(tmp_path, f"{place}?limit=500", f"{place}?watch=true")
    assert listed == "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    assert watched == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nodes?watch=true",
        "/apis/batch/v1/jobs",
        "/apis/qwenft.dev/v1alpha1/namespaces/pods/qwenfinetunes",
    ],
)
def test_everything_else_is_read_whole(tmp_path: Path, path: str) -> None:
    assert accepted(tmp_path, path) == [PLAIN]


def pod(run: str, *, namespace: str = "team", tracked: bool = True) -> dict[str, Any]:
    finalizers = ["batch.kubernetes.io/job-tracking"] if tracked else []
    labels = {names.LABEL_RUN: run}
    return {"metadata": {"namespace": namespace, "labels": labels, "finalizers": finalizers}}


async def _listed(path: str, items: list[Any]) -> list[Any]:
    """Return the items of a list as kopf gets them."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"items": items})

    application = web.Application()
    application.router.add_get(path, answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with (
        aiohttp.ClientSession(response_class=watches.Answer) as session,
        session.get(server + path) as response,
    ):
        found = await response.json()
    await runner.cleanup()
    return list(found["items"])


def test_of_a_list_of_pods_each_run_and_each_state_is_told_once() -> None:
    telling = [
        pod("a"), pod("b"), pod("a", namespace="other"), pod("a", tracked=False),
        {"metadata": {"namespace": "team"}},
    ]  # fmt: skip
    listed = asyncio.run(_listed("/api/v1/pods", [*telling, pod("a"), pod("b"), *telling]))
    assert listed == telling


def test_of_a_list_of_jobs_nothing_is_left_out() -> None:
    jobs = [pod("a"), pod("a")]
    assert asyncio.run(_listed("/apis/batch/v1/jobs", jobs)) == jobs


def test_a_list_is_read_in_pieces() -> None:
    settings = kopf.OperatorSettings()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main.App, "start", classmethod(_no_app))
        patch.setattr(main.logs, "install", lambda: None)
        asyncio.run(main.startup(settings=settings, memo=kopf.Memo()))
    assert settings.watching.chunk_size == 500


async def _no_app(*_: Any) -> None:
    return None


def test_nothing_is_compressed_for_a_network_that_is_faster_than_that(tmp_path: Path) -> None:
    compressed: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        compressed.append(request.headers.get("Accept-Encoding", ""))
        return web.json_response({"items": []})

    asyncio.run(_logged_in(tmp_path, answer, "/apis/batch/v1/jobs?limit=500"))
    assert compressed == ["identity"]


def test_without_credentials_nobody_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: None)
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: None)
    assert asyncio.run(main.login()) is None


def test_the_service_account_comes_before_the_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    info = kopf.ConnectionInfo(server="http://in-cluster", token="t", priority=20)  # noqa: S106
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: info)
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: pytest.fail("not asked"))

    async def scenario() -> tuple[str, int]:
        found = await main.login()
        assert found is not None
        await found.aiohttp_session.close()
        return found.server, found.priority

    assert asyncio.run(scenario()) == ("http://in-cluster", 20)


def test_no_object_is_copied_to_be_compared() -> None:
    storage = main.NoEssence()
    body: Any = kopf.Body({"metadata": {"name": "x"}, "spec": {"a": [1, 2]}})
    assert storage.build(body=body, extra_fields=["status"]) == {}
    assert storage.fetch(body=body) is None
    patch = kopf.Patch()
    storage.store(body=body, patch=patch, essence=storage.build(body=body))
    assert not patch, "nothing is ever written onto an object for kopf's own sake"
