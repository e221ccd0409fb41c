from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedded import __main__ as command_line
from embedded import cgroups, cluster, configuration, control_plane, layout, node, storage
from embedded.layout import Layout
from embedded.stages import StageError

V1 = ("cpu", "cpuset", "memory", "systemd")


@pytest.fixture
def place(tmp_path: Path) -> Layout:
    return Layout(cache=tmp_path / "a cache")


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """Return a control group mount as version 1 has it, its oddities included."""
    mount = tmp_path / "cgroup"
    for controller in (*V1, "unified"):
        (mount / controller).mkdir(parents=True)
    (mount / "cpu,cpuacct").symlink_to("cpu")
    (mount / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    (mount / "cpuset" / "cpuset.mems").write_text("0\n")
    return mount


def test_a_node_has_a_group_in_every_hierarchy(v1: Path) -> None:
    cgroups.create("ours-1", v1)
    made = {path.parent.name for path in v1.glob("*/ours-1") if path.is_dir()}
    assert made - {"cpu,cpuacct"} == set(V1)


def test_a_fresh_cpuset_gets_the_machines_cpus(v1: Path) -> None:
    cgroups.create("ours-1", v1)
    assert (v1 / "cpuset/ours-1/cpuset.cpus").read_text() == "0-1\n"
    assert not (v1 / "memory/ours-1/cpuset.cpus").exists()


def test_the_unified_hierarchy_is_one(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "user.slice").mkdir()
    assert cgroups.folders("ours-2", tmp_path) == (tmp_path / "ours-2",)


def test_controllers_are_handed_down_in_the_unified_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory\n")
    (tmp_path / "ours-1").mkdir()
    (tmp_path / "ours-1" / "cgroup.controllers").write_text("cpu memory\n")
    cgroups.create("ours-1", tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpuset +cpu +memory"
    assert (tmp_path / "ours-1" / "cgroup.subtree_control").read_text() == "+cpu +memory"


def test_a_nodes_groups_go_with_those_below_and_no_others(v1: Path) -> None:
    (v1 / "memory/ours-1/kubepods/pod1").mkdir(parents=True)
    (v1 / "memory/ours-2").mkdir()
    cgroups.remove("ours-1", v1)
    assert not (v1 / "memory/ours-1").exists()
    assert (v1 / "memory/ours-2").exists()


def test_removing_groups_that_are_not_there_is_fine(v1: Path) -> None:
    cgroups.remove("ours-9", v1)


@pytest.mark.parametrize(("count", "withheld"), [(1, 0), (2, 12), (3, 16)])
def test_the_nodes_offer_the_machines_memory_once(count: int, withheld: int) -> None:
    total = 24 * 1024 * 1024
    assert node.reserved_mebibytes(total, count) == withheld * 1024


def test_a_nodes_mounts_are_private_before_they_cover(place: Layout) -> None:
    script = node.setup_script(node.Node(index=1, count=2, layout=place))
    lines = script.splitlines()
    private = lines.index("mount --make-rprivate /")
    mounts = [number for number, line in enumerate(lines) if line.startswith("mount ")]
    assert private == min(mounts)
    assert lines[max(mounts)] == "mount --make-rshared /"
    assert f"'{place.node('node-1')}'/kubelet /var/lib/kubelet" in script


def test_every_folder_that_a_node_covers_is_covered(place: Layout) -> None:
    script = node.setup_script(node.Node(index=1, count=2, layout=place))
    assert all(f" {folder}\n" in script for folder in node.COVERED)


def test_two_clusters_share_nothing_outside_their_caches(place: Layout, tmp_path: Path) -> None:
    other = Layout(cache=tmp_path / "another")
    groups = {node.Node(index=i, count=2, layout=at).group for i in (1, 2) for at in (place, other)}
    assert len(groups) == 4
    assert control_plane.etcd_data(place) != control_plane.etcd_data(other)


def test_a_nodes_configuration_lies_in_its_own_folder(place: Layout) -> None:
    second = node.Node(index=2, count=2, layout=place, loss=configuration.QUICK)
    node.write_configuration(second)
    etc = place.node("node-2") / "etc"
    assert json.loads((etc / "kubelet.json").read_text())["address"] == "10.90.0.12"
    assert str(place.node("node-2") / "containerd") in (etc / "containerd.toml").read_text()
    assert (etc / "cni" / "10-pods.conflist").exists()


def test_a_node_that_was_never_started_is_not_running(place: Layout) -> None:
    first = node.Node(index=1, count=2, layout=place)
    assert not node.is_running(first)
    assert node.ended_services(first) == ()
    with pytest.raises(ProcessLookupError, match="node-1 is not running"):
        node.inside(first, ["true"])


def volume(name: str, phase: str, kind: str = storage.CLASS) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "status": {"phase": phase},
        "spec": {"storageClassName": kind},
    }


def test_only_our_released_volumes_are_offered_again() -> None:
    listing = {
        "items": [
            volume("embedded-data-0", "Bound"),
            volume("embedded-data-1", "Released"),
            volume("embedded-data-2", "Available"),
            volume("theirs", "Released", "slow"),
        ]
    }
    assert storage.released(listing) == ("embedded-data-1",)


def test_an_emptied_volume_keeps_its_folder_and_what_links_lead_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    folder = tmp_path / "embedded-data-0"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "file").touch()
    (folder / "link").symlink_to(outside)
    storage.empty(tmp_path, folder.name)
    assert list(folder.iterdir()) == []
    assert (outside / "kept").exists()


def test_volumes_are_many_writers_folders(tmp_path: Path) -> None:
    first, *volumes = storage.objects(tmp_path)
    assert first["kind"] == "StorageClass"
    specs: list[Any] = [each["spec"] for each in volumes]
    assert len({spec["hostPath"]["path"] for spec in specs}) == storage.COUNT
    assert all("ReadWriteMany" in spec["accessModes"] for spec in specs)
    assert {spec["storageClassName"] for spec in specs} == {storage.CLASS}


def test_another_loss_or_program_is_another_cluster(place: Layout) -> None:
    quick = cluster.Cluster(layout=place)
    slow = cluster.Cluster(layout=place, loss=configuration.KUBERNETES_DEFAULT)
    assert cluster.identity(quick) == cluster.identity(cluster.Cluster(layout=place))
    assert cluster.identity(quick) != cluster.identity(slow)


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QWENFT_CACHE", str(tmp_path / "x" / ".." / "y"))
    assert layout.from_environment().cache == tmp_path / "y"
    monkeypatch.delenv("QWENFT_CACHE")
    assert layout.from_environment().cache == Path.home() / ".cache" / "qwenft"


def test_two_commands_take_turns(place: Layout) -> None:
    script = (
        "import pathlib, sys; from embedded import layout\n"
        "with layout.exclusive(layout.Layout(cache=pathlib.Path(sys.argv[1]))): print('mine')"
    )
    search = {**os.environ, "PYTHONPATH": str(Path(layout.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(place.cache)]
    with layout.exclusive(place):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=search)
        assert other.stdout is not None
        assert "waiting for another command" in other.stdout.readline()
        assert other.poll() is None
    rest, _ = other.communicate(timeout=30)
    assert rest == "mine\n"


def test_the_cluster_asks_for_root(place: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StageError, match="needs root") as caught:
        cluster.up(cluster.Cluster(layout=place))
    assert "KUBECONFIG" in caught.value.remedy


def test_paths_are_printed_for_scripts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWENFT_CACHE", str(tmp_path))
    assert command_line.main(["kubeconfig"]) == 0
    assert command_line.main(["path", "helm"]) == 0
    kubeconfig, helm = capsys.readouterr().out.split()
    assert kubeconfig == str(tmp_path / "embedded" / "kubeconfig")
    assert Path(helm).name == "helm"


def test_a_cluster_that_is_not_there_is_not_healthy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QWENFT_CACHE", str(tmp_path))
    assert command_line.main(["status"]) == 1


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(["upp"])
    assert caught.value.code == 2
    assert "upp" in capsys.readouterr().err
