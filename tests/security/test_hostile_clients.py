"""Clients that mean harm, at the progress endpoint: refused, and the operator goes on working."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qwenft_operator import names
from qwenft_operator.door import Busy, Door, Gate, Pace
from qwenft_operator.port import Identity
from qwenft_operator.progress_server import ProgressServer
from qwenft_operator.reconcile import Key
from serving import OWN, Call, make_certificates, serve, serve_raw, world_with_pods
from simulated import World

REPORT = b'{"qwenft": {"attempt": 1, "step": 5, "totalSteps": 10}}'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def pod_of(world: World, namespace: str, **labels: str) -> None:
    """Let somebody make a pod with labels of their choice, and get a token for it."""
    wanted = {"qwenft.dev/run": "tiny", "qwenft.dev/attempt": "1"} | labels
    metadata: dict[str, Any] = {"name": "mine", "namespace": namespace, "labels": wanted}
    pod = world.put({"kind": "Pod", "metadata": metadata, "spec": {}, "status": {}})
    uid = pod["metadata"]["uid"]
    world.tokens["mine"] = Identity(namespace=namespace, pod="mine", pod_uid=uid)


def uid_of(world: World) -> str:
    return str(world.objects[names.KIND, "team", "tiny"]["metadata"]["uid"])


def refused(world: World, certificates: Path, status: int = 401, **arguments: Any) -> None:
    """Check that the report is refused, and nothing of it reaches the run."""

    async def scenario(call: Call) -> None:
        code, text = await call(**arguments)
        assert code == status, text

    assert serve(world, certificates, scenario) == []
    assert world.reports.newest(uid_of(world)) is None


def test_a_pod_of_another_namespace_cannot_speak_for_a_run_by_wearing_its_uid(
    certificates: Path,
) -> None:
    world = world_with_pods()
    pod_of(world, "foreign", **{"qwenft.dev/run-uid": uid_of(world)})
    refused(world, certificates, token="mine", namespace="foreign")  # noqa: S106


def test_nor_where_the_other_namespace_has_a_run_of_that_name(certificates: Path) -> None:
    world = world_with_pods()
    world.put(
        {
            "kind": names.KIND,
            "metadata": {"name": "tiny", "namespace": "foreign"},
            "spec": {},
            "status": {"attempt": 1},
        }
    )
    pod_of(world, "foreign", **{"qwenft.dev/run-uid": uid_of(world)})
    refused(world, certificates, token="mine", namespace="foreign")  # noqa: S106


def test_an_attempt_that_was_never_made_cannot_report(certificates: Path) -> None:
    world = world_with_pods()
    pod_of(world, "team", **{"qwenft.dev/run-uid": uid_of(world), "qwenft.dev/attempt": "999"})
    body = {"qwenft": OWN | {"attempt": 999}}
    refused(world, certificates, token="mine", body=body)  # noqa: S106


@pytest.mark.parametrize(
    "labels",
    [{"qwenft.dev/run": ""}, {"qwenft.dev/run-uid": ""}, {"qwenft.dev/attempt": "-1"},
     {"qwenft.dev/attempt": "first"}],
)  # fmt: skip
def test_a_pod_that_is_no_trainer_cannot_report(certificates: Path, labels: dict[str, str]) -> None:
    world = world_with_pods()
    pod_of(world, "team", **({"qwenft.dev/run-uid": uid_of(world)} | labels))
    refused(world, certificates, token="mine")  # noqa: S106


def test_a_run_that_was_deleted_takes_no_reports(certificates: Path) -> None:
    world = world_with_pods()
    uid = uid_of(world)
    del world.objects[names.KIND, "team", "tiny"]

    async def scenario(call: Call) -> None:
        assert (await call())[0] == 401

    assert serve(world, certificates, scenario) == []
    assert world.reports.newest(uid) is None


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "nonsense"])
def test_a_body_is_never_unfolded(certificates: Path, encoding: str) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    world = world_with_pods()

    async def scenario(call: Call) -> None:
        code, _ = await call(data=bomb, encoding=encoding)
        assert code == 400
        assert (await call())[0] == 200

    serve(world, certificates, scenario)


HOSTILE = [
    b"", b"\x00", b"null", b"1e999", b'"' + b"\\ud800" * 9 + b'"', b"\xff\xfe", b"{" * 30_000,
    b'{"qwenft": [1]}', b'{"qwenft": {"attempt": 1, "step": -1, "totalSteps": 1}}',
    b'{"qwenft": {"attempt": 1e400, "step": 1, "totalSteps": 1}}',
    b'{"qwenft": {"attempt": 1, "step": ' + b"9" * 5000 + b', "totalSteps": 1}}',
    b'{"trainerStatus": {"progressPercentage": NaN}}',
    b'{"trainerStatus": {"metrics": {"a": 1}, "progressPercentage": "x"}}',
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_a_malformed_body_is_refused_as_such(certificates: Path, data: bytes) -> None:
    refused(world_with_pods(), certificates, 400, data=data)


@pytest.mark.parametrize("token", ["x" * 7000, "a.b.c", "token-0 extra", "ÿ", "../token-0"])
def test_an_odd_token_is_nobody_s(certificates: Path, token: str) -> None:
    refused(world_with_pods(), certificates, token=token)


Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(port: int, certificates: Path) -> Opened:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)


def request(token: str = "token-0", *, length: int = len(REPORT)) -> bytes:  # noqa: S107
    lines = [
        f"POST {names.progress_path('team', 'tiny')} HTTP/1.1", "Host: operator",
        f"Authorization: Bearer {token}", f"Content-Length: {length}", "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


async def answer(stream: Opened) -> bytes:
    """Return the status line; empty where the connection was cut."""
    try:
        return await asyncio.wait_for(stream[0].readline(), 10)
    except ConnectionError:
        return b""


async def works(port: int, certificates: Path) -> None:
    """Check that an honest report is taken, whatever else goes on."""
    stream = await opened(port, certificates)
    stream[1].write(request() + REPORT)
    assert await answer(stream) == b"HTTP/1.1 200 OK\r\n"
    stream[1].close()


@pytest.mark.parametrize(
    "beginning",
    [b"", b"POST /", request()[:-2], request(), request() + REPORT[:-1], request(length=2**40)],
    ids=["silence", "line", "headers", "no body", "most of the body", "endless body"],
)
def test_a_client_that_never_finishes_is_cut_off(certificates: Path, beginning: bytes) -> None:
    door = Door(seconds=0.3)

    async def scenario(_server: ProgressServer, port: int) -> None:
        slow = await opened(port, certificates)
        slow[1].write(beginning)
        await works(port, certificates)
        rest = asyncio.create_task(slow[0].read())
        try:
            told = await asyncio.wait_for(rest, 5)
        except ConnectionError:
            told = b""
        assert b" 200 " not in told
        slow[1].close()
        await until(lambda: door.open == 0)
        await works(port, certificates)

    serve_raw(world_with_pods(), certificates, scenario, door=door)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "sent",
    [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"A" * 20_000 + b"\r\n\r\n",
     b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
     request().replace(b"Content-Length: 55", b"Transfer-Encoding: chunked") + b"zz\r\n"],
    ids=range(7),
)  # fmt: skip
def test_nonsense_is_not_answered_by_a_traceback(
    certificates: Path, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    async def scenario(_server: ProgressServer, port: int) -> None:
        stream = await opened(port, certificates)
        stream[1].write(sent)
        assert b" 200 " not in await answer(stream)
        stream[1].close()
        await works(port, certificates)

    serve_raw(world_with_pods(), certificates, scenario)
    assert [record for record in caplog.records if record.exc_info] == []


def test_one_address_gets_so_many_connections_and_no_more(certificates: Path) -> None:
    door = Door(most_of_one=5)

    async def scenario(_server: ProgressServer, port: int) -> None:
        held = [await opened(port, certificates) for _ in range(5)]
        await until(lambda: door.open == 5)
        surplus = await opened(port, certificates)
        surplus[1].write(request() + REPORT)
        assert await answer(surplus) == b""
        held.pop()[1].close()
        await until(lambda: door.open == 4)
        await works(port, certificates)
        for _, writer in held:
            writer.close()

    serve_raw(world_with_pods(), certificates, scenario, door=door)


def test_a_flood_of_made_up_tokens_asks_the_apiserver_few_questions_at_once(
    certificates: Path,
) -> None:
    world = world_with_pods()
    asking, most, let_go = 0, 0, asyncio.Event()

    async def slow_review(_token: str, _audience: str) -> Identity | None:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await let_go.wait()
        asking -= 1
        return None

    async def scenario(call: Call) -> None:
        assert (await call())[0] == 200  # from now on its token is known
        world.review_token = slow_review  # type: ignore[method-assign]
        flood = [asyncio.create_task(call(token=f"made-up-{i}")) for i in range(40)]
        done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result()[0] for task in done} == {429}
        assert (await call())[0] == 200, "who is known gets in during the flood"
        let_go.set()
        codes = [(await task)[0] for task in flood]
        assert sorted(set(codes)) == [401, 429]

    serve(world, certificates, scenario)
    assert most <= 4


def test_reports_without_pause_wake_the_run_once_a_second_at_most(certificates: Path) -> None:
    world = world_with_pods()

    async def scenario(call: Call) -> None:
        for step in range(50):
            assert (await call({"qwenft": OWN | {"step": step}}))[0] == 200

    began = asyncio.new_event_loop()
    started = began.time()
    woken = serve(world, certificates, scenario)
    assert 1 <= len(woken) <= 2 + (began.time() - started)
    began.close()
    newest = world.reports.newest(uid_of(world))
    assert newest is not None
    assert newest.step == 49


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_protocols_are_refused(certificates: Path, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = version
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = version

    async def scenario(_server: ProgressServer, port: int) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=context)

    serve_raw(world_with_pods(), certificates, scenario)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_protocols_are_spoken(certificates: Path, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    context.minimum_version = context.maximum_version = version

    async def scenario(_server: ProgressServer, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        writer.close()

    serve_raw(world_with_pods(), certificates, scenario)


def test_plain_text_is_not_spoken(certificates: Path) -> None:
    async def scenario(_server: ProgressServer, port: int) -> None:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}{names.progress_path('team', 'tiny')}"
            with pytest.raises(aiohttp.ClientError):
                await session.post(url, data=REPORT)
        await works(port, certificates)

    serve_raw(world_with_pods(), certificates, scenario)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE"])
def test_nothing_can_be_read_or_removed(certificates: Path, method: str) -> None:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))

    async def scenario(_server: ProgressServer, port: int) -> None:
        async with aiohttp.ClientSession() as session:
            for path in ("/", "/metrics", names.progress_path("team", "tiny")):
                url = f"https://127.0.0.1:{port}{path}"
                async with session.request(method, url, ssl=context) as told:
                    assert told.status in (404, 405)

    serve_raw(world_with_pods(), certificates, scenario)


def test_a_gate_gives_back_its_places() -> None:
    gate = Gate(most=3, most_of_one=2)

    async def ask(address: str, work: Callable[[], Awaitable[None]]) -> None:
        async with gate.asked_by(address):
            await work()

    async def fail() -> None:
        raise OSError

    async def main() -> None:
        for _ in range(5):
            with pytest.raises(OSError):  # noqa: PT011 - any that the work raises
                await ask("a", fail)
        async with gate.asked_by("a"), gate.asked_by("a"):
            with pytest.raises(Busy):
                await ask("a", fail)
            async with gate.asked_by("b"):
                with pytest.raises(Busy):
                    await ask("c", fail)

    asyncio.run(main())


def test_the_last_word_within_a_pause_is_acted_on() -> None:
    told: list[str] = []

    async def main() -> None:
        pace = Pace(told.append, seconds=0.02)
        for _ in range(5):
            pace.tell("a")
        pace.tell("b")
        assert told == ["a", "b"]
        await asyncio.sleep(0.1)
        assert told == ["a", "b", "a"]
        pace.tell("b")
        pace.tell("b")
        pace.stop()
        await asyncio.sleep(0.05)
        assert told == ["a", "b", "a", "b"]

    asyncio.run(main())


def test_keys_of_different_runs_do_not_wait_for_each_other() -> None:
    told: list[Key] = []

    async def main() -> None:
        pace = Pace(told.append, seconds=5)
        for index in range(3):
            pace.tell(Key("team", f"run-{index}"))
        pace.stop()

    asyncio.run(main())
    assert len(told) == 3
