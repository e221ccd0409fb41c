"""``qwenft render``: the Kubernetes objects that the operator would create, without a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from qwenft_cli import document, guidance, options
from qwenft_cli.access import Connect
from qwenft_cli.failure import OK
from qwenft_cli.printing import show_json
from qwenft_operator.render import render
from qwenft_operator.run import Owner

__all__ = ["HELP", "NAME", "add_arguments", "run", "to_yaml"]

NAME = "render"
HELP = "print the objects that the operator would create"
_UID = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that only an API server gives."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks: the plan in its ConfigMap stays readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    options.add_file(parser)
    options.add_inventory(parser)
    parser.add_argument(
        "-o", "--output", choices=("yaml", "json"), default="yaml",
        help="a YAML stream (the default), or json: one List; kubectl apply -f - reads both",
    )  # fmt: skip
    guidance.add_arguments(parser)
    options.add_cluster(parser)


def run(args: argparse.Namespace, connect: Connect) -> int:
    """Plan the file and print the objects of its first attempt."""
    read = document.load(args.file)
    advice = guidance.advice(args, read, connect)
    chosen, capacity = guidance.planned(read, advice, args, connect)
    owner = _owner(read, args.namespace)
    placement = capacity.placement(read.spec, chosen)
    objects = render(read.spec, chosen.plan, owner, 1, placement=placement)
    if args.output == "json":
        show_json({"apiVersion": "v1", "kind": "List", "items": objects})
    else:
        print(to_yaml(objects), end="")
    return OK


def to_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    """Return the objects as one YAML stream that ``kubectl apply -f -`` reads."""
    return yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, explicit_start=True, width=100
    )


def _owner(read: document.Document, namespace: str) -> Owner:
    return Owner(
        name=read.name,
        namespace=namespace or read.namespace or "default",
        uid=str(read.body["metadata"].get("uid") or _UID),
        spec=read.body["spec"],
    )
