"""Arguments that several verbs share, and what they stand for."""

from __future__ import annotations

import argparse

from qwenft_cli.access import Access, Address, Connect, Object
from qwenft_cli.document import Document
from qwenft_operator.fabrics import Networks
from qwenft_operator.nodes import Capacity, Offer
from qwenft_operator.nodes import capacity as count_free
from qwenft_plan.inventory import Inventory, NodeShape

__all__ = ["add_cluster", "add_file", "add_inventory", "add_output", "address", "capacity"]


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add ``-n``, ``--context`` and ``--kubeconfig``, as kubectl spells them."""
    group = parser.add_argument_group("cluster")
    group.add_argument("-n", "--namespace", default="", help="namespace, else the kubeconfig's")
    group.add_argument("--context", default="", help="context of the kubeconfig")
    group.add_argument("--kubeconfig", default="", metavar="FILE", help="else KUBECONFIG")


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add the file of a QwenFineTune."""
    parser.add_argument("file", metavar="FILE", help="YAML of a QwenFineTune, - for standard input")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``-o`` of the verbs that tell of objects in the cluster."""
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text",
        help="text for people (the default), or json as the cluster has it",
    )  # fmt: skip


def add_inventory(parser: argparse.ArgumentParser) -> None:
    """Add ``--on``."""
    parser.add_argument(
        "--on",
        metavar="NODESxGPUSxGPU",
        help="plan for these nodes, as 2x8xH100-80G or 2x4xcpu, instead of the cluster's",
    )


def address(args: argparse.Namespace, document: Document | None = None) -> Address:
    """Return the cluster that the arguments name; without -n in the file's namespace."""
    return Address(
        kubeconfig=args.kubeconfig,
        context=args.context,
        namespace=args.namespace or (document.namespace if document else ""),
    )


def capacity(
    args: argparse.Namespace,
    document: Document,
    connect: Connect,
    networks: Networks | None = None,
) -> Capacity:
    """Return the nodes of ``--on``, else the cluster's free ones as the operator counts them."""
    if args.on:
        shapes = Inventory.parse(args.on).nodes
        return Capacity(offers=tuple(_offer(shape) for shape in shapes))
    access: Access = connect(address(args, document))
    pods = [pod for pod in access.node_pods() if not _has_ended(pod)]
    return count_free(document.spec.resources, access.nodes(), pods, networks=networks)


def _offer(shape: NodeShape) -> Offer:
    return Offer(shape=shape, resource="" if shape.is_cpu else "nvidia.com/gpu")


def _has_ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
