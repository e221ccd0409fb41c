"""The cluster as a test sees it: submit, wait for a condition, look, delete."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo import install, training
from demo.platforms import Images, Platform, kubectl
from embedded.stages import StageError
from endtoend.runs import Body, script_map
from qwenft_cli.access import Access
from qwenft_cli.failure import CliError
from qwenft_cli.watch import history, look

__all__ = ["Bench", "finished", "in_phase"]

_PAUSE_SECONDS = 0.3
_POD_SECONDS = 240


def finished(body: Body) -> bool:
    """Whether the run has ended for good."""
    return in_phase("Succeeded", "Failed")(body)


def in_phase(*phases: str) -> Callable[[Body], bool]:
    """Return the question whether a run is in one of ``phases``."""
    return lambda body: (body.get("status") or {}).get("phase") in phases


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One namespace with the operator installed and the data prepared."""

    platform: Platform
    images: Images
    namespace: str
    access: Access
    submitted: list[str] = field(default_factory=list)

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace."""
        return kubectl(self.platform, "-n", self.namespace, *words, stdin=stdin)

    def apply(self, body: Body, *words: str) -> str:
        """Apply any object."""
        return self.kubectl("apply", *words, "-f", "-", stdin=json.dumps(body))

    def submit(self, body: Body) -> str:
        """Start a run afresh and return its name."""
        name = str(body["metadata"]["name"])
        training.remove(self.platform, name, self.namespace)
        self.submitted.append(name)
        self.apply(body)
        return name

    def script(self, name: str, text: str) -> None:
        """Store a training script in a ConfigMap."""
        self.apply(script_map(name, text))

    def wait(self, name: str, condition: Callable[[Body], bool], seconds: float) -> Body:
        """Return the run once ``condition`` holds; fails with its status after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            body = dict(self.access.run(name))
            if condition(body):
                return body
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} after {seconds:.0f} s: {self.describe(body)}")
            time.sleep(_PAUSE_SECONDS)

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until ``condition`` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
            time.sleep(_PAUSE_SECONDS)

    def result(self, name: str, seconds: float) -> Body:
        """Return the status of a run that succeeds."""
        body = self.wait(name, finished, seconds)
        assert body["status"]["phase"] == "Succeeded", self.describe(body)
        return dict(body["status"])

    def describe(self, body: Body) -> str:
        """Return what a person would look at: status, events, and the logs' ends."""
        name = body["metadata"]["name"]
        parts = [json.dumps(body.get("status"), indent=1, ensure_ascii=False)]
        parts += [f"{e.get('reason')}: {e.get('message')}" for e in self.access.events(body)]
        for pod in self.access.pods(name):
            parts.append(f"--- {pod['metadata']['name']}")
            try:
                parts += list(self.access.log(pod["metadata"]["name"]))[-20:]
            except CliError as error:
                parts.append(error.message)
        return "\n".join(parts)

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """Return type, reason and message of the run's events, oldest first."""
        found = self.access.events(self.access.run(name))
        return [(str(e["type"]), str(e["reason"]), str(e["message"])) for e in found]

    def losses(self, name: str) -> list[float]:
        """Return the losses in the first pod's log."""
        reports = history(self.access, look(self.access, name))
        return [one.loss for one in reports if one.loss is not None]

    def log(self, name: str, index: int = 0) -> str:
        """Return the log of the pod with this completion index."""
        pod = self.access.pods(name)[index]
        return "\n".join(self.access.log(pod["metadata"]["name"]))

    def children(self, name: str) -> tuple[str, ...]:
        """Return what exists of the run."""
        return training.children(self.platform, name, self.namespace)

    def pod(self, name: str, command: list[str], script: str = "") -> str:
        """Run a pod of the trainer image to its end and return its log.

        The claim ``data`` is at ``/data`` and ``script`` is ``/script/train.py``.
        Raises ``StageError`` with the log when it fails.
        """
        self.script(f"{name}-script", script)
        self.kubectl("delete", "pod", name, "--ignore-not-found", "--grace-period=0")
        self.apply(self._pod_body(name, command))
        self.until(lambda: self._ended(name), _POD_SECONDS, f"the end of pod {name}")
        log = self.kubectl("logs", name)
        if self._phase(name) != "Succeeded":
            raise StageError(f"pod {name} failed:\n{log}")
        self.kubectl("delete", "pod", name, "--wait=false")
        return log

    def _pod_body(self, name: str, command: list[str]) -> Body:
        job = install.sample("prepare.yaml")
        spec = job["spec"]["template"]["spec"]
        container: dict[str, Any] = spec["containers"][0]
        container |= {"image": self.images.trainer, "command": command}
        container["volumeMounts"] += [{"name": "script", "mountPath": "/script"}]
        spec["volumes"] += [{"name": "script", "configMap": {"name": f"{name}-script"}}]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

    def _phase(self, name: str) -> str:
        return self.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")

    def _ended(self, name: str) -> bool:
        return self._phase(name) in {"Succeeded", "Failed"}
