"""Whatever a valid spec says, its objects hold together."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_operator import names
from qwenft_operator.render import Placement, render
from qwenft_operator.run import Owner, Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import spec_mapping

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
claims = st.sampled_from(["data", "hub", "out"])
folders = st.sampled_from(["/data", "/models", "/out"])
words = st.text("abcdefghij0123456789-_=/.", max_size=12)
run_names = st.from_regex(r"[a-z][a-z0-9-]{0,42}[a-z0-9]", fullmatch=True)


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    """Draw sections of a valid spec; each mount point has one claim."""
    by_folder = {folder: draw(claims) for folder in ("/data", "/models", "/out")}

    def place(file: str) -> dict[str, Any]:
        folder = draw(folders)
        volume = {"persistentVolumeClaim": {"claimName": by_folder[folder]}}
        return {"path": f"{folder}/{file}", "volume": volume}

    variables = draw(st.lists(st.sampled_from(["A", "B", "HF_HOME", "NCCL_DEBUG"]), unique=True))
    trainer: dict[str, Any] = {
        "args": draw(st.lists(words, max_size=4)),
        "env": [{"name": name, "value": draw(words)} for name in variables],
        "rendezvous": draw(st.sampled_from(["static", "c10d"])),
    }
    if draw(st.booleans()):
        trainer["script"] = {"configMap": {"name": "code", "key": "tune.py"}}
    return {
        "model": place("model"),
        "dataset": place("data.pt"),
        "output": place("result"),
        "trainer": trainer,
        "resources": {
            "nodes": {"min": 1},
            "processesPerNode": draw(st.integers(1, 8)),
            "cpusPerProcess": draw(st.integers(1, 4)),
            "memoryPerNode": draw(st.sampled_from(["1Gi", "512M", 1024])),
            "nodeSelector": draw(st.dictionaries(st.sampled_from(["a", "b"]), st.just("x"))),
        },
    }


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    nodes, processes = draw(st.integers(1, 64)), draw(st.integers(1, 8))
    return Plan(
        world_size=nodes * processes, nodes=nodes, processes_per_node=processes, pp=1,
        dp_replicate=nodes, dp_shard=processes, tp=1, micro_batch_size=1,
        gradient_accumulation_steps=1, global_batch_size=nodes * processes, sequence_length=64,
        offload_optimizer=draw(st.booleans()),
    )  # fmt: skip


placements = st.one_of(
    st.none(),
    st.builds(
        Placement,
        resource=st.sampled_from(["", "nvidia.com/gpu", "amd.com/gpu"]),
        avoid=st.sampled_from([(), ("node-1",), ("node-2", "node-1")]),
    ),
)
urls = st.sampled_from(["", "https://qwenft.qwenft-system.svc:8443"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sections(), plans(), placements, run_names, st.integers(1, 999), urls)
def test_objects_hold_together(
    spec: dict[str, Any],
    plan: Plan,
    placement: Placement | None,
    name: str,
    attempt: int,
    url: str,
) -> None:
    mapping = spec_mapping(**spec)
    owner = Owner(name=name, namespace="team", uid="u", spec=mapping)
    parsed = FinetuneSpec.from_mapping(mapping)
    arguments = {"settings": Settings(progress_url=url), "placement": placement}
    rendered = render(parsed, plan, owner, attempt, **arguments)  # type: ignore[arg-type]
    again = render(parsed, plan, owner, attempt, **arguments)  # type: ignore[arg-type]
    assert json.dumps(rendered) == json.dumps(again)
    job = rendered[-1]
    check_names(rendered, plan)
    check_pod(job["spec"]["template"], plan, url)


def check_names(rendered: tuple[dict[str, Any], ...], plan: Plan) -> None:
    for item in rendered:
        assert LABEL.fullmatch(item["metadata"]["name"])
        assert len(item["metadata"]["name"]) <= 63
        assert item["metadata"]["labels"][names.LABEL_UID] == "u"
    config_map, service, policy, job = rendered
    selector = service["spec"]["selector"]
    pod_labels = job["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= pod_labels.items()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod_labels.items()
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == plan.nodes
    assert Plan.from_json(config_map["data"]["plan.json"]) == plan


def check_pod(template: dict[str, Any], plan: Plan, url: str) -> None:
    pod = template["spec"]
    (container,) = pod["containers"]
    volumes = [item["name"] for item in pod["volumes"]]
    mounts = container["volumeMounts"]
    points = [item["mountPath"] for item in mounts]
    assert len(volumes) == len(set(volumes))
    assert len(points) == len(set(points))
    assert {item["name"] for item in mounts} == set(volumes)
    claimed = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]
               if "persistentVolumeClaim" in v]  # fmt: skip
    assert len(claimed) == len(set(claimed)), "a claim twice in a pod is an error"
    variables = {item["name"]: item.get("value") for item in container["env"]}
    assert len(variables) == len(container["env"])
    assert variables["PET_NNODES"] == str(plan.nodes)
    assert variables["PET_NPROC_PER_NODE"] == str(plan.processes_per_node)
    assert ("PET_MASTER_ADDR" in variables) != ("PET_RDZV_ENDPOINT" in variables)
    assert ("KUBEFLOW_TRAINER_SERVER_URL" in variables) == bool(url)
    assert ("annotations" in template["metadata"]) == bool(url)
    limits = container["resources"].get("limits", {})
    requests = container["resources"]["requests"]
    assert all(requests[key] == value for key, value in limits.items())
