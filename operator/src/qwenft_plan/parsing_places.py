"""Parsing what lies somewhere: model, dataset and output, each with its path, URL or volume.

Every function raises ``SpecError`` with the field's path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwenft_plan import fields, places
from qwenft_plan.errors import SpecError
from qwenft_plan.sections import Dataset, Hub, Model, Output, Volume

__all__ = ["dataset", "model", "output"]

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# A volume mounted over one of these would hide what the container needs.
_SYSTEM_DIRECTORIES = (
    "bin",
    "dev",
    "etc",
    "lib",
    "lib64",
    "opt",
    "proc",
    "sbin",
    "sys",
    "tmp",
    "usr",
)


def _volume(mapping: Mapping[str, Any], path: str) -> Volume | None:
    volume = fields.section(mapping, "volume", path)
    if not volume:
        return None
    fields.only_known(volume, ("persistentVolumeClaim",), f"{path}.volume")
    where = f"{path}.volume.persistentVolumeClaim"
    claim = fields.section(volume, "persistentVolumeClaim", f"{path}.volume")
    fields.only_known(claim, ("claimName",), where)
    name = fields.text(claim, "claimName", where)
    if not name:
        raise SpecError(f"{where}.claimName", "is needed: the claim's name")
    return Volume(claim_name=name)


def _absolute(mapping: Mapping[str, Any], path: str, *, needed: bool) -> str:
    value = fields.text(mapping, "path", path)
    if not value and not needed:
        return ""
    parts = value.split("/")
    if not value.startswith("/") or len(parts) < 2 or not parts[1] or ".." in parts:  # noqa: PLR2004
        raise SpecError(f"{path}.path", f"must be an absolute path such as /data/x, not {value!r}")
    # Only a mounted volume can hide a directory of the container; a local run may use any.
    if parts[1] in _SYSTEM_DIRECTORIES and mapping.get("volume"):
        message = f"/{parts[1]} belongs to the container; choose a directory such as /data"
        raise SpecError(f"{path}.path", message)
    return value


def _place(mapping: Mapping[str, Any], path: str) -> str:
    """Return an absolute path, or a URL without the slash at its end."""
    value = fields.text(mapping, "path", path)
    if not places.is_url(value):
        return _absolute(mapping, path, needed=True)
    problem = places.url_problem(value)
    if problem is not None:
        raise SpecError(f"{path}.path", problem)
    if mapping.get("volume"):
        raise SpecError(f"{path}.volume", "is for a path in a volume; a URL has none")
    return value.rstrip("/")


def model(mapping: Mapping[str, Any], path: str) -> Model:
    """Parse ``spec.model``."""
    fields.only_known(mapping, ("name", "path", "volume", "config"), path)
    name = fields.text(mapping, "name", path)
    where = _absolute(mapping, path, needed=False)
    if not name and not where:
        raise SpecError(path, "needs a name (Qwen/Qwen1.5-7B) or a path in a volume")
    config = dict(fields.section(mapping, "config", path))
    return Model(name=name, path=where, volume=_volume(mapping, path), config=config)


def dataset(mapping: Mapping[str, Any], path: str) -> Dataset:
    """Parse ``spec.dataset``."""
    fields.only_known(mapping, ("path", "volume"), path)
    return Dataset(path=_place(mapping, path), volume=_volume(mapping, path))


def _hub(output: Mapping[str, Any], path: str) -> Hub | None:
    if output.get("hub") is None:
        return None
    mapping, where = fields.section(output, "hub", path), f"{path}.hub"
    fields.only_known(mapping, ("repository", "private"), where)
    repository = fields.text(mapping, "repository", where)
    if not _REPOSITORY.fullmatch(repository):
        message = f"must be owner/name as on the hub, not {repository!r}"
        raise SpecError(f"{where}.repository", message)
    private = fields.boolean(mapping, "private", where, default=True)
    return Hub(repository=repository, private=private)


def output(mapping: Mapping[str, Any], path: str) -> Output:
    """Parse ``spec.output``."""
    fields.only_known(mapping, ("path", "volume", "mergeAdapter", "hub"), path)
    return Output(
        path=_place(mapping, path),
        volume=_volume(mapping, path),
        merge_adapter=fields.boolean(mapping, "mergeAdapter", path, default=False),
        hub=_hub(mapping, path),
    )
