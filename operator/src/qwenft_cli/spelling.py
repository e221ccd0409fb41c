"""A typed spec back into the definition's spelling: so Python code submits what it built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from qwenft_cli.document import API_VERSION, KIND, Document
from qwenft_plan.sections import Script, Volume
from qwenft_plan.spec import FinetuneSpec

__all__ = ["document_of", "spelled"]


def document_of(name: str, spec: FinetuneSpec, namespace: str = "") -> Document:
    """Return the run ``name`` with a typed spec, as if it had been read from a file."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spelled(spec)}
    return Document(name=name, namespace=namespace, body=body, spec=spec)


def spelled(value: Any) -> Any:
    """Return dataclasses as mappings in camelCase; what is at its default is left out.

    ``FinetuneSpec.from_mapping`` reads it back to an equal spec.
    """
    if isinstance(value, Volume):
        return {"persistentVolumeClaim": {"claimName": value.claim_name}}
    if isinstance(value, Script):
        return {"configMap": {"name": value.config_map, "key": value.key}}
    if is_dataclass(value) and not isinstance(value, type):
        kept = (item for item in fields(value) if getattr(value, item.name) != _default(item))
        return {_camel(item.name): spelled(getattr(value, item.name)) for item in kept}
    if isinstance(value, tuple):
        return [spelled(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _default(item: Any) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
