"""The Python client over a cluster in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import qwenft
from qwenft import AsyncClient, Client, FinetuneSpec, RunFailed
from qwenft_cli.access import Address
from qwenft_cli.spelling import spelled

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(
    path
    for path in (ROOT / "manifests" / "samples").glob("*.yaml")
    if "kind: QwenFineTune" in path.read_text("utf-8")
)
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def client(cluster: Any) -> Client:
    return Client(namespace="team", connect=cluster.connect)


class Life:
    """Gives a stored run its next status at each pause."""

    def __init__(self, cluster: Any, make_run: Make, *statuses: dict[str, Any]) -> None:
        self._cluster = cluster
        self._make = make_run
        self._left = list(statuses)
        self.pauses: list[float] = []
        self(0.0)

    def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self._left:
            self._cluster.stored["tiny"] = self._make(**self._left.pop(0))


def training(step: int) -> dict[str, Any]:
    return {"phase": "Training", "progress": {"step": step, "totalSteps": 9}}


FAILURE = {"attempt": 1, "reason": "NumericError", "message": "loss is nan", "rank": 3}


def test_nothing_is_connected_before_it_is_needed(cluster: Any, tiny: Path) -> None:
    client = Client(namespace="team", connect=cluster.connect)
    assert client.plan(str(tiny), on="2x1xcpu").plan.world_size == 2
    assert cluster.addresses == []
    assert client.runs() == ()
    assert client.runs() == ()
    assert cluster.addresses == [Address(namespace="team")], "connected once"


def test_a_file_a_mapping_and_a_document_are_the_same_run(
    client: Client, cluster: Any, tiny: Path
) -> None:
    body = yaml.safe_load(tiny.read_text("utf-8"))
    stored = []
    for run in (str(tiny), tiny, body, qwenft.load(str(tiny))):
        assert client.submit(run).phase == "Pending"
        stored.append(cluster.stored.pop("tiny"))
    assert all(item == stored[0] for item in stored)
    assert stored[0]["metadata"] == {"name": "tiny", "namespace": "team"}


def test_a_typed_spec_is_submitted_in_the_definition_s_spelling(
    client: Client, cluster: Any, tiny: Path
) -> None:
    read = qwenft.load(str(tiny))
    client.submit(qwenft.document_of("typed", read.spec))
    spec = cluster.stored["typed"]["spec"]
    assert spec["model"]["config"]["hidden_size"] == 64
    assert spec["dataset"]["volume"] == {"persistentVolumeClaim": {"claimName": "data"}}
    assert FinetuneSpec.from_mapping(spec) == read.spec


def test_a_dry_run_stores_nothing(client: Client, cluster: Any, tiny: Path) -> None:
    client.submit(tiny, dry_run=True)
    assert (cluster.dry_runs, cluster.stored) == (1, {})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"kind": "Job"}, "kind is 'Job'"),
        ({"kind": "QwenFineTune", "apiVersion": "v1"}, "apiVersion is 'v1'"),
        ({"kind": "QwenFineTune", "apiVersion": "qwenft.dev/v1alpha1"}, "metadata.name"),
        (
            {"kind": "QwenFineTune", "apiVersion": "qwenft.dev/v1alpha1",
             "metadata": {"name": "x"}, "spec": {"model": {"size": 7}}},
            "spec.model.size",
        ),
    ],
)  # fmt: skip
def test_a_wrong_mapping_is_refused_before_it_is_sent(
    client: Client, cluster: Any, body: dict[str, Any], told: str
) -> None:
    with pytest.raises(qwenft.QwenftError, match=told) as refused:
        client.submit(body)
    assert refused.value.exit_code == 2
    assert cluster.stored == {}


def test_a_plan_for_the_cluster_is_the_command_line_s(
    client: Client, cluster: Any, qwenft: Callable[..., int], tiny: Path, make_node: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cluster.stored_nodes = [make_node("a"), make_node("b")]
    found = client.plan(tiny).plan
    capsys.readouterr()
    assert qwenft("plan", str(tiny), "-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(found.to_json())


def test_what_does_not_fit_raises_with_the_numbers(client: Client, tiny: Path) -> None:
    body = yaml.safe_load(tiny.read_text("utf-8"))
    body["spec"]["model"] = {"name": "Qwen/Qwen1.5-72B"}
    body["spec"]["resources"] = {"nodes": {"min": 1, "max": 1}, "gpusPerNode": 1}
    with pytest.raises(qwenft.Infeasible, match="GiB"):
        client.plan(body, on="1x1xL4")


def test_a_watch_yields_changes_only_and_ends_with_the_run(
    client: Client, cluster: Any, make_run: Make
) -> None:
    life = Life(
        cluster, make_run, {"phase": "Pending"}, training(1), training(1), training(2),
        {"phase": "Succeeded"},
    )  # fmt: skip
    seen = list(client.watch("tiny", period=0.5, sleep=life))
    assert [item.phase for item in seen] == ["Pending", "Training", "Training", "Succeeded"]
    assert [item.progress.step for item in seen if item.progress] == [1, 2]
    assert set(life.pauses[1:]) == {0.5}
    assert len(life.pauses) == 5


def test_waiting_returns_the_run_that_succeeded(
    client: Client, cluster: Any, make_run: Make
) -> None:
    life = Life(cluster, make_run, training(1), {"phase": "Succeeded", "result": {"steps": 9}})
    assert client.wait("tiny", sleep=life).result == {"steps": 9}


def test_waiting_raises_why_the_run_failed(client: Client, cluster: Any, make_run: Make) -> None:
    life = Life(cluster, make_run, training(1), {"phase": "Failed", "failure": FAILURE})
    with pytest.raises(RunFailed, match="tiny failed: NumericError: loss is nan") as failed:
        client.wait("tiny", sleep=life)
    assert failed.value.snapshot.failure is not None
    assert failed.value.snapshot.failure.rank == 3
    assert "--failed" in failed.value.next_step


def test_a_run_that_never_had_an_attempt_fails_with_its_message(
    client: Client, cluster: Any, make_run: Make
) -> None:
    cluster.stored["tiny"] = make_run(phase="Failed", message="spec.training is wrong")
    with pytest.raises(RunFailed, match=r"spec\.training is wrong"):
        client.wait("tiny")


def test_waiting_ends_at_its_time(client: Client, cluster: Any, make_run: Make) -> None:
    life = Life(cluster, make_run, training(1))
    now = iter((0.0, 1.0, 59.0, 60.0))
    with pytest.raises(TimeoutError, match="tiny is still Training after 60 s"):
        client.wait("tiny", timeout=60, sleep=life, clock=lambda: next(now))
    assert len(life.pauses) == 3


def test_a_run_that_is_gone_is_an_error(client: Client) -> None:
    with pytest.raises(qwenft.QwenftError, match="not found"):
        client.status("tiny")


def test_logs_are_those_of_the_rank_s_pod(
    client: Client, cluster: Any, make_run: Make, make_pod: Make
) -> None:
    plan = {"worldSize": 4, "processesPerNode": 2}
    cluster.stored["tiny"] = make_run(phase="Training", attempt=1, plan=plan)
    cluster.stored_pods = [make_pod(0), make_pod(1)]
    names = [pod["metadata"]["name"] for pod in cluster.stored_pods]
    cluster.logs = {name: [f"from {name}"] for name in names}
    assert list(client.logs("tiny", rank=1)) == [f"from {names[0]}"]
    assert list(client.logs("tiny", rank=2, follow=True)) == [f"from {names[1]}"]
    assert cluster.followed == [names[1]]


def test_the_curve_comes_out_of_the_log(
    client: Client, cluster: Any, make_run: Make, make_pod: Make
) -> None:
    cluster.stored["tiny"] = make_run(**training(2), attempt=1, plan={"worldSize": 1})
    cluster.stored_pods = [make_pod(0)]
    name = cluster.stored_pods[0]["metadata"]["name"]
    cluster.logs = {name: ["hello", *(
        f'{{"attempt": 1, "step": {step}, "totalSteps": 9, "loss": {3.0 - step}}}'
        for step in (1, 2))]}  # fmt: skip
    assert [item.loss for item in client.progress("tiny")] == [2.0, 1.0]


def test_suspending_and_resuming_set_the_switch(
    client: Client, cluster: Any, make_run: Make
) -> None:
    cluster.stored["tiny"] = make_run(phase="Training")
    assert client.suspend("tiny")["metadata"]["name"] == "tiny"
    assert cluster.stored["tiny"]["spec"]["runPolicy"] == {"suspend": True}
    client.resume("tiny")
    assert cluster.stored["tiny"]["spec"]["runPolicy"] == {"suspend": False}


def test_the_asynchronous_client_does_the_same(
    client: Client, cluster: Any, make_run: Make, make_pod: Make, tiny: Path
) -> None:
    async def work() -> list[str]:
        both = AsyncClient(client)
        assert (await both.plan(tiny, on="2x1xcpu")).plan.world_size == 2
        assert (await both.submit(tiny)).name == "tiny"
        assert [run.name for run in await both.runs()] == ["tiny"]
        assert (await both.apply(tiny, dry_run=True))["kind"] == "QwenFineTune"
        assert (await both.suspend("tiny"))["spec"]["runPolicy"] == {"suspend": True}
        assert (await both.resume("tiny"))["spec"]["runPolicy"] == {"suspend": False}
        cluster.stored["tiny"] = make_run(phase="Succeeded", attempt=1, plan={"worldSize": 1})
        cluster.stored_pods = [make_pod(0)]
        cluster.logs = {cluster.stored_pods[0]["metadata"]["name"]: ["a", "b"]}
        assert [item.phase async for item in both.watch("tiny")] == ["Succeeded"]
        assert (await both.wait("tiny", timeout=5)).phase == "Succeeded"
        assert await both.events("tiny") == ()
        assert await both.progress("tiny") == ()
        return [line async for line in both.logs("tiny")]

    assert asyncio.run(work()) == ["a", "b"]


def test_an_asynchronous_wait_fails_and_ends_like_the_other(
    client: Client, cluster: Any, make_run: Make
) -> None:
    both = AsyncClient(client)
    cluster.stored["tiny"] = make_run(phase="Failed", failure=FAILURE)
    with pytest.raises(RunFailed, match="NumericError"):
        asyncio.run(both.wait("tiny"))
    cluster.stored["tiny"] = make_run(**training(1))
    with pytest.raises(TimeoutError):
        asyncio.run(both.wait("tiny", timeout=0.05))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_survives_the_way_through_types(path: Path) -> None:
    spec = qwenft.load(str(path)).spec
    assert FinetuneSpec.from_mapping(spelled(spec)) == spec


@given(
    batch=st.integers(1, 4096),
    rate=st.floats(1e-8, 1.0, allow_nan=False),
    nodes=st.integers(1, 64),
    env=st.dictionaries(st.from_regex(r"[A-Z]{3,8}X", fullmatch=True), st.text("abc", max_size=5)),
    tensor=st.sampled_from((None, 1, 2, 4)),
)
def test_any_spec_survives_the_way_through_types(
    batch: int, rate: float, nodes: int, env: dict[str, str], tensor: int | None
) -> None:
    parallelism = {} if tensor is None else {"tensor": tensor}
    spec = FinetuneSpec.from_mapping({
        "model": {"name": "Qwen/Qwen1.5-7B"},
        "dataset": {"path": "/data/set.pt"},
        "output": {"path": "/data/out"},
        "training": {"batchSize": batch, "learningRate": rate},
        "resources": {"nodes": {"min": 1, "max": nodes}, "nodeSelector": {"pool": "a"},
                      "tolerations": [{"key": "gpu", "operator": "Exists"}]},
        "parallelism": parallelism,
        "trainer": {"env": [{"name": key, "value": value} for key, value in env.items()],
                    "args": ["--x"], "script": {"configMap": {"name": "mine"}}},
    })  # fmt: skip
    assert FinetuneSpec.from_mapping(spelled(spec)) == spec


def test_all_that_is_public_is_there() -> None:
    for name in qwenft.__all__:
        assert getattr(qwenft, name) is not None
    for package in ("qwenft", "qwenft_plan", "qwenft_cli", "qwenft_operator"):
        assert (ROOT / "operator" / "src" / package / "py.typed").is_file()


def test_the_typed_example_of_the_docs_works() -> None:
    text = (ROOT / "docs" / "howto" / "python.md").read_text("utf-8")
    example = text.split("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(compile(example, "docs", "exec"), scope)  # noqa: S102 - the documentation's own lines
    run = scope["run"]
    assert run.body["metadata"]["name"] == "typed"
    assert FinetuneSpec.from_mapping(run.body["spec"]) == run.spec
