"""A cluster in memory for the verbs, and the objects that it holds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qwenft_cli.__main__ import main
from qwenft_cli.access import Address
from qwenft_cli.failure import CliError

SPEC = """\
apiVersion: qwenft.dev/v1alpha1
kind: QwenFineTune
metadata: {name: tiny}
spec:
  model:
    path: /data/model
    volume: {persistentVolumeClaim: {claimName: data}}
    config:
      model_type: qwen2
      hidden_size: 64
      intermediate_size: 128
      num_hidden_layers: 4
      num_attention_heads: 4
      num_key_value_heads: 4
      vocab_size: 512
      max_position_embeddings: 128
      tie_word_embeddings: false
  dataset: {path: /data/set.pt, volume: {persistentVolumeClaim: {claimName: data}}}
  training: {maxSteps: 10, batchSize: 8, sequenceLength: 64, precision: fp32}
  resources: {nodes: {min: 2, max: 2}, processesPerNode: 1}
  output: {path: /data/out, volume: {persistentVolumeClaim: {claimName: data}}}
"""


@dataclass(kw_only=True)
class MemoryCluster:
    """`Access` over dictionaries; keeps what was asked of it."""

    namespace: str = "default"
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored_pods: list[dict[str, Any]] = field(default_factory=list)
    stored_events: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    stored_nodes: list[dict[str, Any]] = field(default_factory=list)
    busy: list[dict[str, Any]] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    config_maps: dict[str, dict[str, Any] | CliError] = field(default_factory=dict)
    dry_runs: int = 0
    followed: list[str] = field(default_factory=list)

    def connect(self, address: Address) -> MemoryCluster:
        self.addresses.append(address)
        self.namespace = address.namespace or "default"
        return self

    def run(self, name: str) -> dict[str, Any]:
        if name not in self.stored:
            raise CliError(f'qwenfinetunes.qwenft.dev "{name}" not found')
        return copy.deepcopy(self.stored[name])

    def runs(self) -> tuple[dict[str, Any], ...]:
        return tuple(self.stored.values())

    def apply(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        if dry_run:
            self.dry_runs += 1
        else:
            self.stored[body["metadata"]["name"]] = body
        return body

    def suspend(self, name: str, *, suspended: bool) -> dict[str, Any]:
        self.run(name)
        self.stored[name]["spec"].setdefault("runPolicy", {})["suspend"] = suspended
        return self.stored[name]

    def pods(self, name: str) -> tuple[dict[str, Any], ...]:
        labelled = (pod for pod in self.stored_pods)
        return tuple(pod for pod in labelled if pod["metadata"]["labels"]["qwenft.dev/run"] == name)

    def events(self, body: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        uid = body["metadata"]["uid"]
        return tuple(e for e in self.stored_events if e["involvedObject"]["uid"] == uid)

    def log(self, pod: str, *, follow: bool = False) -> Iterator[str]:
        if pod not in self.logs:
            raise CliError(f'container "trainer" in pod "{pod}" is waiting to start')
        if follow:
            self.followed.append(pod)
        return iter(self.logs[pod])

    def nodes(self) -> tuple[dict[str, Any], ...]:
        return tuple(self.stored_nodes)

    def node_pods(self) -> tuple[dict[str, Any], ...]:
        return tuple(self.busy)

    def config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        found = self.config_maps.get(f"{namespace}/{name}")
        if isinstance(found, CliError):
            raise found
        return found


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def qwenft(cluster: MemoryCluster) -> Callable[..., int]:
    """Run the command line against the memory cluster and return its exit code."""
    return lambda *words: main(list(words), cluster.connect)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Write the file of a small run."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


@pytest.fixture
def make_run() -> Callable[..., dict[str, Any]]:
    """Build a QwenFineTune with a status; keyword arguments are status fields."""

    def make(name: str = "tiny", **status: Any) -> dict[str, Any]:
        return {
            "apiVersion": "qwenft.dev/v1alpha1",
            "kind": "QwenFineTune",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "spec": {},
            "status": status,
        }

    return make


@pytest.fixture
def make_pod() -> Callable[..., dict[str, Any]]:
    """Build a pod of a run."""

    def make(
        index: int, *, run: str = "tiny", attempt: int = 1, state: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {
            "metadata": {
                "name": f"{run}-{attempt}-{index}-abcde",
                "labels": {
                    "qwenft.dev/run": run,
                    "qwenft.dev/attempt": str(attempt),
                    "batch.kubernetes.io/job-completion-index": str(index),
                },
            },
            "spec": {"nodeName": f"node-{index}"},
            "status": {
                "phase": "Running",
                "containerStatuses": [{"state": state or {"running": {}}}],
            },
        }

    return make


@pytest.fixture
def make_event() -> Callable[..., dict[str, Any]]:
    """Build an event about a run."""

    def make(reason: str, message: str, *, run: str = "tiny", **more: Any) -> dict[str, Any]:
        return {
            "metadata": {"name": f"{run}.{reason}"},
            "involvedObject": {"uid": f"uid-{run}"},
            "type": "Normal",
            "reason": reason,
            "message": message,
            "lastTimestamp": "2026-01-02T03:04:05Z",
            **more,
        }

    return make


@pytest.fixture
def make_node() -> Callable[..., dict[str, Any]]:
    """Build a ready node."""

    def make(name: str, *, cpu: str = "4", memory: str = "8Gi") -> dict[str, Any]:
        return {
            "metadata": {"name": name, "labels": {}},
            "spec": {},
            "status": {
                "allocatable": {"cpu": cpu, "memory": memory},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }

    return make


@pytest.fixture
def report_lines() -> Callable[[Sequence[float]], list[str]]:
    """Write the log of a trainer: ordinary lines around a JSON line for each loss."""

    def make(losses: Sequence[float]) -> list[str]:
        reports = [
            f'{{"attempt": 1, "step": {step}, "totalSteps": {len(losses)}, "loss": {loss},'
            f' "tokensPerSecond": {900 + step}}}'
            for step, loss in enumerate(losses, start=1)
        ]
        return ["starting", *reports, "done"]

    return make
