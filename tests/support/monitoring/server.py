"""A Prometheus process that scrapes one target every half second."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from loopback import free_ports
from monitoring.binaries import binary

__all__ = ["Prometheus"]

_PATIENCE = 60.0
_CONFIGURATION = """\
global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: qwenft
    honor_labels: true
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


class Prometheus:
    """Runs between ``with`` and its end; forgets everything afterwards."""

    def __init__(self, folder: Path, *, target: int, rules: Path) -> None:
        self._folder = folder
        self._port = free_ports()[0]
        configuration = folder / "prometheus.yml"
        configuration.write_text(_CONFIGURATION.format(target=target, rules=rules), "utf-8")
        self._command = [
            binary("prometheus"),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=self._folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        found = self._get("query", {"query": expression})["result"]
        assert isinstance(found, list)
        return found

    def targets(self) -> list[dict[str, Any]]:
        """Return the state of the scraped targets."""
        active = self._get("targets", {})["activeTargets"]
        assert isinstance(active, list)
        return active

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules as Prometheus has evaluated them."""
        return [rule for group in self._get("rules", {})["groups"] for rule in group["rules"]]

    def wait(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds, or say what the target looks like."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            assert self._process.poll() is None, "Prometheus ended"
            with suppress(URLError, ConnectionError):
                if holds():
                    return
            time.sleep(0.2)
        raise AssertionError(f"never so in {_PATIENCE:.0f} s: {self.targets()}")

    def _get(self, what: str, query: dict[str, str]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urlencode(query)}"
        with urlopen(url, timeout=10) as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        data: dict[str, Any] = document["data"]
        return data
