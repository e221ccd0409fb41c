"""What the operator may do is what it does: from the audit log of a real apiserver.

Runs live through everything that makes the operator ask something, before a control plane of its
own on loopback; pods are KWOK's. Every right that was used must be granted, every granted one used:
those of the manifests for a whole cluster, and those of the chart for one namespace.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bare import audit, nodes
from bare.api import Api
from bare.plane import ROOT, Plane, plane
from bare.process import Operator
from embedded import binaries, layout, versions
from embedded.stages import direct_environment, run, wait_until
from qwenft_operator import names
from serving import make_certificates
from simulated.builders import run_body

pytestmark = [pytest.mark.cluster, pytest.mark.full]

TEAM = "team"
HOME = "qwenft-system"
UNSEEN = {
    ("qwenfinetunes/finalizers", "update"):
        "asked for by the admission of owner references that block deletion, which is not audited",
}  # fmt: skip
TAUGHT = json.dumps({
    "exitCode": 0, "reason": "Completed",
    "result": {"steps": 100, "memoryGiB": 1.0, "tokensPerSecond": 20000.0},
})  # fmt: skip
PREEMPTED = json.dumps({"exitCode": 64, "reason": "Preempted"})


@dataclass(frozen=True, kw_only=True)
class Lived:
    """The plane after all those lives, while the operator still runs."""

    plane: Plane
    api: Api
    rights: set[audit.Grant]
    answers: dict[str, int]
    log: str


def status(api: Api, name: str) -> dict[str, Any]:
    found = [body for body in api.runs(TEAM) if body["metadata"]["name"] == name]
    # A new run's status has a generation by default, and no phase.
    return {"phase": ""} | (found[0].get("status") or {}) if found else {"phase": "deleted"}


def reach(api: Api, name: str, *phases: str, word: str = "") -> None:
    def reached() -> bool:
        now = status(api, name)
        return now["phase"] in phases and word in now.get("message", "")

    wait_until(reached, seconds=240, what=f"{name} in {phases}", every=0.2)


def token(made: Plane, pod: str, audience: str) -> str:
    return made.kubectl(
        "create", "token", "default", "-n", TEAM, f"--audience={audience}",
        "--bound-object-kind=Pod", f"--bound-object-name={pod}",
    ).strip()  # fmt: skip


def post(made: Plane, certificates: Path, run: str, bearer: str) -> int:
    url = f"https://127.0.0.1:{made.ports['progress']}{names.progress_path(TEAM, run)}"
    body = json.dumps({"qwenft": {"attempt": 1, "step": 3, "totalSteps": 9}}).encode()
    headers = {"Authorization": f"Bearer {bearer}"}
    request = urllib.request.Request(url, body, headers, method="POST")
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    handler = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    try:
        with opener.open(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def reports(made: Plane, certificates: Path) -> dict[str, int]:
    """Report with tokens of every kind that the real apiserver gives out."""
    pods = made.kubectl("get", "pods", "-n", TEAM, "-l", "qwenft.dev/run=stays", "-o", "name")
    pod = pods.split()[0].removeprefix("pod/")
    honest = token(made, pod, names.AUDIENCE)
    unbound = ["create", "token", "default", "-n", TEAM, f"--audience={names.AUDIENCE}"]
    return {
        "honest": post(made, certificates, "stays", honest),
        "another run": post(made, certificates, "other", honest),
        "another audience": post(made, certificates, "stays", token(made, pod, "vault")),
        "no pod": post(made, certificates, "stays", made.kubectl(*unbound).strip()),
        "cut": post(made, certificates, "stays", honest[:-4]),
        "forged": post(made, certificates, "stays", f"{honest.rpartition('.')[0]}.AAAA"),
    }


def live(made: Plane, api: Api) -> None:
    """Lead runs through what makes the operator ask for something."""
    quota = {"metadata": {"name": "few", "namespace": TEAM}, "spec": {"hard": {"pods": "7"}}}
    code = {"metadata": {"name": "code", "namespace": TEAM}, "data": {"train.py": "pass"}}
    script = {"script": {"configMap": {"name": "code"}}}
    made.kubectl("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "ConfigMap", **code})
    # Bound to nodes that say nothing yet: the operator asks whether the nodes are lost.
    api.create_run(run_body("stays", TEAM, trainer=script))
    reach(api, "stays", "Starting", word="0 of 2 pods run")
    nodes.start_kwok(
        made,
        nodes.ending(1, 64, seconds=1, message=PREEMPTED, run="again"),
        nodes.ending(2, 0, seconds=1, run="again"),
        nodes.ending(1, 0, seconds=1, run="teaches", message=TAUGHT),
        nodes.ending(1, 70, seconds=1, run="broken", index="0"),
        linger=3,
    )
    ends = {"cleanPodPolicy": "All", "ttlSecondsAfterFinished": 2}
    api.create_run(run_body("again", TEAM, runPolicy=ends))
    reach(api, "again", "deleted")
    api.create_run(run_body("teaches", TEAM))  # what it took is kept for later plans
    reach(api, "teaches", "Succeeded")
    wait_until(lambda: "lesson" in status(api, "teaches"), seconds=60, what="a lesson")
    api.create_run(run_body("broken", TEAM))  # its second pod is asked to hurry
    reach(api, "broken", "Failed")
    api.create_run(run_body("paused", TEAM))
    reach(api, "paused", "Starting", word="2 of 2 pods run")
    made.kubectl("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    patch = json.dumps({"spec": {"runPolicy": {"suspend": True}}})
    made.kubectl("patch", "qft", "paused", "-n", TEAM, "--type=merge", "-p", patch)
    reach(api, "paused", "Suspended")
    body = run_body("large", TEAM, resources={"nodes": {"min": 8, "max": 8}})
    body["spec"]["training"]["batchSize"] = 8
    api.create_run(body)
    reach(api, "large", "Starting", word="exceeded quota")


def roles(made: Plane, mode: str) -> list[dict[str, Any]]:
    """Install the rights of a mode, and return the roles that the operator is bound to."""
    manifest = ROOT / "manifests" / "rbac.yaml"
    if mode == "cluster":  # installed with the plane
        text = manifest.read_text(encoding="utf-8")
    else:
        made.kubectl("delete", "-f", str(manifest))
        command = [made.program("helm"), "template", "qwenft", ROOT / "charts" / "qwenft",
                   "--namespace", HOME, "--set", f"watchNamespace={TEAM}", "--kube-version", "1.35",
                   "--show-only", "templates/rbac.yaml"]  # fmt: skip
        text = run([str(word) for word in command], environment=direct_environment())
        for body in yaml.safe_load_all(text):
            made.kubectl("create", "-f", "-", stdin=body)
    bodies = list(yaml.safe_load_all(text))
    bound = {
        (body["roleRef"]["kind"], body["roleRef"]["name"])
        for body in bodies
        if body["kind"] in ("ClusterRoleBinding", "RoleBinding")
    }
    return [body for body in bodies if (body["kind"], body["metadata"]["name"]) in bound]


@pytest.fixture(scope="module", params=["cluster", "namespace"])
def lived(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lived]:
    place = layout.from_environment()
    for product in (*binaries.products(versions.load()), *binaries.on_demand(versions.load())):
        binaries.build(place, product)
    folder = tmp_path_factory.mktemp("plane")
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    with plane(folder, place) as made:
        made.namespace(TEAM)
        rights = {right for role in roles(made, request.param) for right in audit.grants(role)}
        nodes.make_nodes(made, 9)
        url = f"https://127.0.0.1:{made.ports['progress']}"
        api = Api(made)
        with Operator.running(
            made, QWENFT_PROGRESS_URL=url, QWENFT_CERTIFICATES=str(certificates),
            QWENFT_PROGRESS_HOST="127.0.0.1", QWENFT_PROGRESS_PORT=str(made.ports["progress"]),
            QWENFT_OPERATOR_NAMESPACE=HOME,
            QWENFT_WATCH_NAMESPACE=TEAM if request.param == "namespace" else "",
        ) as operator:  # fmt: skip
            live(made, api)
            answers = reports(made, certificates)
            yield Lived(
                plane=made, api=api, rights=rights, answers=answers, log=operator.log.read_text()
            )


def entries(lived: Lived) -> list[audit.Entry]:
    return list(audit.read(lived.plane.audit))


def test_nothing_was_forbidden(lived: Lived) -> None:
    assert [entry for entry in entries(lived) if entry.code in (401, 403)] == []


def test_every_right_that_was_used_is_granted(lived: Lived) -> None:
    assert audit.ungranted(entries(lived), lived.rights) == set()


def test_every_right_that_is_granted_was_used(lived: Lived) -> None:
    left = audit.idle(entries(lived), lived.rights)
    assert {(right.resource, right.verb) for right in left} == set(UNSEEN), sorted(left)


def test_one_namespace_s_operator_has_no_right_over_all(lived: Lived) -> None:
    everywhere = {(right.resource, right.verb) for right in lived.rights if not right.where}
    if any(right.where == TEAM for right in lived.rights):
        assert everywhere == {
            ("nodes", "get"), ("nodes", "list"), ("nodes", "watch"), ("pods", "list"),
            ("priorityclasses", "list"), ("tokenreviews", "create"),
        }  # fmt: skip
    else:
        assert ("jobs", "create") in everywhere


def test_no_secret_was_ever_asked_for(lived: Lived) -> None:
    assert {entry.resource for entry in entries(lived)} & {"secrets", "serviceaccounts"} == set()


def test_a_token_of_the_run_s_own_pod_and_no_other_is_believed(lived: Lived) -> None:
    assert lived.answers == {
        "honest": 200, "another run": 403, "another audience": 401, "no pod": 401, "cut": 401,
        "forged": 401,
    }  # fmt: skip


def test_the_report_arrived(lived: Lived) -> None:
    wait_until(lambda: status(lived.api, "stays")["phase"] == "Training", seconds=20, what="report")
    assert status(lived.api, "stays")["progress"]["step"] == 3


def test_no_life_left_a_traceback(lived: Lived) -> None:
    assert "Traceback" not in lived.log
