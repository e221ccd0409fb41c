"""Reading the user's file: the one QwenFineTune in a YAML (or JSON) document."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qwenft_cli.failure import BAD_INPUT, CliError
from qwenft_plan.errors import SpecError
from qwenft_plan.spec import FinetuneSpec

__all__ = ["API_VERSION", "KIND", "Document", "load", "of_body"]

API_VERSION = "qwenft.dev/v1alpha1"
KIND = "QwenFineTune"
_NEXT = "Correct the file and run the command again."


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One QwenFineTune as the user wrote it (``body``) and as the planner reads it (``spec``)."""

    name: str
    namespace: str
    """Empty when the file leaves it to the command line or the kubeconfig."""
    body: Mapping[str, Any]
    spec: FinetuneSpec


class _Loader(yaml.SafeLoader):
    """Reads numbers as kubectl does: ``1e-4``, without a point, is one."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: str) -> Document:
    """Read ``path`` (``-`` is standard input).

    Raises :class:`CliError` with exit code 2 when the file cannot be read, is no YAML, holds no or
    several QwenFineTunes, or has a wrong field.
    """
    return _document(path, _only_run(path, _documents(path, _read(path))))


def of_body(body: Mapping[str, Any]) -> Document:
    """Check a QwenFineTune that is in memory; raises as :func:`load` does."""
    if body.get("kind") != KIND:
        raise _wrong("run", f"kind is {body.get('kind')!r}, expected {KIND}")
    return _document("run", _only_run("run", [body]))


def _document(path: str, body: Mapping[str, Any]) -> Document:
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str) or not name:
        raise _wrong(path, "metadata.name is missing")
    return Document(
        name=name, namespace=str(metadata.get("namespace") or ""), body=body, spec=_spec(path, body)
    )


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise CliError(
            f"{path}: {reason}",
            next_step="Name the YAML file of a QwenFineTune, as those in manifests/samples/.",
            exit_code=BAD_INPUT,
        ) from None


def _documents(path: str, text: str) -> list[Any]:
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else path
        raise _wrong(line, f"is not YAML ({getattr(error, 'problem', None) or error})") from None


def _only_run(path: str, documents: list[Any]) -> Mapping[str, Any]:
    runs = [body for body in documents if isinstance(body, Mapping) and body.get("kind") == KIND]
    if len(runs) != 1:
        there = [str(body.get("kind")) for body in documents if isinstance(body, Mapping)]
        held = f"{len(runs)} of them" if runs else " and ".join(sorted(set(there))) or "no object"
        raise _wrong(path, f"must hold exactly one {KIND}, but holds {held}")
    if runs[0].get("apiVersion") != API_VERSION:
        raise _wrong(path, f"apiVersion is {runs[0].get('apiVersion')!r}, expected {API_VERSION}")
    return runs[0]


def _spec(path: str, body: Mapping[str, Any]) -> FinetuneSpec:
    spec = body.get("spec")
    if not isinstance(spec, Mapping):
        raise _wrong(path, "spec is missing")
    try:
        return FinetuneSpec.from_mapping(spec)
    except SpecError as error:
        raise _wrong(path, str(error)) from None


def _wrong(path: str, message: str) -> CliError:
    return CliError(f"{path}: {message}", next_step=_NEXT, exit_code=BAD_INPUT)
