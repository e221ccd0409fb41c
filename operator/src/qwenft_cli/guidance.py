"""What the operator would take into account beside the file and the nodes: lessons and prices.

Read from the operator's namespace together with the nodes, or given on the command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from qwenft_cli import options
from qwenft_cli.access import Access, Connect
from qwenft_cli.document import Document
from qwenft_cli.failure import BAD_INPUT, CliError
from qwenft_operator.advice import LESSONS, PLANNER, Advice
from qwenft_operator.nodes import Capacity
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.lessons import Lessons
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import Planned, plan
from qwenft_plan.prices import Prices

__all__ = ["add_arguments", "advice", "planned"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--lessons``, ``--price`` and ``--operator``."""
    parser.add_argument(
        "--lessons",
        type=Path,
        metavar="FILE",
        help="correct predictions by this ConfigMap of lessons (YAML) instead of the cluster's",
    )
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="PRODUCT=PRICE",
        help="price of a device hour, as H100-80GB=2.5; may be given again",
    )
    parser.add_argument(
        "--operator",
        default="qwenft-system/qwenft",
        metavar="NAMESPACE/NAME",
        help="where the operator keeps prices and lessons (default: %(default)s)",
    )


def advice(args: argparse.Namespace, document: Document, connect: Connect) -> Advice:
    """Return the cluster's advice, none with ``--on``; what the command line gives goes before."""
    found = Advice() if args.on else _of_cluster(args, connect(options.address(args, document)))
    if args.lessons is not None:
        lessons = Lessons.from_data(_data(args.lessons))
        told = tuple(f"{args.lessons}: {text}" for text in lessons.ignored)
        found = replace(found, lessons=lessons, warnings=found.warnings + told)
    if args.price:
        given = _prices(args.price)
        merged = dict(found.prices.hourly) | dict(given.hourly)
        found = replace(found, prices=replace(found.prices, hourly=merged))
    for text in found.warnings:
        print(f"note: {text}", file=sys.stderr)
    return found


def planned(
    document: Document, found: Advice, args: argparse.Namespace, connect: Connect
) -> tuple[Planned, Capacity]:
    """Plan a file as the operator would; what was left out of the nodes is among the reasons.

    Raises ``SpecError`` or ``Infeasible``.
    """
    capacity = options.capacity(args, document, connect, found.networks)
    try:
        chosen = plan(
            spec=document.spec,
            model=ModelShape.for_spec(document.spec.model),
            inventory=capacity.inventory,
            lessons=found.lessons,
        )
    except Infeasible as error:
        if not capacity.remark:
            raise
        raise Infeasible((*error.reasons, capacity.remark)) from None
    return capacity.explained(chosen), capacity


def _of_cluster(args: argparse.Namespace, access: Access) -> Advice:
    namespace, slash, name = args.operator.partition("/")
    if not (namespace and slash and name):
        raise SpecError("--operator", f"expected NAMESPACE/NAME, found {args.operator!r}")
    bodies = []
    for ending in (PLANNER, LESSONS):
        try:
            body = access.config_map(namespace, f"{name}-{ending}")
        except CliError as error:
            print(f"note: planning without the operator's {ending}: {error}", file=sys.stderr)
            body = None
        bodies.append((body or {}).get("data") or {})
    return Advice.of(*bodies)


def _data(path: Path) -> Mapping[str, Any]:
    """Return the data of a ConfigMap's file; a bare mapping of keys is taken as well."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from None
    if not isinstance(found, Mapping):
        raise _unreadable(path, "it holds no mapping")
    data = found.get("data", {}) if found.get("kind") == "ConfigMap" else found
    if not isinstance(data, Mapping):
        raise _unreadable(path, "its data is no mapping")
    return {str(key): value for key, value in data.items()}


def _unreadable(path: Path, why: str) -> CliError:
    step = "Write one with: kubectl -n qwenft-system get configmap qwenft-lessons -o yaml"
    return CliError(f"--lessons {path}: {why}", next_step=step, exit_code=BAD_INPUT)


def _prices(words: list[str]) -> Prices:
    pairs = dict(word.partition("=")[::2] for word in words)
    found = Prices.from_mapping(pairs)
    if found.ignored:
        raise SpecError("--price", found.ignored[0])
    return found
