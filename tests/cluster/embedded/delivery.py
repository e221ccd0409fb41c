"""Giving a node an image without copying it, by hard links from the builder's layers.

Each layer becomes the snapshot that its chain of digests names; an archive of a few kilobytes then
tells containerd of the image, which finds its snapshots already there. Both stores lie in the cache
folder, on one file system. 5.6 GB take seconds this way.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from embedded import archive, images, node
from embedded.stages import StageError, run

_UPPER = re.compile(r"upperdir=([^,\s]+)")
_BOTTOM = re.compile(r"^mount -t bind (\S+) ", re.MULTILINE)


def snapshot_folder(mounts: str) -> Path:
    """Return where a new snapshot's files go, from the mount command that ``ctr`` prints.

    Raises ``ValueError`` where it names none.
    """
    found = _UPPER.search(mounts) or _BOTTOM.search(mounts)
    if found is None:
        raise ValueError(f"no folder in {mounts!r}")
    return Path(found.group(1))


def _state_file(target: node.Node) -> Path:
    return target.folder / "images.json"


def delivered(target: node.Node) -> dict[str, str]:
    """Return the digest of each image that the node was given, by name."""
    file = _state_file(target)
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _snapshots(target: node.Node) -> frozenset[str]:
    listing = node.ctr(target, "snapshots", "list")
    return frozenset(line.split()[0] for line in listing.splitlines()[1:] if line.strip())


def _link_layer(target: node.Node, layer: images.Layer, name: str, parent: str) -> None:
    key = f"linking-{name}"
    if key in _snapshots(target):
        # Left by a run that was cut off.
        node.ctr(target, "snapshots", "remove", key)
    words = ["snapshots", "prepare", "--target", "/unused", key, *([parent] if parent else [])]
    folder = snapshot_folder(node.ctr(target, *words))
    run(["cp", "--archive", "--link", f"{layer.files}/.", folder])
    node.ctr(target, "snapshots", "commit", name, key)


def deliver(target: node.Node, image: images.Stored) -> bool:
    """Give a running node an image; whether there was anything to do."""
    if delivered(target).get(image.name) == image.digest:
        return False
    if image.layers[0].files.stat().st_dev != target.folder.stat().st_dev:
        raise StageError(
            f"{image.layers[0].files} and {target.folder} lie on two file systems",
            remedy="put QWENFT_CACHE on one file system",
        )
    diff_ids = tuple(layer.diff_id for layer in image.layers)
    names = archive.chain_ids(diff_ids)
    present = _snapshots(target)
    for layer, name, parent in zip(image.layers, names, ("", *names), strict=False):
        if name not in present:
            _link_layer(target, layer, name, parent)
    file = target.folder / "image.tar"
    archive.write(file, image.name, image.config, archive.stand_ins(diff_ids))
    node.ctr(target, "images", "import", file, log=target.log("images"))
    file.unlink()
    _release(target, names)
    _record(target, image)
    return True


def _release(target: node.Node, names: tuple[str, ...]) -> None:
    """Leave the snapshots to their image, so that those of a replaced one are collected."""
    for name in names:
        node.ctr(target, "snapshots", "label", name, "containerd.io/gc.root=")


def _record(target: node.Node, image: images.Stored) -> None:
    partial = _state_file(target).with_suffix(".partial")
    known = {**delivered(target), image.name: image.digest}
    partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
    partial.replace(_state_file(target))
