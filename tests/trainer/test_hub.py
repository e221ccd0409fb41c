"""Sending the result to the hub, against a stand-in: some HTTP that keeps what it gets."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from qwenft_plan.spec import Hub
from qwenft_trainer import hub

pytestmark = pytest.mark.torch
ASKED = Hub(repository="me/tuned")


@dataclass
class StandIn:
    """What a hub was asked and sent; ``code`` is its answer to whoever makes a repository."""

    code: int = 200
    stalls: bool = False
    tokens: list[str] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path.endswith("/repos/create"):
            if self.stalls:
                self.go_on.wait(20)
            self.made.append(json.loads(body))
            return self.code, {"url": "https://huggingface.co/me/tuned", "error": "no such owner"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
            ]
            return 200, {"files": files}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.files[value["path"]] = base64.b64decode(value["content"])
        return 200, {"commitUrl": "https://huggingface.co/me/tuned/commit/1", "commitOid": "1",
                     "success": True}  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    kept = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kept.tokens.append(self.headers.get("Authorization", ""))
            code, content = kept.answer(self.path, body)
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield kept
    kept.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(bytes(range(256)))
    return made


def sent(folder: Path, asked: Hub | None = ASKED, **options: Any) -> dict[str, str]:
    signs: list[None] = []
    told = hub.upload(asked, folder, name="run", alive=lambda: signs.append(None), **options)
    assert bool(signs) == (asked is not None), "an upload gives signs of life"
    return dict(told)


def is_private(stand_in: StandIn) -> bool:
    """Read what was asked for; newer clients call it visibility."""
    asked = stand_in.made[0]
    return asked.get("private") is True or asked.get("visibility") == "private"


def test_the_folder_arrives_file_by_file(stand_in: StandIn, folder: Path) -> None:
    told = sent(folder)
    assert set(told) == {"hubUrl"}
    assert told["hubUrl"].endswith("/me/tuned")
    assert stand_in.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert is_private(stand_in)
    assert set(stand_in.tokens) == {"Bearer hf_secret"}


def test_a_repository_is_public_where_that_is_asked_for(stand_in: StandIn, folder: Path) -> None:
    sent(folder, Hub(repository="me/tuned", private=False))
    assert not is_private(stand_in)


def test_without_a_repository_nobody_is_asked(stand_in: StandIn, folder: Path) -> None:
    assert sent(folder, None) == {}
    assert stand_in.tokens == []


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_is_told_and_raises_nothing(stand_in: StandIn, folder: Path, code: int) -> None:
    stand_in.code = code
    told = sent(folder)
    assert set(told) == {"hubError"}
    assert str(code) in told["hubError"]
    assert "hf_secret" not in told["hubError"]
    assert len(told["hubError"]) <= 300


def test_a_hub_that_never_answers_is_given_up(stand_in: StandIn, folder: Path) -> None:
    stand_in.stalls = True
    assert sent(folder, patience=0.2) == {"hubError": "not done after 0 s"}


def test_a_machine_that_may_not_reach_the_hub_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "offline" in sent(folder)["hubError"].lower()
