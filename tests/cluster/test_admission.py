"""What the operator renders, before a real apiserver: schemas, Pod Security, host names."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo import platforms
from embedded.stages import StageError
from qwenft_operator.render import Placement, render
from qwenft_operator.run import Owner, Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import spec_mapping

pytestmark = pytest.mark.cluster

NAMESPACE = "qwenft-admission"
SETTINGS = Settings(trainer_image="x:1", progress_url="https://x:8443", progress_ca="PEM\n")
PLAN = Plan(
    world_size=2, nodes=2, processes_per_node=1, pp=1, dp_replicate=2, dp_shard=1, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=8, sequence_length=64,
)  # fmt: skip

Kubectl = Callable[..., str]
Body = dict[str, Any]


@pytest.fixture(scope="module")
def kubectl() -> Iterator[Kubectl]:
    """Return kubectl in a namespace that enforces the restricted standard."""
    platform = platforms.choose()
    platform.up()

    def call(*words: str, stdin: Any = None) -> str:
        text = None if stdin is None else json.dumps(stdin)
        return platforms.kubectl(platform, *words, stdin=text)

    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    call("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    account = ["get", "serviceaccount", "default", "-n", NAMESPACE]
    call("wait", "--for=create", "serviceaccount/default", "-n", NAMESPACE, "--timeout=30s")
    assert "default" in call(*account)
    yield call
    call("delete", "namespace", NAMESPACE, "--wait=false")


def objects(name: str = "tiny", placement: Placement | None = None, **spec: Any) -> list[Body]:
    mapping = spec_mapping(**spec)
    owner = Owner(name=name, namespace=NAMESPACE, uid="0-1-2", spec=mapping)
    parsed = FinetuneSpec.from_mapping(mapping)
    return list(render(parsed, PLAN, owner, 12, settings=SETTINGS, placement=placement))


def pod(rendered: list[Body]) -> Body:
    template = copy.deepcopy(rendered[-1]["spec"]["template"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"] | {"name": "probe", "namespace": NAMESPACE},
        "spec": template["spec"],
    }


def create(kubectl: Kubectl, body: Body) -> str:
    return kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=body)


SPECS: dict[str, Body] = {
    "plain": {},
    "c10d": {"trainer": {"rendezvous": "c10d"}},
    "script": {"trainer": {"script": {"configMap": {"name": "code"}}, "args": ["--x"]}},
    "memory": {"resources": {"nodes": {"min": 2}, "processesPerNode": 1, "memoryPerNode": "2Gi"}},
    "tolerations": {"resources": {"nodes": {"min": 2}, "processesPerNode": 1,
                                  "nodeSelector": {"pool": "a"},
                                  "tolerations": [{"key": "gpu", "operator": "Exists"}]}},
}  # fmt: skip
PLACEMENTS = {
    "spec": None,
    "gpu": Placement(resource="nvidia.com/gpu", selector={"nvidia.com/gpu.product": "H100"}),
    "avoid": Placement(avoid=("node-7", "node-9")),
}


@pytest.mark.parametrize("spec", sorted(SPECS))
@pytest.mark.parametrize("placement", sorted(PLACEMENTS))
def test_every_object_is_valid(kubectl: Kubectl, spec: str, placement: str) -> None:
    rendered = objects(placement=PLACEMENTS[placement], **SPECS[spec])
    listing = {"apiVersion": "v1", "kind": "List", "items": rendered}
    told = create(kubectl, listing)
    assert told.count("created (server dry run)") == 4


@pytest.mark.parametrize("spec", sorted(SPECS))
def test_pods_are_admitted_under_the_restricted_standard(kubectl: Kubectl, spec: str) -> None:
    assert "created" in create(kubectl, pod(objects(**SPECS[spec])))


@pytest.mark.parametrize("field", ["allowPrivilegeEscalation", "capabilities"])
def test_the_standard_is_really_enforced(kubectl: Kubectl, field: str) -> None:
    body = pod(objects())
    del body["spec"]["containers"][0]["securityContext"][field]
    with pytest.raises(StageError, match="violates PodSecurity"):
        create(kubectl, body)


def test_the_longest_name_is_valid_everywhere(kubectl: Kubectl) -> None:
    rendered = objects(name="a" * 45)
    listing = {"apiVersion": "v1", "kind": "List", "items": rendered}
    assert create(kubectl, listing).count("created (server dry run)") == 4


def test_applying_twice_changes_nothing(kubectl: Kubectl) -> None:
    versions = []
    for _ in range(2):
        for item in objects()[:3]:
            manifest = copy.deepcopy(item)
            del manifest["metadata"]["ownerReferences"]
            words = ["apply", "--server-side", "--field-manager=qwenft", "-o", "json", "-f", "-"]
            shown = json.loads(kubectl(*words, stdin=manifest))
            versions.append(shown["metadata"]["resourceVersion"])
    assert versions[:3] == versions[3:]
