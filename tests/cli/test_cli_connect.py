"""The one place that talks to Kubernetes, against a server of this test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from qwenft_cli.access import Access, Address
from qwenft_cli.connect import connect
from qwenft_cli.failure import BAD_INPUT, FAILED, CliError

Make = Callable[..., dict[str, Any]]


@dataclass
class Server:
    """Answers by path; keeps what was asked."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, list[str]], str, Any]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            kind = self.headers.get("Content-Type", "")
            query = parse_qs(parts.query)
            state.asked.append((self.command, parts.path, query, kind, body))
            status, answer = state.answers.get(parts.path, (404, {"message": "no such path"}))
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = answer  # noqa: N815 - the names of http.server

        def log_message(self, *_words: Any) -> None:
            """Keep the test's output clean."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    """Write a kubeconfig with two contexts, one of them with a namespace."""
    path = tmp_path / "kubeconfig"
    contexts = [
        {"name": "main", "context": {"cluster": "here", "user": "me"}},
        {"name": "team", "context": {"cluster": "here", "user": "me", "namespace": "team"}},
    ]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "clusters": [{"name": "here", "cluster": {"server": server.url}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": contexts,
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def access(kubeconfig: Path) -> Access:
    return connect(Address(kubeconfig=str(kubeconfig), namespace="lab"))


RUNS = "/apis/qwenft.dev/v1alpha1/namespaces/lab/qwenfinetunes"


def test_a_run_is_read_by_name(server: Server, access: Access, make_run: Make) -> None:
    server.answers[f"{RUNS}/tiny"] = (200, make_run())
    assert access.run("tiny")["metadata"]["name"] == "tiny"


def test_all_runs_of_the_namespace_are_listed(
    server: Server, access: Access, make_run: Make
) -> None:
    server.answers[RUNS] = (200, {"items": [make_run("a"), make_run("b")]})
    assert [body["metadata"]["name"] for body in access.runs()] == ["a", "b"]


def test_names_cannot_leave_their_path(server: Server, access: Access) -> None:
    with pytest.raises(CliError):
        access.run("../../secrets/x?a=b")
    assert server.asked[0][1].startswith(f"{RUNS}/..%2F..%2Fsecrets")


def test_applying_is_server_side_and_strict(server: Server, access: Access, make_run: Make) -> None:
    server.answers[f"{RUNS}/tiny"] = (200, make_run())
    run = make_run()
    run["spec"]["trainer"] = {"args": ["\U0001f600 \u00fc \u20ac"]}
    access.apply(run)
    method, _, query, kind, body = server.asked[0]
    assert (method, kind.split(";")[0]) == ("PATCH", "application/apply-patch+yaml")
    assert query == {
        "fieldManager": ["qwenft-cli"], "force": ["true"], "fieldValidation": ["Strict"],
    }  # fmt: skip
    assert body == run


def test_a_dry_run_is_the_server_s(server: Server, access: Access, make_run: Make) -> None:
    server.answers[f"{RUNS}/tiny"] = (200, make_run())
    access.apply(make_run(), dry_run=True)
    assert server.asked[0][2]["dryRun"] == ["All"]


@pytest.mark.parametrize("suspended", [True, False])
def test_suspending_merges_one_field(
    server: Server,
    access: Access,
    make_run: Make,
    suspended: bool,  # noqa: FBT001 - a table
) -> None:
    server.answers[f"{RUNS}/tiny"] = (200, make_run())
    access.suspend("tiny", suspended=suspended)
    _, _, _, kind, body = server.asked[0]
    assert kind == "application/merge-patch+json"
    assert body == {"spec": {"runPolicy": {"suspend": suspended}}}


def test_pods_come_by_attempt_and_index(server: Server, access: Access, make_pod: Make) -> None:
    pods = [make_pod(10, attempt=1), make_pod(0, attempt=2), make_pod(2, attempt=1)]
    server.answers["/api/v1/namespaces/lab/pods"] = (200, {"items": pods})
    names = [pod["metadata"]["name"] for pod in access.pods("tiny")]
    assert names == ["tiny-1-2-abcde", "tiny-1-10-abcde", "tiny-2-0-abcde"]
    assert server.asked[0][2] == {"labelSelector": ["qwenft.dev/run=tiny"]}


def test_events_come_oldest_first(
    server: Server, access: Access, make_run: Make, make_event: Make
) -> None:
    events = [
        make_event("C", "3", lastTimestamp=None, eventTime="2026-01-02T03:06:00.000000Z"),
        make_event("A", "1", lastTimestamp="2026-01-02T03:04:00Z"),
        make_event("B", "2", lastTimestamp="2026-01-02T03:05:00Z"),
    ]
    server.answers["/api/v1/namespaces/lab/events"] = (200, {"items": events})
    assert [event["reason"] for event in access.events(make_run())] == ["A", "B", "C"]
    assert server.asked[0][2] == {"fieldSelector": ["involvedObject.uid=uid-tiny"]}


@pytest.mark.parametrize(
    ("text", "lines"),
    [(b"one\ntwo\n", ["one", "two"]), (b"one\ntwo", ["one", "two"]), (b"", []),
     (b"\xff\n", ["\N{REPLACEMENT CHARACTER}"])],
)  # fmt: skip
def test_a_log_comes_in_lines(
    server: Server, access: Access, text: bytes, lines: list[str]
) -> None:
    server.answers["/api/v1/namespaces/lab/pods/p/log"] = (200, text)
    assert list(access.log("p")) == lines
    assert server.asked[0][2] == {"container": ["trainer"], "follow": ["false"]}


def test_a_long_line_is_one_line(server: Server, access: Access) -> None:
    server.answers["/api/v1/namespaces/lab/pods/p/log"] = (200, b"x" * 200_000 + b"\nend\n")
    assert [len(line) for line in access.log("p", follow=True)] == [200_000, 3]


def test_nodes_and_their_pods_are_those_of_the_cluster(
    server: Server, access: Access, make_node: Make
) -> None:
    server.answers["/api/v1/nodes"] = (200, {"items": [make_node("a")]})
    server.answers["/api/v1/pods"] = (200, {"items": []})
    assert [node["metadata"]["name"] for node in access.nodes()] == ["a"]
    assert access.node_pods() == ()


@pytest.mark.parametrize(
    ("status", "code", "step"),
    [
        (401, FAILED, "Log in"),
        (403, FAILED, "role"),
        (404, FAILED, "qwenft status"),
        (409, FAILED, "again"),
        (422, BAD_INPUT, "Correct the field"),
        (400, BAD_INPUT, "logs"),
        (500, FAILED, "logs"),
    ],
)
def test_the_server_s_own_sentence_is_shown(
    server: Server, access: Access, status: int, code: int, step: str
) -> None:
    server.answers[f"{RUNS}/tiny"] = (status, {"message": "the server's sentence"})
    with pytest.raises(CliError) as caught:
        access.run("tiny")
    assert caught.value.message == "the server's sentence"
    assert caught.value.exit_code == code
    assert step in caught.value.next_step


@pytest.mark.parametrize(("body", "shown"), [(b"bad gateway", "bad gateway"), (b"", "HTTP 502")])
def test_an_answer_from_something_else_is_shown_as_it_is(
    server: Server, access: Access, body: bytes, shown: str
) -> None:
    server.answers[f"{RUNS}/tiny"] = (502, body)
    with pytest.raises(CliError, match=shown):
        access.run("tiny")


def test_the_namespace_is_the_argument_s_then_the_context_s(kubeconfig: Path) -> None:
    def namespace(**address: str) -> str:
        return connect(Address(kubeconfig=str(kubeconfig), **address)).namespace

    assert namespace(namespace="lab", context="team") == "lab"
    assert namespace(context="team") == "team"
    assert namespace() == "default"


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, kubeconfig: Path) -> None:
    text = kubeconfig.read_text().replace("127.0.0.1:", "127.0.0.1:1")
    port = text.split("127.0.0.1:")[1].split('"')[0]
    quiet = tmp_path / "quiet"
    quiet.write_text(text.replace(f"127.0.0.1:{port}", "127.0.0.1:9"))
    with pytest.raises(CliError, match=r"127\.0\.0\.1:9 does not answer") as caught:
        connect(Address(kubeconfig=str(quiet))).run("tiny")
    assert "KUBECONFIG" in caught.value.next_step


@pytest.mark.parametrize("content", [None, "", "not: [a kubeconfig", "{}"])
def test_without_a_usable_kubeconfig_there_is_no_cluster(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CliError, match="no cluster to talk to") as caught:
        connect(Address(kubeconfig=str(path)))
    assert "KUBECONFIG" in caught.value.next_step
    assert (f"{path}: no such file" in caught.value.message) == (content is None)


def test_an_unknown_context_is_no_cluster(kubeconfig: Path) -> None:
    with pytest.raises(CliError, match="no cluster to talk to") as caught:
        connect(Address(kubeconfig=str(kubeconfig), context="gone"))
    assert "get-contexts" in caught.value.next_step


def test_without_the_library_the_way_to_get_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kubernetes", None)
    with pytest.raises(CliError) as caught:
        connect(Address())
    assert "pip install 'qwenft[operator]'" in caught.value.next_step


def test_a_config_map_of_another_namespace_is_read_or_absent(
    server: Server, access: Access
) -> None:
    path = "/api/v1/namespaces/home/configmaps/qwenft-lessons"
    server.answers[path] = (200, {"data": {"a": "b"}})
    assert access.config_map("home", "qwenft-lessons") == {"data": {"a": "b"}}
    assert access.config_map("home", "other") is None


def test_a_config_map_that_may_not_be_read_is_an_error(server: Server, access: Access) -> None:
    path = "/api/v1/namespaces/home/configmaps/x"
    server.answers[path] = (403, {"message": "configmaps is forbidden"})
    with pytest.raises(CliError, match="forbidden"):
        access.config_map("home", "x")
