"""Certificates by cert-manager and labels of one's own, in what the chart renders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from bare.plane import ROOT
from charted import Objects, named, of_kind, pod_spec
from embedded import binaries, layout, versions
from embedded.stages import StageError, direct_environment, run

pytestmark = pytest.mark.cluster

Template = Callable[..., Objects]


@pytest.fixture(scope="module")
def template() -> Template:
    """Return a function that renders the chart with values."""
    place, pins = layout.from_environment(), versions.load()
    for product in binaries.products(pins):
        binaries.build(place, product)
    helm = str(binaries.program(place, pins, "helm"))

    def call(*flags: str, release: str = "qwenft") -> Objects:
        words = ["template", release, str(ROOT / "charts/qwenft"), "-n", "somewhere"]
        text = run(
            [helm, *words, "--kube-version", "1.35", *flags], environment=direct_environment()
        )
        return [item for item in yaml.safe_load_all(text) if item]

    return call


def test_cert_manager_makes_the_certificate_where_it_is_asked_to(template: Template) -> None:
    objects = template("--set", "progress.certManager.enabled=true", release="prod")
    assert of_kind(objects, "Secret") == []
    leaf = named(objects, "Certificate", "prod-qwenft-progress")["spec"]
    volumes = {item["name"]: item for item in pod_spec(objects)["volumes"]}
    assert leaf["secretName"] == volumes["certificates"]["secret"]["secretName"]
    assert leaf["dnsNames"][0] == "prod-qwenft.somewhere.svc"
    # It is signed by an authority that stays: pods trust it for as long as they run.
    authority = named(objects, "Issuer", leaf["issuerRef"]["name"])["spec"]["ca"]["secretName"]
    (root,) = [item["spec"] for item in of_kind(objects, "Certificate") if "isCA" in item["spec"]]
    assert root["secretName"] == authority
    assert root["duration"] == "87600h"
    assert named(objects, "Issuer", root["issuerRef"]["name"])["spec"] == {"selfSigned": {}}


def test_an_issuer_of_one_s_own_signs_alone(template: Template) -> None:
    issuer = "progress.certManager.issuerRef"
    objects = template(
        "--set", f"progress.certManager.enabled=true,{issuer}.kind=ClusterIssuer,{issuer}.name=ca"
    )
    (leaf,) = of_kind(objects, "Certificate")
    assert leaf["spec"]["issuerRef"] == {"kind": "ClusterIssuer", "name": "ca"}
    assert of_kind(objects, "Issuer") == []


def test_a_secret_of_one_s_own_goes_before_cert_manager(template: Template) -> None:
    objects = template("--set", "progress.certManager.enabled=true,progress.existingSecret=mine")
    assert of_kind(objects, "Certificate") == []


def test_labels_of_one_s_own_are_on_every_object(template: Template) -> None:
    labelled = template(
        "--set", "commonLabels.team=ml,podDisruptionBudget.enabled=true",
        "--set", "networkPolicy.enabled=true,progress.certManager.enabled=true",
        "--set", "metrics.serviceMonitor.enabled=true,metrics.dashboard.enabled=true",
    )  # fmt: skip
    without = {i["kind"] for i in labelled if i["metadata"].get("labels", {}).get("team") != "ml"}
    assert without == {"CustomResourceDefinition"}
    (deployment,) = of_kind(labelled, "Deployment")
    assert "team" not in deployment["spec"]["selector"]["matchLabels"], "it cannot be changed"


@pytest.mark.parametrize("flag", ["commonLabels.team=1", "progress.certManager.issuer=x"])
def test_a_wrong_value_is_refused(template: Template, flag: str) -> None:
    with pytest.raises(StageError):
        template("--set", flag)
