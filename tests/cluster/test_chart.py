"""The chart, rendered by Helm and judged by the apiserver's own validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from charted import Objects, named, of_kind, pod_spec
from demo import platforms
from embedded.stages import StageError, run
from qwenft_operator.advice import PLANNER, Advice
from qwenft_plan.prices import Prices

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "qwenft"
VERSION = "1.35.0"

Template = Callable[..., Objects]


@pytest.fixture(scope="module")
def platform() -> platforms.Platform:
    found = platforms.choose()
    found.up()
    return found


@pytest.fixture(scope="module")
def template(platform: platforms.Platform) -> Template:
    """Return a function that renders the chart with values."""

    def call(*flags: str, release: str = "qwenft") -> Objects:
        command = [platform.tool("helm"), "template", release, str(CHART), "-n", "somewhere"]
        text = run([*command, "--kube-version", VERSION, *flags])
        return [item for item in yaml.safe_load_all(text) if item]

    return call


def rules_of(objects: Objects, name: str) -> set[tuple[str, str, str]]:
    """Return every right as (group, resource, verb)."""
    return {
        (group, resource, verb)
        for item in objects
        if item["kind"] in ("ClusterRole", "Role") and item["metadata"]["name"] == name
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_apiserver_takes_every_object(platform: platforms.Platform, template: Template) -> None:
    objects = [item for item in template() if item["kind"] != "CustomResourceDefinition"]
    for item in objects:
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = "default"
        if item["kind"] == "Pod":  # its account is an object of the chart, not yet there
            item["spec"].pop("serviceAccountName")
        told = platforms.kubectl(
            platform, "apply", "--dry-run=server", "-f", "-", stdin=json.dumps(item)
        )
        assert "server dry run" in told


def test_plain_manifests_say_what_the_chart_says(template: Template) -> None:
    manifests = list(
        yaml.safe_load_all((ROOT / "manifests" / "rbac.yaml").read_text(encoding="utf-8"))
    )
    assert rules_of(manifests, "qwenft") == rules_of(template(), "qwenft")
    plain = yaml.safe_load((ROOT / "manifests" / "deployment.yaml").read_text(encoding="utf-8"))
    ours, theirs = plain["spec"]["template"]["spec"], pod_spec(template())
    assert ours["securityContext"] == theirs["securityContext"]
    assert ours["containers"][0]["securityContext"] == theirs["containers"][0]["securityContext"]
    assert ours["containers"][0]["resources"] == theirs["containers"][0]["resources"]


OWN_LABELS = ("app.kubernetes.io/", "helm.sh/", "qwenft.dev/part")
DEFAULTS = {"QWENFT_WORKERS": "8", "QWENFT_WATCH_NAMESPACE": "", "QWENFT_IMAGE_PULL_POLICY": ""}


def essence(item: Any) -> Any:
    """Drop what differs by nature: labels that name an installation, values that are defaults."""
    if isinstance(item, list):
        if item and all(isinstance(entry, dict) and "name" in entry for entry in item):
            item = [entry for entry in item if DEFAULTS.get(entry["name"]) != entry.get("value")
                    or entry["name"] not in DEFAULTS]  # fmt: skip
        return [essence(entry) for entry in item]
    if not isinstance(item, dict):
        return item
    found = {
        key: essence(value)
        for key, value in item.items()
        if not key.startswith(OWN_LABELS) and key not in ("imagePullPolicy", "optional")
    }
    return {key: value for key, value in found.items() if value not in ({}, None)}


def by_name(objects: Objects) -> dict[str, Any]:
    return {
        f"{item['kind']}/{item['metadata']['name']}": essence(item)
        for item in objects
        if "helm.sh/hook" not in (item["metadata"].get("annotations") or {})
    }


def test_kustomize_builds_what_the_chart_builds(
    platform: platforms.Platform, template: Template
) -> None:
    text = platforms.kubectl(platform, "kustomize", str(ROOT / "manifests"))
    plain = by_name([item for item in yaml.safe_load_all(text) if item])
    chart = by_name(template("-n", "qwenft-system"))
    assert plain.pop("Namespace/qwenft-system")
    assert chart.pop("Secret/qwenft-progress"), "kustomization.yaml says how to make one"
    assert plain.keys() == chart.keys()
    # Its bytes are compared in tests/crd: kustomize writes 1e-05, which is a text in YAML 1.1.
    assert chart.pop("CustomResourceDefinition/qwenfinetunes.qwenft.dev")
    for name, item in chart.items():
        assert plain[name] == item, name


def test_helm_test_asks_for_no_more_than_it_needs(template: Template) -> None:
    hooks = [
        item for item in template() if "helm.sh/hook" in (item["metadata"].get("annotations") or {})
    ]
    assert sorted(item["kind"] for item in hooks) == [
        "Pod", "Role", "RoleBinding", "ServiceAccount",
    ]  # fmt: skip
    assert rules_of(hooks, "qwenft-test") == {
        ("qwenft.dev", "qwenfinetunes", "create"), ("qwenft.dev", "qwenfinetunes", "patch"),
    }  # fmt: skip
    (pod,) = of_kind(hooks, "Pod")
    (deployment,) = of_kind(template(), "Deployment")
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= pod["metadata"]["labels"].items(), "the Service leaves it alone"
    compile(pod["spec"]["containers"][0]["command"][2], "helm test", "exec")


def test_the_operator_has_no_right_that_would_surprise(template: Template) -> None:
    rights = rules_of(template(), "qwenft")
    assert not {resource for _, resource, _ in rights} & {"secrets", "namespaces", "*"}
    assert not {verb for _, _, verb in rights} & {"*", "escalate", "bind", "impersonate"}
    assert ("", "pods", "create") not in rights, "the Job controller makes the pods"
    assert {verb for group, _, verb in rights if group == "qwenft.dev"} == {
        "get", "list", "watch", "delete", "update",
    }  # fmt: skip


def test_one_namespace_means_rights_in_it_alone(template: Template) -> None:
    objects = template("--set", "watchNamespace=team")
    roles = {item["metadata"]["name"]: item for item in of_kind(objects, "Role")}
    assert {"qwenft", "qwenft-planner"} <= set(roles)
    assert roles["qwenft"]["metadata"]["namespace"] == "team"
    home = roles["qwenft-planner"]
    assert home["metadata"]["namespace"] == "somewhere"
    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in home["rules"]] == [
        (["qwenft-planner", "qwenft-lessons"], ["get"]), (["qwenft-lessons"], ["patch"]),
        (None, ["create"]),
    ]  # fmt: skip
    cluster = {
        (resource, verb)
        for item in of_kind(objects, "ClusterRole")
        if item["metadata"]["name"] == "qwenft"
        for rule in item["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert cluster == {
        ("nodes", "get"), ("nodes", "list"), ("nodes", "watch"), ("pods", "list"),
        ("priorityclasses", "list"), ("tokenreviews", "create"),
    }  # fmt: skip
    environment = {e["name"]: e.get("value") for e in pod_spec(objects)["containers"][0]["env"]}
    assert environment["QWENFT_WATCH_NAMESPACE"] == "team"


def test_an_operator_that_must_not_learn_may_only_read(template: Template) -> None:
    objects = template("--set", "watchNamespace=team", "--set", "planner.learn=false")
    role = next(x for x in of_kind(objects, "Role") if x["metadata"]["name"] == "qwenft-planner")
    assert [rule["verbs"] for rule in role["rules"]] == [["get"]]
    environment = {e["name"]: e.get("value") for e in pod_spec(objects)["containers"][0]["env"]}
    assert environment["QWENFT_LEARN"] == "false"


def test_patience_growth_and_a_collector_reach_the_operator(template: Template) -> None:
    flags = ("--set", "scheduling.patienceSeconds=30", "--set", "scheduling.growthSeconds=0",
             "--set", "scheduling.growthAgeSeconds=10",
             "--set", "patience.stepSeconds=1,patience.firstStepSeconds=2",
             "--set", "patience.nodeSeconds=3,patience.imageSeconds=4",
             "--set", "traces.endpoint=http://collector:4318,traces.sampleRatio=0.25")  # fmt: skip
    objects = template(*flags)
    environment = {e["name"]: e.get("value") for e in pod_spec(objects)["containers"][0]["env"]}
    names = ("QWENFT_PATIENCE", "QWENFT_GROWTH", "QWENFT_GROWTH_AGE", "OTEL_TRACES_SAMPLER_ARG")
    assert [environment[name] for name in names] == ["30", "0", "10", "0.25"]
    waits = [environment[f"QWENFT_{of}_PATIENCE"] for of in ("STEP", "FIRST_STEP", "NODE", "IMAGE")]
    assert waits == ["1", "2", "3", "4"]
    assert "OTEL_" not in json.dumps(template())


GANG_GROUPS = {
    "kubernetes": {("scheduling.k8s.io", "workloads"), ("scheduling.k8s.io", "podgroups")},
    "volcano": {("scheduling.volcano.sh", "podgroups")},
    "coscheduling": {("scheduling.x-k8s.io", "podgroups")},
}


@pytest.mark.parametrize("namespace", ["", "team"])
@pytest.mark.parametrize("gang", ["none", "auto", *GANG_GROUPS])
def test_a_gang_scheduler_has_its_rights_and_no_other(
    template: Template, gang: str, namespace: str
) -> None:
    flags = ("--set", f"scheduling.gang={gang}", "--set", f"watchNamespace={namespace}")
    objects = template(*flags)
    plain = template("--set", f"watchNamespace={namespace}")
    more = rules_of(objects, "qwenft") - rules_of(plain, "qwenft")
    wanted = {name for name in GANG_GROUPS if gang in (name, "auto")}
    assert {(group, resource) for group, resource, _ in more} == set().union(
        *(GANG_GROUPS[name] for name in wanted)
    )
    assert {verb for _, _, verb in more} == ({"create", "patch", "delete"} if wanted else set())
    environment = {e["name"]: e.get("value") for e in pod_spec(objects)["containers"][0]["env"]}
    assert environment["QWENFT_GANG"] == gang


def test_prices_and_networks_reach_the_planner_as_it_reads_them(template: Template) -> None:
    flags = (
        "--set", "planner.prices.H100-80GB=2.5",
        "--set-json", 'planner.networkGbps={"p5.48xlarge": 3200}',
    )  # fmt: skip
    objects = template(*flags, release="prod")
    (settings,) = of_kind(objects, "ConfigMap")
    environment = {e["name"]: e for e in pod_spec(objects)["containers"][0]["env"]}
    name = environment["QWENFT_OPERATOR_NAME"]["value"]
    assert settings["metadata"]["name"] == f"{name}-{PLANNER}"
    field = environment["QWENFT_OPERATOR_NAMESPACE"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.namespace"
    advice = Advice.of(settings["data"], {})
    assert advice.prices == Prices(hourly={"H100-80GB": 2.5}, currency="USD")
    assert advice.networks.rates == {"p5.48xlarge": 400e9}
    assert advice.warnings == ()


def test_planning_against_a_cluster_needs_three_rights(template: Template) -> None:
    wanted = {("", "nodes", "list"), ("", "pods", "list"), ("", "configmaps", "get")}
    assert rules_of(template(), "qwenft-plan") == wanted
    manifests = yaml.safe_load_all((ROOT / "manifests" / "rbac.yaml").read_text(encoding="utf-8"))
    assert rules_of(list(manifests), "qwenft-plan") == wanted


def test_the_operator_meets_the_restricted_standard(template: Template) -> None:
    pod = pod_spec(template())
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    container = pod["containers"][0]["securityContext"]
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_the_definition_outlives_the_release(template: Template) -> None:
    (crd,) = of_kind(template(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of_kind(template("--set", "crds.enabled=false"), "CustomResourceDefinition") == []


def test_the_certificate_is_for_the_service_that_pods_call(template: Template) -> None:
    objects = template(release="prod")
    service = named(objects, "Service", "prod-qwenft")
    environment = {e["name"]: e.get("value") for e in pod_spec(objects)["containers"][0]["env"]}
    url = f"https://{service['metadata']['name']}.somewhere.svc:8443"
    assert environment["QWENFT_PROGRESS_URL"] == url
    (secret,) = of_kind(objects, "Secret")
    assert set(secret["data"]) == {"ca.crt", "tls.crt", "tls.key"}


def test_a_certificate_of_one_s_own_replaces_the_chart_s(template: Template) -> None:
    objects = template("--set", "progress.existingSecret=mine")
    assert of_kind(objects, "Secret") == []
    volumes = {item["name"]: item for item in pod_spec(objects)["volumes"]}
    assert volumes["certificates"]["secret"]["secretName"] == "mine"


def test_without_the_endpoint_nothing_of_it_is_left(template: Template) -> None:
    objects = template("--set", "progress.enabled=false")
    assert of_kind(objects, "Secret") == []
    assert [item["metadata"]["name"] for item in of_kind(objects, "Service")] == ["qwenft-metrics"]
    assert "CERTIFICATES" not in json.dumps(objects)


def test_metrics_have_a_port_and_a_service_of_their_own(template: Template) -> None:
    objects = template()
    (container,) = pod_spec(objects)["containers"]
    assert {"name": "metrics", "containerPort": 8081} in container["ports"]
    service = named(objects, "Service", "qwenft-metrics")
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8081, "metrics")
    off = template("--set", "metrics.enabled=false")
    assert "8081" not in json.dumps(off)
    assert "METRICS" not in json.dumps(off)


MONITORING = ("ServiceMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy",
              "PodDisruptionBudget")  # fmt: skip


def is_settings(item: dict[str, Any]) -> bool:
    """Return whether it is the planner's ConfigMap, which is always there."""
    return str(item["metadata"]["name"]).endswith(f"-{PLANNER}") and item["kind"] == "ConfigMap"


def test_what_needs_more_than_kubernetes_is_off_until_asked_for(template: Template) -> None:
    kinds = {item["kind"] for item in template() if not is_settings(item)}
    assert kinds & set(MONITORING) == set()


def test_each_switch_adds_its_object(template: Template) -> None:
    objects = template(
        "--set", "metrics.serviceMonitor.enabled=true,metrics.rules.enabled=true",
        "--set", "metrics.dashboard.enabled=true,networkPolicy.enabled=true",
        "--set", "podDisruptionBudget.enabled=true,metrics.rules.labels.team=ml",
    )  # fmt: skip
    objects = [item for item in objects if not is_settings(item)]
    kinds = {kind: of_kind(objects, kind) for kind in MONITORING}
    assert {kind: len(found) for kind, found in kinds.items()} == dict.fromkeys(MONITORING, 1)
    rules = kinds["PrometheusRule"][0]
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text("utf-8"))
    assert rules["spec"] == alerts
    assert rules["metadata"]["labels"]["team"] == "ml"
    board = json.loads(kinds["ConfigMap"][0]["data"]["qwenft.json"])
    assert board == json.loads((CHART / "files" / "dashboard.json").read_text("utf-8"))
    assert kinds["ConfigMap"][0]["metadata"]["labels"]["grafana_dashboard"] == "1"
    budget, policy = kinds["PodDisruptionBudget"][0], kinds["NetworkPolicy"][0]
    labels = of_kind(objects, "Deployment")[0]["spec"]["template"]["metadata"]["labels"]
    for selector in (budget["spec"]["selector"], policy["spec"]["podSelector"]):
        assert selector["matchLabels"].items() <= labels.items()
    ports = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert ports == ["progress", "metrics"]


def test_a_monitor_finds_the_metrics_service_and_no_other(template: Template) -> None:
    objects = template("--set", "metrics.serviceMonitor.enabled=true")
    (monitor,) = of_kind(objects, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    found = [
        item["metadata"]["name"]
        for item in of_kind(objects, "Service")
        if wanted.items() <= item["metadata"]["labels"].items()
    ]
    assert found == ["qwenft-metrics"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == "metrics"
    assert endpoint["honorLabels"] is True


def test_scrapers_can_be_named(template: Template) -> None:
    peer = "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    (policy,) = of_kind(
        template("--set", "networkPolicy.enabled=true", "--set", peer), "NetworkPolicy"
    )
    metrics = policy["spec"]["ingress"][1]
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]


@pytest.mark.parametrize(
    "flag",
    [
        "metrics.serviceMonitor.interval=soon",
        "metrics.port=1",
        "traces.endpoint=collector:4318",
        "replica=2",
        "image.repo=x",
        "workers=0",
        "logFormat=xml",
        "trainer.pullPolicy=Often",
    ],
)
def test_a_wrong_value_is_refused(template: Template, flag: str) -> None:
    with pytest.raises(StageError):
        template("--set", flag)


def test_lint_is_content(platform: platforms.Platform) -> None:
    assert "0 chart(s) failed" in run([platform.tool("helm"), "lint", str(CHART)])
