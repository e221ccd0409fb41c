"""What the NetworkPolicy of a run means: who can reach its pods, and who cannot.

The verdicts are those of a small evaluator in this file, written from the API's documentation: a
pod that no policy selects is open; a selected one is reached by what some policy allows. Cyclonus,
built from its module, is asked about the same pairs and has to agree. The embedded cluster's
network does not enforce policies, so no packet is sent here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from embedded import binaries, layout, versions
from embedded.stages import run
from qwenft_operator import names
from qwenft_operator.render import render
from qwenft_operator.run import Owner, Settings
from qwenft_plan.plan import Plan
from qwenft_plan.spec import FinetuneSpec
from simulated.builders import spec_mapping

PLAN = Plan(
    world_size=2, nodes=2, processes_per_node=1, pp=1, dp_replicate=2, dp_shard=1, tp=1,
    micro_batch_size=4, gradient_accumulation_steps=1, global_batch_size=8, sequence_length=64,
)  # fmt: skip
Policy = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Somebody in the cluster."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, "the evaluator knows no other selectors"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def reaches(policies: Iterable[Policy], source: Peer, target: Peer, port: int) -> bool:
    """Return whether ``source`` may open a connection to ``port`` of ``target``."""
    chosen = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == target.namespace
        and "Ingress" in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], target.labels)
    ]
    rules = [rule for policy in chosen for rule in policy["spec"].get("ingress", ())]
    return not chosen or any(_allows(rule, source, target, port) for rule in rules)


def _allows(rule: Mapping[str, Any], source: Peer, target: Peer, port: int) -> bool:
    ports = rule.get("ports")
    if ports is not None and port not in [item.get("port") for item in ports]:
        return False
    peers = rule.get("from")
    return peers is None or any(_is_peer(peer, source, target) for peer in peers)


def _is_peer(peer: Mapping[str, Any], source: Peer, target: Peer) -> bool:
    assert peer.keys() == {"podSelector"}, "without a namespaceSelector: the policy's own namespace"
    return source.namespace == target.namespace and selects(peer["podSelector"], source.labels)


def objects(name: str, uid: str, namespace: str = "team") -> list[dict[str, Any]]:
    owner = Owner(name=name, namespace=namespace, uid=uid, spec=spec_mapping())
    parsed = FinetuneSpec.from_mapping(owner.spec)
    return [dict(item) for item in render(parsed, PLAN, owner, 3, settings=Settings())]


def policy(rendered: list[dict[str, Any]]) -> Policy:
    (found,) = (item for item in rendered if item["kind"] == "NetworkPolicy")
    return found


def trainer(rendered: list[dict[str, Any]]) -> Peer:
    metadata = rendered[-1]["spec"]["template"]["metadata"]
    return Peer(namespace=rendered[-1]["metadata"]["namespace"], labels=metadata["labels"])


MINE, OTHER = objects("mine", "uid-1"), objects("other", "uid-2")
FOREIGN = objects("mine", "uid-3", "foreign")
POLICIES = [policy(MINE), policy(OTHER), policy(FOREIGN)]
TARGET = trainer(MINE)
PORTS = (names.MASTER_PORT, 1, 22, 443, 34567, 65535)
DENIED = {
    "another run's pods": trainer(OTHER),
    "a run of the same name elsewhere": trainer(FOREIGN),
    "a pod without labels": Peer(namespace="team"),
    "a pod of the same run name": Peer(namespace="team", labels={names.LABEL_RUN: "mine"}),
    "a pod elsewhere with the run's uid": Peer(namespace="foreign", labels=TARGET.labels),
    "the operator": Peer(namespace="qwenft-system", labels={names.LABEL_NAME: "qwenft"}),
    "a pod of the system": Peer(namespace="kube-system", labels={"k8s-app": "kube-dns"}),
}


@pytest.mark.parametrize("port", PORTS)
def test_pods_of_one_run_reach_each_other_on_every_port(port: int) -> None:
    assert reaches(POLICIES, TARGET, TARGET, port)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("who", sorted(DENIED))
def test_nobody_else_reaches_them(who: str, port: int) -> None:
    assert not reaches(POLICIES, DENIED[who], TARGET, port)


def test_an_earlier_attempt_of_the_run_is_within_the_wall() -> None:
    labels = dict(TARGET.labels) | {names.LABEL_ATTEMPT: "2"}
    assert reaches(POLICIES, Peer(namespace="team", labels=labels), TARGET, 29500)


def test_the_wall_is_what_denies() -> None:
    for source in DENIED.values():
        assert reaches([], source, TARGET, names.MASTER_PORT)


def test_the_wall_does_not_close_pods_that_are_not_the_run_s() -> None:
    bystander = Peer(namespace="team", labels={"app": "web"})
    assert reaches(POLICIES, Peer(namespace="foreign"), bystander, 80)
    assert reaches(POLICIES, TARGET, bystander, 80)


def test_a_second_policy_adds_and_does_not_take_away() -> None:
    monitoring = {
        "metadata": {"namespace": "team"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": 9090}], "from": [{"podSelector": {}}]}],
        },
    }
    peer = Peer(namespace="team")
    assert reaches([*POLICIES, monitoring], peer, TARGET, 9090)
    assert not reaches([*POLICIES, monitoring], peer, TARGET, names.MASTER_PORT)
    assert reaches([*POLICIES, monitoring], TARGET, TARGET, names.MASTER_PORT)


def test_every_pod_of_the_attempt_carries_the_label_that_the_wall_goes_by() -> None:
    selector = policy(MINE)["spec"]["podSelector"]["matchLabels"]
    assert selector == {names.LABEL_UID: "uid-1"}
    assert TARGET.labels[names.LABEL_UID] == "uid-1"


def asked(policies: Iterable[Policy], pairs: list[tuple[Peer, Peer, int]], folder: Path) -> Any:
    """Return whether each pair's source may open a connection to that port, as Cyclonus says."""
    place, product = layout.from_environment(), binaries.cyclonus(versions.load())
    binaries.build(place, product)
    (folder / "policies").mkdir()
    for index, each in enumerate(policies):
        (folder / "policies" / f"{index}.yaml").write_text(json.dumps(each))
    (folder / "traffic.json").write_text(json.dumps([
        {"Source": internal(source), "Destination": internal(target), "ResolvedPort": port,
         "ResolvedPortName": "", "Protocol": "TCP"}
        for source, target, port in pairs
    ]))  # fmt: skip
    told = run([binaries.home(place, product) / "cyclonus", "analyze", "--mode", "query-traffic",
                "--policy-path", str(folder / "policies"),
                "--traffic-path", str(folder / "traffic.json")])  # fmt: skip
    return [word == "TRUE" for word in re.findall(r"IS ALLOWED\?\s*\|\s*(TRUE|FALSE)", told)]


def internal(peer: Peer) -> dict[str, Any]:
    place = {"PodLabels": dict(peer.labels), "NamespaceLabels": {}, "Namespace": peer.namespace}
    return {"Internal": place, "IP": "10.0.0.1"}


@pytest.mark.full
def test_cyclonus_agrees_about_every_pair_and_port(tmp_path: Path) -> None:
    everyone = [TARGET, *DENIED.values(), Peer(namespace="team", labels={"app": "web"})]
    pairs = [(source, target, port) for source in everyone for target in everyone
             for port in PORTS]  # fmt: skip
    ours = [reaches(POLICIES, *pair) for pair in pairs]
    assert asked(POLICIES, pairs, tmp_path) == ours
    assert 0 < sum(ours) < len(ours)
