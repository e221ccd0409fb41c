from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from embedded import binaries, versions
from embedded.layout import Layout
from embedded.stages import StageError

PINS = versions.load()
PRODUCTS = {
    product.name: product
    for product in (
        *binaries.products(PINS),
        *binaries.on_demand(PINS),
        binaries.next_helm(PINS),
        binaries.kueue(PINS),
        binaries.training_operator(PINS),
        binaries.kube_score(PINS),
        binaries.cyclonus(PINS),
    )
}
# Where a product's version must stand in its go.mod.
MODULES = {
    "kubernetes": "k8s.io/kubernetes",
    "etcd": "go.etcd.io/etcd/server/v3",
    "coredns": "github.com/coredns/coredns",
    "helm": "helm.sh/helm/v3",
    "helm4": "helm.sh/helm/v4",
    "kueue": "sigs.k8s.io/kueue",
    "trainingoperator": "github.com/kubeflow/training-operator",
    "kubescore": "github.com/zegl/kube-score",
    "cyclonus": "github.com/mattfenwick/cyclonus",
    "kwok": "sigs.k8s.io/kwok",
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(cache=tmp_path / "cache")


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a ``go`` on the path that notes its calls; a file ``broken`` makes it fail."""
    folder = tmp_path / "tools"
    folder.mkdir()
    program = folder / "go"
    program.write_text(
        f'#!/bin/sh\necho "$PWD $@" >> {folder}/calls\n'
        f"if [ -e {folder}/broken ]; then echo no such module >&2; exit 1; fi\n"
        'touch "$GOBIN/made"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize("name", sorted(MODULES))
def test_go_modules_name_the_pinned_versions(name: str) -> None:
    text = (PRODUCTS[name].source / "go.mod").read_text()
    required = re.findall(
        rf"^(?:require )?\s*{re.escape(MODULES[name])} (v\S+)", text, re.MULTILINE
    )
    assert required == [PINS.go[name]]


def test_the_parts_of_kubernetes_are_those_of_its_release() -> None:
    text = (PRODUCTS["kubernetes"].source / "go.mod").read_text()
    replaced = set(re.findall(r"^\s*k8s\.io/\S+ => k8s\.io/\S+ (v\S+)", text, re.MULTILINE))
    assert replaced == {PINS.go["kubernetes"].replace("v1.", "v0.")}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_is_held_by_hashes(name: str) -> None:
    sums = (PRODUCTS[name].source / "go.sum").read_text()
    assert re.search(
        rf"^{re.escape(MODULES[name])} {re.escape(PINS.go[name])} h1:", sums, re.MULTILINE
    )


def test_every_pinned_product_is_built_and_no_other() -> None:
    assert set(PRODUCTS) == set(PINS.go)


def test_kubernetes_says_which_version_it_is() -> None:
    flags = PRODUCTS["kubernetes"].linker_flags
    assert f"gitVersion={PINS.go['kubernetes']}" in flags
    assert "gitMajor=1" in flags


def test_tools_are_installed_and_programs_built(tmp_path: Path) -> None:
    assert binaries.build_command(PRODUCTS["etcd"], tmp_path)[:2] == ["go", "install"]
    command = binaries.build_command(PRODUCTS["coredns"], tmp_path)
    assert command[command.index("-o") + 1] == str(tmp_path / "coredns")


def test_a_pin_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("one")
    first = binaries.pin(tmp_path)
    (tmp_path / "go.mod").write_text("two")
    second = binaries.pin(tmp_path)
    (tmp_path / "go.mod").rename(tmp_path / "go.sum")
    third = binaries.pin(tmp_path)
    assert len({first, second, third}) == 3
    (tmp_path / "go.sum").rename(tmp_path / "go.mod")
    assert binaries.pin(tmp_path) == second


def test_a_program_is_found_by_its_name(layout: Layout) -> None:
    path = binaries.program(layout, PINS, "kubelet")
    assert path.name == "kubelet"
    assert path.parent.name.startswith(f"kubernetes-{PINS.go['kubernetes']}-")
    with pytest.raises(KeyError, match="docker"):
        binaries.program(layout, PINS, "docker")


def test_a_product_is_built_once(layout: Layout, go: Path) -> None:
    binaries.build(layout, PRODUCTS["helm"])
    binaries.build(layout, PRODUCTS["helm"])
    calls = (go / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].startswith(f"{PRODUCTS['helm'].source} install ")
    assert [file.name for file in binaries.home(layout, PRODUCTS["helm"]).iterdir()] == ["made"]


def test_a_failed_build_leaves_nothing_that_looks_finished(layout: Layout, go: Path) -> None:
    (go / "broken").touch()
    with pytest.raises(StageError) as caught:
        binaries.build(layout, PRODUCTS["helm"])
    assert "no such module" in caught.value.report()
    assert "to do: " in caught.value.report()
    assert not binaries.home(layout, PRODUCTS["helm"]).exists()
    (go / "broken").unlink()
    binaries.build(layout, PRODUCTS["helm"])
    assert binaries.home(layout, PRODUCTS["helm"]).is_dir()


def test_what_a_cut_off_build_left_is_not_kept(layout: Layout, go: Path) -> None:
    home = binaries.home(layout, PRODUCTS["helm"])
    partial = home.with_name(f"{home.name}.partial")
    partial.mkdir(parents=True)
    (partial / "half").touch()
    binaries.build(layout, PRODUCTS["helm"])
    assert [file.name for file in home.iterdir()] == ["made"]
    assert (go / "calls").exists()


def test_without_go_the_way_out_is_named(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StageError, match="go") as caught:
        binaries.build(layout, PRODUCTS["helm"])
    assert caught.value.remedy.startswith("install Go")


def test_a_package_that_no_distribution_has_is_missing() -> None:
    assert binaries.missing_packages(("dpkg", "no-such-package-here")) == ("no-such-package-here",)


def test_nothing_is_installed_where_nothing_is_missing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "run", lambda *_, **__: pytest.fail("ran something"))
    binaries.install_packages(layout, ("dpkg",))
    assert not layout.logs.exists()


def test_a_pin_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="base_suite"):
        versions.parse("[go]\n[debian]\npackages = []\n")
