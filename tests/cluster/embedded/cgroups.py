"""The control groups of a node: one tree a node in every v1 controller, or in the v2 hierarchy."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path

from embedded.stages import wait_until

MOUNT = Path("/sys/fs/cgroup")
_INHERITED = ("cpuset.cpus", "cpuset.mems")


def hierarchies(mount: Path = MOUNT) -> tuple[Path, ...]:
    """Return the top of every hierarchy that the kubelet looks at (``systemd`` is one)."""
    if (mount / "cgroup.controllers").exists():
        return (mount,)
    return tuple(
        path
        for path in sorted(mount.iterdir())
        if path.is_dir() and not path.is_symlink() and path.name != "unified"
    )


def folders(group: str, mount: Path = MOUNT) -> tuple[Path, ...]:
    """Return the group's folder in every hierarchy."""
    return tuple(top / group for top in hierarchies(mount))


def create(group: str, mount: Path = MOUNT) -> None:
    """Make the node's groups; a fresh v1 cpuset holds no CPU until it is told."""
    for folder in folders(group, mount):
        folder.mkdir(exist_ok=True)
        for name in _INHERITED:
            source = folder.parent / name
            if source.exists():
                (folder / name).write_text(source.read_text())
        for place in (folder.parent, folder):
            _hand_down(place)


def _hand_down(place: Path) -> None:
    """Let the groups below have every controller of this one; v1 has nothing of the kind."""
    controllers = place / "cgroup.controllers"
    if controllers.exists():
        wanted = " ".join(f"+{name}" for name in controllers.read_text().split())
        (place / "cgroup.subtree_control").write_text(wanted)


def _remove_tree(folder: Path) -> bool:
    """Remove a group and those below, deepest first; whether all are gone."""
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(FileNotFoundError, OSError):
            Path(place).rmdir()
    return not folder.exists()


def remove(group: str, mount: Path = MOUNT) -> None:
    """Remove the node's groups; the kernel may still be burying the processes killed in them."""
    for folder in folders(group, mount):
        gone = partial(_remove_tree, folder)
        wait_until(gone, seconds=15, what=f"the removal of {folder}")
