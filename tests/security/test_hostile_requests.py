"""A run asks for pods; it must not be a way to pods that its author could not make otherwise.

Whatever a request says, it is refused, or its objects keep to the rules of :func:`broken_rules`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_operator.render import render
from qwenft_operator.run import Owner, Settings
from qwenft_plan.errors import SpecError
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import spec_mapping

PLAN = Plan(
    world_size=2, nodes=2, processes_per_node=1, pp=1, dp_replicate=2, dp_shard=1, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=8, sequence_length=64,
)  # fmt: skip
SETTINGS = Settings(progress_url="https://operator.system.svc:8443", progress_ca="PEM\n")
POD_FIELDS = {
    "restartPolicy", "subdomain", "terminationGracePeriodSeconds", "automountServiceAccountToken",
    "enableServiceLinks", "securityContext", "containers", "volumes", "affinity", "nodeSelector",
    "tolerations",
}  # fmt: skip
CONTAINER_FIELDS = {
    "name", "image", "imagePullPolicy", "command", "args", "env", "resources", "volumeMounts",
    "securityContext",
}  # fmt: skip
SOURCES = {"projected", "emptyDir", "persistentVolumeClaim"}
PROJECTED = {"configMap", "serviceAccountToken", "downwardAPI"}


def objects(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    owner = Owner(name="tiny", namespace="team", uid="0-1-2", spec=dict(spec))
    parsed = FinetuneSpec.from_mapping(spec)
    return [dict(item) for item in render(parsed, PLAN, owner, 1, settings=SETTINGS)]


def pod_of(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    (job,) = (item for item in rendered if item["kind"] == "Job")
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def broken_rules(rendered: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a word for each rule that these objects break."""
    if {item["kind"] for item in rendered} != {"ConfigMap", "Service", "NetworkPolicy", "Job"}:
        yield "other kinds"
    if {item["metadata"]["namespace"] for item in rendered} != {"team"}:
        yield "another namespace"
    pod = pod_of(rendered)
    yield from (f"pod field {key}" for key in pod.keys() - POD_FIELDS)
    if pod["automountServiceAccountToken"] is not False:
        yield "API credentials"
    if pod["securityContext"].get("runAsNonRoot") is not True:
        yield "root"
    if len(pod["containers"]) != 1:
        yield "more containers"
    yield from _container(pod["containers"][0])
    for volume in pod["volumes"]:
        yield from (f"volume {key}" for key in volume.keys() - SOURCES - {"name"})
        for source in volume.get("projected", {}).get("sources", ()):
            yield from (f"projected {key}" for key in source.keys() - PROJECTED)


def _container(container: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"container field {key}" for key in container.keys() - CONTAINER_FIELDS)
    if container["command"] != ["python", "-m", "qwenft_trainer"]:
        yield "another command"
    if container["securityContext"] != {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }:
        yield "privileges"
    for entry in container["env"]:
        source = entry.get("valueFrom", {})
        yield from (f"env from {key}" for key in source.keys() - {"fieldRef"})
    yield from (
        f"mount over {item['mountPath']}"
        for item in container["volumeMounts"]
        if item["name"].startswith("data-")
        and item["mountPath"].split("/")[1] in ("etc", "usr", "dev", "tmp", "proc", "sys", "bin")
    )


def test_an_honest_request_keeps_to_the_rules() -> None:
    assert list(broken_rules(objects(spec_mapping()))) == []


HOST = {"hostPath": {"path": "/"}}
CLAIM = {"persistentVolumeClaim": {"claimName": "data"}}
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "host path": ({"dataset": {"volume": HOST}}, "spec.dataset.volume.hostPath"),
    "host path beside a claim": ({"output": {"volume": CLAIM | HOST}}, "hostPath"),
    "secret volume": ({"model": {"volume": {"secret": {"secretName": "x"}}}}, "volume.secret"),
    "csi volume": ({"model": {"volume": {"csi": {"driver": "x"}}}}, "volume.csi"),
    "claim of another namespace": (
        {"dataset": {"volume": {"persistentVolumeClaim": {"claimName": "x", "namespace": "y"}}}},
        "persistentVolumeClaim.namespace",
    ),
    "service account": ({"trainer": {"serviceAccountName": "admin"}}, "serviceAccountName"),
    "security context": ({"trainer": {"securityContext": {"privileged": True}}}, "securityContext"),
    "host network": ({"trainer": {"hostNetwork": True}}, "hostNetwork"),
    "side car": ({"trainer": {"containers": [{"name": "x"}]}}, "containers"),
    "command": ({"trainer": {"command": ["sh"]}}, "spec.trainer.command"),
    "variable from a secret": (
        {"trainer": {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}},
        "env[0].valueFrom",
    ),
    "script of another namespace": (
        {"trainer": {"script": {"configMap": {"name": "x", "namespace": "y"}}}},
        "configMap.namespace",
    ),
    "script out of its directory": (
        {"trainer": {"script": {"configMap": {"name": "x", "key": "../../x.py"}}}},
        "configMap.key",
    ),
    "volume over /etc": ({"output": {"path": "/etc/qwenft", "volume": CLAIM}}, "spec.output.path"),
    "volume over /usr": ({"model": {"path": "/usr/lib", "volume": CLAIM}}, "spec.model.path"),
    "climbing path": ({"dataset": {"path": "/data/../../x", "volume": CLAIM}}, "spec.dataset.path"),
    "one node by force": ({"resources": {"nodeName": "control-plane"}}, "nodeName"),
    "namespace": ({"namespace": "kube-system"}, "spec.namespace"),
    "pod template": ({"podTemplate": {"spec": HOST}}, "spec.podTemplate"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_request_is_refused_by_the_field(name: str) -> None:
    sections, told = HOSTILE[name]
    with pytest.raises(SpecError) as error:
        objects(spec_mapping(**sections))
    assert told in str(error.value)


FIXED = ("PET_RDZV_ENDPOINT", "MASTER_ADDR", "RANK", "WORLD_SIZE", "QWENFT_UID", "QWENFT_PLAN",
         "KUBEFLOW_TRAINER_SERVER_URL", "KUBEFLOW_TRAINER_SERVER_TOKEN")  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_what_the_operator_sets_cannot_be_set_by_the_user(name: str) -> None:
    with pytest.raises(SpecError, match="cannot be overridden"):
        objects(spec_mapping(trainer={"env": [{"name": name, "value": "x"}]}))


def test_a_pod_holds_one_token_for_the_progress_endpoint_and_no_other_credential() -> None:
    pod = pod_of(objects(spec_mapping()))
    projected = [
        source for volume in pod["volumes"] for source in volume.get("projected", {"sources": []})
        ["sources"]
    ]  # fmt: skip
    tokens = [item["serviceAccountToken"] for item in projected if "serviceAccountToken" in item]
    assert tokens == [{"path": "token", "audience": "qwenft.dev/progress",
                       "expirationSeconds": 3600}]  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert "secret" not in json.dumps(pod)


def test_without_an_endpoint_there_is_no_token_at_all() -> None:
    owner = Owner(name="tiny", namespace="team", uid="0-1-2", spec=spec_mapping())
    parsed = FinetuneSpec.from_mapping(owner.spec)
    rendered = json.dumps(render(parsed, PLAN, owner, 1, settings=Settings()))
    assert "serviceAccountToken" not in rendered


NAMES = st.sampled_from(
    ["hostPath", "hostNetwork", "hostPID", "serviceAccountName", "securityContext", "privileged",
     "namespace", "nodeName", "command", "secret", "csi", "nfs", "volumes", "initContainers",
     "valueFrom", "envFrom", "runtimeClassName", "image", "path", "claimName", "name", "key",
     "tolerations", "nodeSelector", "args", "env", "script", "volume"],
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(["/", "/etc", "/proc/1/root", "../..", "kube-system", "$(id)", "{{x}}", "*"]),
    st.text(max_size=20),
)
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a request."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from places(inner)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 30), name=NAMES, value=VALUES)
def test_no_field_anywhere_opens_the_pod(place: int, name: str, value: Any) -> None:
    spec = copy.deepcopy(spec_mapping(trainer={"script": {"configMap": {"name": "x"}}}))
    found = list(places(spec))
    found[place % len(found)][name] = value
    try:
        rendered = objects(spec)
    except SpecError:
        return
    assert list(broken_rules(rendered)) == []
