"""One namespace of a plane: its runs as they are waited for, their pods, and what these report."""

from __future__ import annotations

import json
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bare.api import Api
from bare.plane import Plane
from embedded.stages import wait_until
from qwenft_operator import names
from simulated.builders import run_body

__all__ = ["Team", "report"]

Body = dict[str, Any]
_SECONDS = 120


def report(plane: Plane, certificates: Path, run: tuple[str, str], token: str, told: Body) -> None:
    """Report with a pod's token, as the trainer does; ``run`` is its namespace and name."""
    url = f"https://127.0.0.1:{plane.ports['progress']}{names.progress_path(*run)}"
    headers = {"Authorization": f"Bearer {token}"}
    body = json.dumps({"qwenft": told}).encode()
    request = urllib.request.Request(url, body, headers, method="POST")
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    handler = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    with opener.open(request, timeout=20) as answer:
        assert answer.status == 200


@dataclass(frozen=True, kw_only=True)
class Team:
    """Who submits runs in a namespace and looks at them."""

    plane: Plane
    api: Api
    namespace: str = "team"

    def submit(self, name: str, **sections: Any) -> None:
        """Create a run."""
        self.api.create_run(run_body(name, self.namespace, **sections))

    def status(self, name: str) -> Body:
        """Return a run's status; its phase is ``Gone`` where there is no such run."""
        found = [run for run in self.api.runs(self.namespace) if run["metadata"]["name"] == name]
        return {"phase": ""} | (found[0].get("status") or {}) if found else {"phase": "Gone"}

    def reach(self, name: str, *phases: str, word: str = "", attempt: int = 0) -> Body:
        """Wait until a run is in one of the phases, with a word in its message; its status."""
        seen: list[Body] = []

        def reached() -> bool:
            now = self.status(name)
            seen[:] = [now]
            there = now["phase"] in phases and word in now.get("message", "")
            return there and now.get("attempt", 0) >= attempt

        log = self.plane.folder / "operator.log"
        what = f"{name} in {phases} {word}"
        try:
            wait_until(reached, seconds=_SECONDS, what=what, every=0.2, log=log)
        except Exception as error:
            error.add_note(json.dumps(seen, indent=1))
            raise
        return seen[0]

    def pods(self, name: str = "") -> list[Body]:
        """Return the pods of a run, or of all, by attempt and rank."""
        listing = self.api.call("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"] or []
        found = [
            pod for pod in listing if name in ("", pod["metadata"]["labels"].get(names.LABEL_RUN))
        ]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def await_pods(self, name: str, count: int) -> list[Body]:
        """Wait until a run has so many pods, and return them."""
        wait_until(
            lambda: len(self.pods(name)) == count,
            seconds=_SECONDS, what=f"{count} pods of {name or 'all'}", every=0.2,
        )  # fmt: skip
        return self.pods(name)

    def bind(self, pod: Body, node: str) -> None:
        """Place a pod, as a scheduler would."""
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/binding"
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}}
        self.api.call("POST", path, binding | {"target": target})

    def token(self, name: str) -> str:
        """Return the token of the run's first pod."""
        return self.api.pod_tokens(self.namespace, names.AUDIENCE)[name]

    def kubectl(self, *words: str, stdin: object = None) -> str:
        """Run kubectl in the namespace."""
        return self.plane.kubectl(*words, "-n", self.namespace, stdin=stdin)

    def clear(self) -> None:
        """Delete all runs and wait until nothing of them is left."""
        self.kubectl("delete", "qft", "--all")
        self.await_pods("", 0)
