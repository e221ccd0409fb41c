"""The real cluster port against an apiserver of a few lines: what is sent, what answers mean."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from qwenft_operator import names
from qwenft_operator.cluster import ApiCluster
from qwenft_operator.port import Conflict, Identity, Refused, Unavailable
from qwenft_operator.server_side_apply import encoded
from serving.apiserver import Apiserver, answering, ask, kubeconfig_of, serve


def test_an_object_is_read_with_the_account_s_token() -> None:
    apiserver = answering((200, {"kind": "Pod"}))
    assert ask(apiserver, lambda c: c.get("Pod", "team", "tiny-1-0")) == {"kind": "Pod"}
    (asked,) = apiserver.asked
    assert (asked["method"], asked["path"]) == ("GET", "/api/v1/namespaces/team/pods/tiny-1-0")
    assert asked["token"] == "Bearer secret"  # noqa: S105 - the fake apiserver's


def test_every_answer_is_told_and_so_is_none() -> None:
    told: list[tuple[str, int | None]] = []

    async def one(cluster: ApiCluster) -> None:
        cluster.tell(lambda method, status: told.append((method, status)))
        await cluster.get("Pod", "team", "tiny-1-0")

    ask(answering((200, {"kind": "Pod"})), one)
    ask(answering((404, {})), one)
    with pytest.raises(Unavailable):
        ask(answering(), one, dead=True)
    assert told == [("GET", 200), ("GET", 404), ("GET", None)]


def test_an_absent_object_is_none() -> None:
    assert ask(answering((404, {})), lambda c: c.get("Pod", "team", "x")) is None


@pytest.mark.parametrize(
    ("kind", "namespace", "path"),
    [
        ("PriorityClass", "", "/apis/scheduling.k8s.io/v1/priorityclasses/x"),
        ("Node", "", "/api/v1/nodes/x"),
        ("Job", "team", "/apis/batch/v1/namespaces/team/jobs/x"),
        (names.KIND, "team", "/apis/qwenft.dev/v1alpha1/namespaces/team/qwenfinetunes/x"),
        ("NetworkPolicy", "t", "/apis/networking.k8s.io/v1/namespaces/t/networkpolicies/x"),
    ],
)
def test_every_kind_has_its_place(kind: str, namespace: str, path: str) -> None:
    apiserver = answering((200, {}))
    ask(apiserver, lambda c: c.get(kind, namespace, "x"))
    assert apiserver.asked[0]["path"] == path


def test_objects_are_applied_by_the_server_under_one_manager() -> None:
    apiserver = answering((200, {}))
    manifest = {"kind": "Service", "metadata": {"name": "tiny", "namespace": "team"}}
    ask(apiserver, lambda c: c.apply(manifest))
    (asked,) = apiserver.asked
    assert asked["method"] == "PATCH"
    assert asked["content"].startswith("application/apply-patch+yaml")
    assert asked["query"] == {"fieldManager": "qwenft", "force": "true"}
    assert yaml.safe_load(asked["text"]) == manifest


def test_an_object_that_must_be_new_is_created_and_never_replaced() -> None:
    manifest = {"kind": "ConfigMap", "metadata": {"name": "x", "namespace": "home"}}
    apiserver = answering((201, {}), (409, {"message": "already exists"}), (403, {"message": "no"}))
    for error in (None, Conflict, Refused):
        if error is None:
            ask(apiserver, lambda c: c.create(manifest))
            continue
        with pytest.raises(error):
            ask(apiserver, lambda c: c.create(manifest))
    first = apiserver.asked[0]
    assert (first["method"], first["path"]) == ("POST", "/api/v1/namespaces/home/configmaps")
    assert first["body"] == manifest


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (409, Conflict),
        (403, Refused),
        (422, Refused),
        (400, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_each_answer_has_its_meaning(status: int, error: type[Exception]) -> None:
    manifest = {"kind": "Job", "metadata": {"name": "tiny-1", "namespace": "team"}}
    apiserver = answering((status, {"message": "exceeded quota: pods"}))
    with pytest.raises(error, match="exceeded quota: pods"):
        ask(apiserver, lambda c: c.apply(manifest))


def test_an_answer_that_is_no_json_is_quoted() -> None:
    apiserver = answering((503, "<html>upstream connect error</html>"))
    with pytest.raises(Unavailable, match="upstream connect error"):
        ask(apiserver, lambda c: c.list("Pod"))


def test_a_silent_apiserver_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="/api/v1/nodes"):
        ask(answering(), lambda c: c.list("Node"), dead=True)


def test_a_deletion_hits_only_the_object_that_was_meant() -> None:
    apiserver = answering((200, {}))
    ask(apiserver, lambda c: c.delete("Pod", "team", "p", uid="u1", grace=0))
    (asked,) = apiserver.asked
    assert asked["method"] == "DELETE"
    assert asked["body"]["preconditions"] == {"uid": "u1"}
    assert asked["body"]["gracePeriodSeconds"] == 0
    assert asked["body"]["propagationPolicy"] == "Background"


def test_a_pod_s_own_grace_is_left_alone() -> None:
    apiserver = answering((200, {}))
    ask(apiserver, lambda c: c.delete("Job", "team", "j", uid="u1", grace=None))
    assert "gracePeriodSeconds" not in apiserver.asked[0]["body"]


@pytest.mark.parametrize("status", [404, 409])
def test_deleting_what_is_gone_is_fine(status: int) -> None:
    ask(answering((status, {})), lambda c: c.delete("Pod", "team", "p", uid="u1", grace=None))


def test_a_deletion_that_is_forbidden_is_told() -> None:
    with pytest.raises(Refused):
        ask(answering((403, {})), lambda c: c.delete("Pod", "t", "p", uid="u", grace=None))


RUN = {"metadata": {"name": "tiny", "namespace": "team", "resourceVersion": "7"}, "status": {}}


def test_the_status_is_written_against_the_version_that_was_read() -> None:
    apiserver = answering((200, {}))
    ask(apiserver, lambda c: c.replace_status(RUN))
    (asked,) = apiserver.asked
    assert asked["method"] == "PUT"
    assert asked["path"].endswith("/qwenfinetunes/tiny/status")
    assert asked["body"]["metadata"]["resourceVersion"] == "7"


def test_a_status_of_a_changed_run_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        ask(answering((409, {})), lambda c: c.replace_status(RUN))


def test_a_status_of_a_deleted_run_is_read_again_so_that_no_event_is_told_of_it() -> None:
    with pytest.raises(Conflict, match="the run is gone"):
        ask(answering((404, {})), lambda c: c.replace_status(RUN))


def test_an_event_may_already_be_there() -> None:
    ask(answering((409, {})), lambda c: c.create_event("team", {"kind": "Event"}))
    with pytest.raises(Refused):
        ask(answering((403, {})), lambda c: c.create_event("team", {"kind": "Event"}))


def review(**changes: Any) -> dict[str, Any]:
    extra = {
        "authentication.kubernetes.io/pod-name": ["tiny-1-0"],
        "authentication.kubernetes.io/pod-uid": ["p1"],
    }
    user = {"username": "system:serviceaccount:team:default", "extra": extra}
    status = {"authenticated": True, "audiences": [names.AUDIENCE], "user": user}
    return {"status": status | changes}


def identity(answer: dict[str, Any]) -> Identity | None:
    found: Identity | None = ask(
        answering((201, answer)), lambda c: c.review_token("t", names.AUDIENCE)
    )
    return found


def test_a_pod_s_token_names_the_pod() -> None:
    assert identity(review()) == Identity(namespace="team", pod="tiny-1-0", pod_uid="p1")


def test_the_review_asks_for_our_audience() -> None:
    apiserver = answering((201, review()))
    ask(apiserver, lambda c: c.review_token("abc", names.AUDIENCE))
    assert apiserver.asked[0]["body"]["spec"] == {"token": "abc", "audiences": [names.AUDIENCE]}


@pytest.mark.parametrize(
    "changes",
    [
        {"authenticated": False},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": []},
        {"user": {"username": "admin", "extra": review()["status"]["user"]["extra"]}},
        {"user": {"username": "system:serviceaccount:team:default"}},
        {"user": {}},
    ],
)
def test_any_other_token_names_nobody(changes: dict[str, Any]) -> None:
    assert identity(review(**changes)) is None


def test_a_review_that_is_forbidden_is_told() -> None:
    with pytest.raises(Refused, match="TokenReview"):
        ask(answering((403, {})), lambda c: c.review_token("t", names.AUDIENCE))


def test_without_a_cluster_the_kubeconfig_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    config = kubeconfig_of("http://127.0.0.1:1")
    file = tmp_path / "config"
    file.write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(file))

    async def main() -> str:
        cluster = await ApiCluster.connect()
        host = str(cluster._client.configuration.host)
        await cluster.close()
        return host

    assert asyncio.run(main()) == "http://127.0.0.1:1"


def test_the_proxies_and_passwords_of_a_shell_are_not_for_the_apiserver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    apiserver = answering((200, {"kind": "Node"}))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def main(port: int) -> Any:
        config = kubeconfig_of(f"http://127.0.0.1:{port}")
        file = tmp_path / "config"
        file.write_text(json.dumps(config), encoding="utf-8")
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("KUBECONFIG", str(file))
        cluster = await ApiCluster.connect()
        try:
            return await cluster.get("Node", "", "n")
        finally:
            await cluster.close()

    assert serve(apiserver, main) == {"kind": "Node"}
    assert apiserver.asked[0]["token"].endswith(" abc")


GROUP_LIST = {"kind": "APIResourceList", "resources": [{"kind": "PodGroup"}, {"kind": "Queue"}]}


def test_the_kinds_of_a_group_are_those_that_discovery_names() -> None:
    apiserver = Apiserver(answers=[(200, GROUP_LIST)])
    version = "scheduling.volcano.sh/v1beta1"
    assert ask(apiserver, lambda cluster: cluster.served(version)) == {"PodGroup", "Queue"}
    assert apiserver.asked[0]["path"] == f"/apis/{version}"


def test_a_group_that_nobody_serves_has_no_kinds() -> None:
    apiserver = Apiserver(answers=[(404, {"message": "not found"})])
    assert ask(apiserver, lambda cluster: cluster.served("nowhere.dev/v1")) == frozenset()


def test_discovery_that_fails_is_no_answer() -> None:
    apiserver = Apiserver(answers=[(503, {"message": "later"})])
    with pytest.raises(Unavailable):
        ask(apiserver, lambda cluster: cluster.served("scheduling.k8s.io/v1alpha1"))


def test_kinds_that_share_a_name_go_to_their_own_group() -> None:
    body = {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup",
        "metadata": {"name": "tiny-1-abc", "namespace": "team"},
    }  # fmt: skip
    apiserver = Apiserver(answers=[(201, {"metadata": {"uid": "uid-7"}})])
    assert ask(apiserver, lambda cluster: cluster.apply(body)) == "uid-7"
    path = "/apis/scheduling.x-k8s.io/v1alpha1/namespaces/team/podgroups/tiny-1-abc"
    assert apiserver.asked[0]["path"] == path


@given(st.text(st.characters(codec="utf-8"), max_size=20))
@example("\U0001f600 \x1e \x7f \x85 \u2028 \ufeff \uffff \\ud83d \U0010ffff")
def test_any_text_of_an_apply_is_the_same_as_yaml_and_as_json(value: str) -> None:
    """What is applied is read as YAML, in which JSON's surrogates are no characters."""
    text = encoded({"data": {"text": value}})
    assert yaml.safe_load(text) == json.loads(text) == {"data": {"text": value}}


def test_an_apply_is_sent_as_it_was_written() -> None:
    manifest = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "team"},
        "data": {"plan.json": "\U0001f600"},
    }  # fmt: skip
    apiserver = Apiserver([(200, {"metadata": {"uid": "u"}})])
    assert ask(apiserver, lambda cluster: cluster.apply(manifest)) == "u"
    (asked,) = apiserver.asked
    assert yaml.safe_load(asked["text"]) == manifest
    assert asked["content"].split(";")[0] == "application/apply-patch+yaml"
