"""The Python client against a real apiserver: a suspended run costs no pod."""

from __future__ import annotations

import pytest

from demo import install
from endtoend.bench import Bench
from qwenft import Client, QwenftError

pytestmark = pytest.mark.cluster


def test_the_apiserver_takes_a_run_of_every_size(bench: Bench) -> None:
    told = bench.kubectl("apply", "--dry-run=server", "-f", str(install.SAMPLES / "sizes"))
    assert told.count("(server dry run)") == len(list(install.SAMPLES.glob("sizes/*.yaml")))


def test_a_run_is_submitted_watched_and_looked_at_from_python(bench: Bench) -> None:
    client = Client(kubeconfig=str(bench.platform.kubeconfig), namespace=bench.namespace)
    body = install.sample("qwen-stdlib.yaml")
    body["metadata"]["name"] = "from-python"
    body["spec"]["runPolicy"] = {"suspend": True}
    bench.kubectl("delete", "qft", "from-python", "--ignore-not-found", "--wait=true")
    assert client.submit(body, dry_run=True).name == "from-python"
    with pytest.raises(QwenftError, match="not found"):
        client.status("from-python")
    client.submit(body)
    phases = (snapshot.phase for snapshot in client.watch("from-python", period=0.2))
    assert "Suspended" in phases, "read until it says so"
    assert client.plan(body).plan.world_size == 2
    assert [run.phase for run in client.runs() if run.name == "from-python"] == ["Suspended"]
    with pytest.raises(TimeoutError, match="still Suspended"):
        client.wait("from-python", timeout=0.0)
    bench.kubectl("delete", "qft", "from-python", "--wait=false")
