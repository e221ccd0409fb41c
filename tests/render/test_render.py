"""The objects of an attempt, compared with committed YAML and checked rule by rule."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenft_operator import names
from qwenft_operator.render import Placement, render
from qwenft_operator.run import Owner, Settings
from qwenft_plan.host import pod_host_bytes
from qwenft_plan.model import ModelShape
from qwenft_plan.plan import Plan
from qwenft_plan.sections import EnvVar
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import spec_mapping

GOLDEN = Path(__file__).parents[1] / "golden" / "objects"
SETTINGS = Settings(
    trainer_image="qwenft-trainer:1",
    progress_url="https://qwenft.qwenft-system.svc:8443",
    progress_ca="-----BEGIN CERTIFICATE-----\n…\n",
)
PLAN = Plan(
    world_size=16, nodes=2, processes_per_node=8, pp=1, dp_replicate=2, dp_shard=8, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=64, sequence_length=2048,
    precision="bf16",
)  # fmt: skip
CPU_PLAN = Plan(
    world_size=2, nodes=2, processes_per_node=1, pp=1, dp_replicate=2, dp_shard=1, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=8, sequence_length=64,
)  # fmt: skip

Objects = dict[str, dict[str, Any]]


def objects(plan: Plan = CPU_PLAN, *, placement: Placement | None = None, **spec: Any) -> Objects:
    mapping = spec_mapping(**spec)
    owner = Owner(name="tiny", namespace="team", uid="1234-abcd", spec=mapping)
    rendered = render(
        FinetuneSpec.from_mapping(mapping),
        plan,
        owner,
        3,
        settings=SETTINGS,
        placement=placement,
    )
    return {item["kind"]: item for item in rendered}


def pod_of(rendered: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = rendered["Job"]["spec"]["template"]["spec"]
    return spec


def container_of(rendered: Objects) -> dict[str, Any]:
    container: dict[str, Any] = pod_of(rendered)["containers"][0]
    return container


def environment_of(rendered: Objects) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in container_of(rendered)["env"]}


CASES: dict[str, tuple[Plan, dict[str, Any]]] = {
    "cpu": (CPU_PLAN, {}),
    "gpu": (PLAN, {"resources": {"nodes": {"min": 2}, "processesPerNode": None, "gpusPerNode": 8},
                   "training": {"batchSize": 64, "sequenceLength": 2048, "precision": "bf16"}}),
    "offload": (replace(PLAN, offload_optimizer=True),
                {"resources": {"nodes": {"min": 2}, "processesPerNode": None, "gpusPerNode": 8},
                 "training": {"batchSize": 64, "sequenceLength": 2048, "precision": "bf16",
                              "offloadOptimizer": True}}),
    "script": (CPU_PLAN, {"trainer": {"script": {"configMap": {"name": "code"}},
                                      "args": ["--epochs", "1"], "rendezvous": "c10d",
                                      "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}}),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_objects_equal_the_committed_ones(case: str) -> None:
    plan, spec = CASES[case]
    text = yaml.safe_dump_all(objects(plan, **spec).values(), sort_keys=False, allow_unicode=True)
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("REGOLD"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "intended? run once with REGOLD=1"


def test_the_job_comes_last() -> None:
    assert list(objects()) == ["ConfigMap", "Service", "NetworkPolicy", "Job"]


def test_every_object_is_owned_and_labelled() -> None:
    for item in objects().values():
        metadata = item["metadata"]
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == ("1234-abcd", True)
        assert metadata["labels"][names.LABEL_RUN] == "tiny"
        assert metadata["namespace"] == "team"


def test_the_frozen_plan_can_be_read_back() -> None:
    config_map = objects()["ConfigMap"]
    assert config_map["immutable"] is True
    assert config_map["metadata"]["name"] == f"tiny-plan-{CPU_PLAN.digest}"
    assert Plan.from_json(config_map["data"]["plan.json"]) == CPU_PLAN
    run = json.loads(config_map["data"]["run.json"])
    assert (run["name"], run["namespace"], run["uid"]) == ("tiny", "team", "1234-abcd")
    assert FinetuneSpec.from_mapping(run["spec"]).training.batch_size == 8
    assert "resources" not in run["spec"]


def test_one_job_is_the_gang() -> None:
    job = objects()["Job"]
    assert job["metadata"]["name"] == "tiny-3"
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"]) == (2, 2)
    assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert "suspend" not in spec, "it belongs to the queueing system"


def test_pods_meet_the_restricted_standard() -> None:
    pod, container = pod_of(objects()), container_of(objects())
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_static_rendezvous_names_the_first_pod() -> None:
    environment = environment_of(objects())
    assert environment["PET_RDZV_BACKEND"] == "static"
    assert environment["PET_MASTER_ADDR"] == "tiny-3-0.tiny"
    assert environment["PET_RDZV_ID"] == "1234-abcd-3"
    assert "PET_RDZV_ENDPOINT" not in environment


def test_c10d_rendezvous_has_an_endpoint_instead() -> None:
    environment = environment_of(objects(trainer={"rendezvous": "c10d"}))
    assert environment["PET_RDZV_ENDPOINT"] == "tiny-3-0.tiny:29500"
    assert "PET_MASTER_ADDR" not in environment


def test_the_node_rank_is_the_completion_index() -> None:
    entry = next(item for item in container_of(objects())["env"] if item["name"] == "PET_NODE_RANK")
    path = entry["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['batch.kubernetes.io/job-completion-index']"


def test_no_variable_is_set_twice_and_caches_are_writable() -> None:
    env = [{"name": "HF_HOME", "value": "/data/hub"}, {"name": "MINE", "value": "1"}]
    rendered = objects(trainer={"env": env})
    found = [item["name"] for item in container_of(rendered)["env"]]
    assert len(found) == len(set(found))
    environment = environment_of(rendered)
    assert environment["HF_HOME"] == "/data/hub", "a user may move a cache"
    assert environment["MINE"] == "1"
    assert environment["HOME"] == "/tmp"  # noqa: S108


def test_secrets_are_named_and_lose_against_what_is_set() -> None:
    rendered = objects(trainer={"envFrom": [{"secretRef": {"name": "store"}}]})
    container = container_of(rendered)
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert container["env"], "Kubernetes lets env win over envFrom"
    assert "envFrom" not in container_of(objects())


def test_a_url_mounts_nothing() -> None:
    rendered = objects(dataset={"path": "s3://b/d.pt", "volume": None},
                       output={"path": "s3://b/out", "volume": None})  # fmt: skip
    claims = [item for item in pod_of(rendered)["volumes"] if "persistentVolumeClaim" in item]
    assert len(claims) == 1, "the model's"


def test_cpu_processes_get_their_threads_and_cores() -> None:
    resources = {"nodes": {"min": 2}, "processesPerNode": 1, "cpusPerProcess": 3,
                 "memoryPerNode": "2Gi"}  # fmt: skip
    rendered = objects(resources=resources)
    assert environment_of(rendered)["OMP_NUM_THREADS"] == "3"
    assert container_of(rendered)["resources"] == {
        "requests": {"cpu": "3", "memory": str(2 * 2**30)},
        "limits": {"memory": str(2 * 2**30)},
    }


def test_devices_are_requested_as_the_vendor_names_them() -> None:
    placement = Placement(resource="amd.com/gpu", selector={"amd.com/gpu.product-name": "MI300X"})
    rendered = objects(PLAN, placement=placement)
    assert container_of(rendered)["resources"]["limits"] == {"amd.com/gpu": "8"}
    assert pod_of(rendered)["nodeSelector"] == {"amd.com/gpu.product-name": "MI300X"}
    assert "OMP_NUM_THREADS" not in environment_of(rendered)


def test_an_offloaded_optimizer_asks_for_the_host_memory_that_the_planner_counted() -> None:
    plan = replace(PLAN, offload_optimizer=True)
    training = {"batchSize": 64, "sequenceLength": 2048, "offloadOptimizer": True}
    gpus = Placement(resource="nvidia.com/gpu")
    asked = container_of(objects(plan, placement=gpus, training=training))["resources"]
    model = ModelShape.for_spec(FinetuneSpec.from_mapping(spec_mapping()).model)
    assert asked["requests"]["nvidia.com/gpu"] == "8"
    assert int(asked["requests"]["memory"].removesuffix("Mi")) == pytest.approx(
        pod_host_bytes(plan, model) / 2**20, abs=1
    )
    assert asked["limits"] == {"nvidia.com/gpu": "8"}
    plain = container_of(objects(PLAN, placement=gpus))["resources"]
    assert "memory" not in plain["requests"]


def test_on_cpu_nodes_the_host_s_memory_is_the_device_s() -> None:
    plan = replace(CPU_PLAN, offload_optimizer=True)
    training = {"batchSize": 8, "sequenceLength": 64, "offloadOptimizer": True}
    kept = objects(plan, training=training, resources={"nodes": {"min": 2}})
    assert "memory" not in container_of(kept)["resources"]["requests"]


def test_nodes_that_failed_before_are_avoided() -> None:
    placement = Placement(avoid=("bad-2", "bad-1"))
    affinity = pod_of(objects(placement=placement))["affinity"]["nodeAffinity"]
    required = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert [item["values"] for item in term["matchFields"]] == [["bad-1"], ["bad-2"]]
    assert {item["operator"] for item in term["matchFields"]} == {"NotIn"}


def test_claims_are_mounted_at_the_first_element_of_their_path() -> None:
    model = {"path": "/models/qwen", "volume": {"persistentVolumeClaim": {"claimName": "hub"}}}
    rendered = objects(model=model)
    mounts = {item["mountPath"]: item["name"] for item in container_of(rendered)["volumeMounts"]}
    claims = {
        item["name"]: item["persistentVolumeClaim"]["claimName"]
        for item in pod_of(rendered)["volumes"]
        if "persistentVolumeClaim" in item
    }
    assert claims[mounts["/models"]] == "hub"
    assert claims[mounts["/data"]] == "data"
    assert len(claims) == 2, "three fields, two claims"


def test_the_script_lies_beside_the_plan_and_comes_before_its_arguments() -> None:
    script = {"configMap": {"name": "code", "key": "tune.py"}}
    rendered = objects(trainer={"script": script, "args": ["--lr", "1"]})
    assert container_of(rendered)["args"] == ["/etc/qwenft/script/tune.py", "--lr", "1"]
    config = next(item for item in pod_of(rendered)["volumes"] if item["name"] == "config")
    sources = [source.get("configMap") for source in config["projected"]["sources"]]
    assert {"name": "code", "items": [{"key": "tune.py", "path": "script/tune.py"}]} in sources


def test_pods_report_with_a_token_that_is_good_for_nothing_else() -> None:
    rendered = objects()
    environment = environment_of(rendered)
    assert environment["KUBEFLOW_TRAINER_SERVER_URL"] == (
        "https://qwenft.qwenft-system.svc:8443"
        "/apis/qwenft.dev/v1alpha1/namespaces/team/qwenfinetunes/tiny/status"
    )
    config = next(item for item in pod_of(rendered)["volumes"] if item["name"] == "config")
    tokens = [
        source["serviceAccountToken"]
        for source in config["projected"]["sources"]
        if "serviceAccountToken" in source
    ]
    assert [token["audience"] for token in tokens] == ["qwenft.dev/progress"]


def test_without_an_endpoint_pods_do_not_report() -> None:
    mapping = spec_mapping()
    owner = Owner(name="tiny", namespace="team", uid="u", spec=mapping)
    rendered = render(FinetuneSpec.from_mapping(mapping), CPU_PLAN, owner, 1)
    text = json.dumps(rendered)
    assert "KUBEFLOW" not in text
    assert "serviceAccountToken" not in text


def test_only_pods_of_the_run_may_connect() -> None:
    policy = objects()["NetworkPolicy"]["spec"]
    same_run = {"matchLabels": {names.LABEL_UID: "1234-abcd"}}
    assert policy["podSelector"] == same_run
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": same_run}]}]


def test_names_are_published_before_pods_are_ready() -> None:
    spec = objects()["Service"]["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)


def test_pods_see_nothing_of_node_and_namespace() -> None:
    pod = pod_of(objects())
    assert pod["enableServiceLinks"] is False
    shared = {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName", "shareProcessNamespace"}
    assert shared & set(pod) == set()
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds == {"projected", "emptyDir", "persistentVolumeClaim"}


def test_an_attempt_is_ended_by_nobody_but_the_operator() -> None:
    """A container or worker that starts by itself would train beside its successor."""
    rendered = objects()
    assert pod_of(rendered)["restartPolicy"] == "Never"
    assert environment_of(rendered)["PET_MAX_RESTARTS"] == "0"


def test_no_variable_of_a_user_overrules_the_contract() -> None:
    """The request is refused for it, too; nobody has to rely on that."""
    wanted = environment_of(objects())
    contract = [name for name in wanted if name.startswith(("PET_", "QWENFT_", "KUBEFLOW_"))]
    assert len(contract) > 10
    spec = FinetuneSpec.from_mapping(spec_mapping())
    env = tuple(EnvVar(name=name, value="mine") for name in contract)
    spec = replace(spec, trainer=replace(spec.trainer, env=env))
    owner = Owner(name="tiny", namespace="team", uid="1234-abcd", spec=spec_mapping())
    rendered = {item["kind"]: item for item in render(spec, CPU_PLAN, owner, 3, settings=SETTINGS)}
    assert environment_of(rendered) == wanted


def test_the_group_may_write_the_volumes_and_read_the_token_and_nobody_else() -> None:
    pod = pod_of(objects())
    context = pod["securityContext"]
    assert context["fsGroup"] == context["runAsGroup"] == context["runAsUser"] == 1000
    config = next(item for item in pod["volumes"] if item["name"] == "config")
    assert config["projected"]["defaultMode"] == 0o440
    (token,) = [
        source["serviceAccountToken"]
        for source in config["projected"]["sources"]
        if "serviceAccountToken" in source
    ]
    assert token["expirationSeconds"] <= 3600
    mounts = {item["name"]: item for item in container_of(objects())["volumeMounts"]}
    assert mounts["config"]["readOnly"] is True


def test_a_pod_has_time_for_a_last_checkpoint() -> None:
    assert pod_of(objects())["terminationGracePeriodSeconds"] >= 30


def test_shared_memory_takes_at_most_half_of_what_the_pod_may_use() -> None:
    def size(**resources: Any) -> str:
        pod = pod_of(objects(resources={"processesPerNode": 1, "nodes": {"min": 2}, **resources}))
        volume = next(item for item in pod["volumes"] if item["name"] == "shm")
        assert volume["emptyDir"]["medium"] == "Memory"
        return str(volume["emptyDir"]["sizeLimit"])

    assert size(memoryPerNode="1Gi") == "512Mi"
    assert size(memoryPerNode="64Gi") == size() == "1Gi"


def test_objects_are_gone_before_their_run_is() -> None:
    for item in objects().values():
        (owner,) = item["metadata"]["ownerReferences"]
        assert owner["blockOwnerDeletion"] is True


def test_pods_of_a_run_never_share_a_node() -> None:
    affinity = pod_of(objects())["affinity"]["podAntiAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"] == {"matchLabels": {names.LABEL_UID: "1234-abcd"}}


def test_pods_tolerate_what_the_run_tolerates() -> None:
    wanted = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    rendered = objects(resources={"processesPerNode": 1, "tolerations": wanted})
    assert pod_of(rendered)["tolerations"] == wanted
    assert "tolerations" not in pod_of(objects())


def test_cores_are_asked_for_and_not_limited() -> None:
    """One throttled rank would slow all of them."""
    assert set(container_of(objects())["resources"]) == {"requests"}
