"""Persistent volumes: folders of this machine that every node sees, so ReadWriteMany holds.

A claim without a class gets one. A volume whose claim was deleted is ``Released``; ``recycle``
empties its folder and offers it again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

CLASS = "qwenft-embedded"
COUNT = 8
USER = 1000


def volume_name(number: int) -> str:
    """Return the name of a volume, counting from 0."""
    return f"embedded-data-{number}"


def make_folders(root: Path) -> None:
    """Make the volumes' folders, writable for the user that pods run as."""
    for number in range(COUNT):
        folder = root / volume_name(number)
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, USER, USER)
        folder.chmod(0o2775)


def objects(root: Path) -> list[dict[str, object]]:
    """Return the storage class and the volumes."""
    storage_class: dict[str, object] = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    return [storage_class, *(_volume(root, number) for number in range(COUNT))]


def _volume(root: Path, number: int) -> dict[str, object]:
    spec = {
        "capacity": {"storage": "50Gi"},
        "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": CLASS,
        "hostPath": {"path": str(root / volume_name(number)), "type": "Directory"},
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name(number)},
        "spec": spec,
    }


def released(listing: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of this module's volumes whose claim is gone, from a listing of volumes."""
    return tuple(
        item["metadata"]["name"]
        for item in listing["items"]
        if item["status"].get("phase") == "Released"
        and item["spec"].get("storageClassName") == CLASS
    )


def empty(root: Path, name: str) -> None:
    """Remove everything in a volume's folder."""
    for entry in (root / name).iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
