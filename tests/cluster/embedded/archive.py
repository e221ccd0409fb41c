"""Small OCI archives, written here: containerd imports them and so learns of an image.

For an image whose layers are linked into the snapshots, no layer is carried: each layer's place is
taken by a short text, never unpacked, for the chain of ``diff_ids`` in the configuration names
snapshots that are there.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """Content known by its digest."""

    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        """The content's name."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    def descriptor(self) -> dict[str, Any]:
        """Return what another document says to refer to this one."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the name of each layer's snapshot: OCI image specification, "Layer ChainID"."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if not chain:
            chain.append(diff_id)
            continue
        joined = f"{chain[-1]} {diff_id}".encode()
        chain.append(f"sha256:{hashlib.sha256(joined).hexdigest()}")
    return tuple(chain)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def stand_ins(diff_ids: tuple[str, ...]) -> tuple[Blob, ...]:
    """Return the short texts that stand for layers."""
    return tuple(
        Blob(media_type=LAYER_TYPE, content=f"{diff_id}\n".encode()) for diff_id in diff_ids
    )


def write(target: Path, name: str, config: bytes, layers: tuple[Blob, ...]) -> None:
    """Write an OCI archive of one image; ``config`` is its configuration document."""
    config_blob = Blob(media_type=CONFIG_TYPE, content=config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config_blob.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
    }
    manifest_blob = Blob(media_type=MANIFEST_TYPE, content=_json(manifest))
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {
        "schemaVersion": 2,
        "manifests": [{**manifest_blob.descriptor(), "annotations": annotations}],
    }
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        **{
            f"blobs/{blob.digest.replace(':', '/')}": blob.content
            for blob in (config_blob, manifest_blob, *layers)
        },
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as archive:
        for path, content in files.items():
            _add(archive, path, content)


def _add(archive: tarfile.TarFile, path: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    entry.mode = mode
    archive.addfile(entry, io.BytesIO(content))


def one_program(program: Path) -> tuple[bytes, Blob]:
    """Return configuration and layer of an image that is one static program."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, program.name, program.read_bytes(), mode=0o755)
    layer = Blob(media_type=LAYER_TYPE, content=buffer.getvalue())
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    }
    return _json(config), layer
