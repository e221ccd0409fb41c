"""Every command and YAML of the documentation before a real apiserver, as a reader types them.

The control plane is real, the chart is installed by Helm and the operator runs with the rights that
it gets by that; nodes and pods are KWOK's. What needs more is named in ``LEFT_OUT``.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bare import nodes
from bare.plane import Plane, plane
from bare.process import Operator
from documented import ROOT, RUNS, Shown, blocks, page_run, shown
from embedded import binaries, layout, versions
from embedded.stages import direct_environment

pytestmark = [pytest.mark.cluster, pytest.mark.full]

LEFT_OUT = {
    r"qwenft logs .*": "a kubelet has the logs: cluster/test_e2e_client.py",
    r"helm test .*": "a pod has to run: cluster/test_chart.py",
    r"qwenft (run|prepare) .*": "torch: test_documentation.py",
    r"(qwenft|kubectl qft) VERB.*|(qwenft|kubectl|helm) [a-z]+": "in a sentence",
    r"kubectl apply .*-k manifests": "in the desk's own making, before Helm has installed the same",
    r"(qwenft [a-z]+ )?.*\bmy-72b.yaml.*": "without a cluster: test_documentation.py",
}
LAST = "docs/howto/upgrade.md"
"""Removes what the others need."""
SHOWN = sorted(shown("qwenft", "kubectl", "helm"), key=lambda each: each.where == LAST)
EXECUTED = [each for each in SHOWN if not any(re.fullmatch(left, each.text) for left in LEFT_OUT)]
ENDED = re.compile(r"\b(qwen-stdlib|done)\b")
"""Runs that end, so that nobody watches them for ever."""
WATCHES = re.compile(r"--watch|-w\b")
STAND_INS = {
    "servicemonitors": ("ServiceMonitor", "monitoring.coreos.com"),
    "prometheusrules": ("PrometheusRule", "monitoring.coreos.com"),
    "kustomizations": ("Kustomization", "kustomize.toolkit.fluxcd.io"),
}
"""Kinds of the Prometheus operator and of Flux, which are not here."""
NAMED = {
    "qwen-7b-support": page_run("docs/tutorial/3-run.md"),
    "qwen-stdlib": yaml.safe_load((ROOT / "manifests/samples/qwen-stdlib.yaml").read_text("utf-8")),
}
"""Runs that commands call by their name."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where the reader sits: a folder with the repository's files, a cluster, three programs."""

    plane: Plane
    folder: Path
    environment: Mapping[str, str]

    def types(self, command: str, *, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Execute what is typed."""
        words = ["timeout", str(seconds), "bash", "-euc", command]
        return subprocess.run(
            words, cwd=self.folder, env=dict(self.environment), capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def applies(self, body: Mapping[str, Any], *words: str) -> str:
        """Have the apiserver check a document."""
        return self.plane.kubectl(
            "apply", "--dry-run=server", "--server-side", *words, "-f", "-", stdin=body
        )


def programs(made: Plane, folder: Path) -> Path:
    """Put the three programs into one folder."""
    folder.mkdir()
    for name in ("kubectl", "helm"):
        (folder / name).symlink_to(made.program(name))
    for name in ("qwenft", "kubectl-qft"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m qwenft_cli "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def stand_in(plural: str, kind: str, group: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "versions": [version],
                 "names": {"kind": kind, "plural": plural, "singular": kind.lower()}},
    }  # fmt: skip


def furnish(made: Plane) -> None:
    """Make what a reader's cluster has: nodes, claims, a namespace, monitoring's kinds."""
    nodes.make_nodes(made, 4, gpus=8)
    succeeds = ("qwen-stdlib", "my-run", "done")
    nodes.start_kwok(made, *(nodes.ending(1, 0, seconds=2, run=run) for run in succeeds))
    made.namespace("team")
    made.claims("default", "data", "models", "datasets", "results")
    kinds = [stand_in(plural, *named) for plural, named in STAND_INS.items()]
    for body in kinds:
        made.kubectl("create", "-f", "-", stdin=body)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    place, pins = layout.from_environment(), versions.load()
    for product in (*binaries.products(pins), *binaries.on_demand(pins)):
        binaries.build(place, product)
    folder = tmp_path_factory.mktemp("reader")
    for name in ("manifests", "charts", "docs"):
        (folder / name).symlink_to(ROOT / name)
    with plane(tmp_path_factory.mktemp("plane"), place) as made:
        for file in ("rbac.yaml", "crd.yaml"):  # they come with the chart
            made.kubectl("delete", "-f", str(ROOT / "manifests" / file))
        path = f"{programs(made, folder / 'bin')}:{os.environ['PATH']}"
        environment = direct_environment() | {
            "KUBECONFIG": str(made.kubeconfig("admin")), "PATH": path, "HOME": str(folder),
            "PYTHONPATH": f"{ROOT}/operator/src:{ROOT}/trainer_image/src", "COLUMNS": "80",
        }  # fmt: skip
        furnish(made)
        found = Desk(plane=made, folder=folder, environment=environment)
        plain = found.types("kubectl apply --server-side -k manifests --dry-run=server")
        assert plain.returncode == 0, plain.stderr
        installed = found.types("helm install qwenft charts/qwenft --namespace qwenft-system")
        assert installed.returncode == 0, installed.stderr
        with Operator.running(made, QWENFT_OPERATOR_NAMESPACE="qwenft-system"):
            begin(found)
            yield found


def begin(desk: Desk) -> None:
    """Make the run that pages call NAME, and lessons to look at."""
    run = copy.deepcopy(page_run("docs/index.md")) | {"metadata": {"name": "done"}}
    desk.plane.kubectl("create", "-n", "default", "-f", "-", stdin=run)
    lessons = {"apiVersion": "v1", "kind": "ConfigMap",
               "metadata": {"name": "qwenft-lessons", "namespace": "qwenft-system"}}  # fmt: skip
    desk.plane.kubectl("create", "-f", "-", stdin=lessons)
    wait = ["wait", "-n", "default", "qft/done", "--for=condition=Succeeded", "--timeout=90s"]
    desk.plane.kubectl(*wait)


def turned_to(desk: Desk, where: str) -> None:
    """Begin a page without the runs of the page before."""
    mark = desk.folder / "page"
    if mark.exists() and mark.read_text("utf-8") == where:
        return
    mark.write_text(where, encoding="utf-8")
    runs = desk.plane.kubectl("get", "qft", "-n", "default", "-o", "name").split()
    if others := [run for run in runs if not run.endswith("/done")]:
        desk.plane.kubectl("delete", "-n", "default", *others)
        gone = ["--for=delete", "pods", "-n", "default", "-l", "qwenft.dev/run!=done"]
        desk.plane.kubectl("wait", *gone, "--timeout=60s")


def prepared(desk: Desk, each: Shown) -> str:
    """Put the files there that the page means, and fill its placeholders in."""
    turned_to(desk, each.where)
    text = re.sub(r"\bNAME\b", "done", each.text).replace(" FILE", " my-run.yaml")
    for name in re.findall(r"(?<![\w/.-])[\w-]+\.yaml", text):
        content = {} if name == "lessons.yaml" else page_run(each.where)
        (desk.folder / name).write_text(yaml.safe_dump(content))
    for name in NAMED.keys() & set(text.split()):
        desk.plane.kubectl("apply", "-n", "default", "-f", "-", stdin=NAMED[name])
        where = ["-n", "default", f"qft/{name}"]
        desk.plane.kubectl("wait", *where, "--for=condition=Planned", "--timeout=60s")
    return text


def test_the_reader_s_commands_are_these() -> None:
    assert len(EXECUTED) >= 35
    assert {each.text.split()[0] for each in EXECUTED} == {"qwenft", "kubectl", "helm"}
    unused = [left for left in LEFT_OUT if not any(re.fullmatch(left, e.text) for e in SHOWN)]
    assert unused == []


def test_every_whole_document_is_accepted(desk: Desk) -> None:
    for where, run in RUNS:
        assert "serverside-applied" in desk.applies(run, "-n", "default"), where
    wrong = copy.deepcopy(RUNS[0][1])
    wrong["spec"]["oddity"] = 1
    with pytest.raises(Exception, match="oddity"):
        desk.applies(wrong, "-n", "default")


def test_every_other_yaml_is_accepted_where_it_belongs(desk: Desk) -> None:
    kinds = []
    for where, text in blocks("yaml"):
        for part in yaml.safe_load_all(text):
            kinds.append(part.get("kind") or "/".join(part))
            if set(part) == {"spec"}:
                run = copy.deepcopy(page_run(where))
                for section, fields in part["spec"].items():
                    run["spec"][section] = run["spec"].get(section, {}) | fields
                assert "applied" in desk.applies(run, "-n", "default"), where
            elif set(part) == {"status"}:
                run = copy.deepcopy(page_run(where)) | {"metadata": {"name": "done"}} | part
                options = ("-n", "default", "--subresource=status", "--force-conflicts")
                assert "applied" in desk.applies(run, *options), where
            elif "planner" in part:
                (desk.folder / "values.yaml").write_text(text)
                words = "qwenft charts/qwenft --namespace qwenft-system --dry-run=server"
                done = desk.types(f"helm upgrade {words} -f values.yaml")
                assert done.returncode == 0, done.stderr
            elif part.get("kind") != "QwenFineTune":
                assert "applied" in desk.applies(part, "-n", "qwenft-system"), where
    assert {"spec", "status", "planner", "PersistentVolumeClaim"} <= set(kinds)


def test_the_python_of_the_how_to_works(desk: Desk) -> None:
    first, second = (body for where, body in blocks("python") if where == "docs/howto/python.md")
    run = copy.deepcopy(page_run("docs/index.md")) | {"metadata": {"name": "my-run"}}
    (desk.folder / "my-run.yaml").write_text(yaml.safe_dump(run))
    (desk.folder / "howto.py").write_text(first + second)
    done = desk.types(f"{sys.executable} howto.py", seconds=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeeded" in done.stdout


@pytest.mark.parametrize("each", EXECUTED, ids=lambda each: f"{each.where}: {each.text}"[:70])
def test_a_command_does_what_the_page_says(desk: Desk, each: Shown) -> None:
    text = prepared(desk, each)
    if text.startswith("helm install"):
        text = text.replace("helm install", "helm upgrade --install", 1)  # it is there already
    watches = WATCHES.search(text) is not None and ENDED.search(text) is None
    done = desk.types(text, seconds=5 if watches else 60)
    assert done.returncode == (124 if watches else 0), done.stdout + done.stderr
    at_the_end = watches and "-o json" in text
    assert bool(done.stdout.strip()) != at_the_end, "it says something, or waits for the end"
    if "-o report.html" in text:
        assert text.split()[2] in (desk.folder / "report.html").read_text("utf-8")
