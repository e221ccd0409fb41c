"""``python3 -m embedded VERB``: the embedded cluster's command line.

up          bring the cluster up, building what is missing (idempotent)
down        end it
images      build the project's images where they changed and give them to the running nodes
build       only build the programs
status      say how it is; exit 1 unless it is healthy
kubeconfig  print the path of the administrator's kubeconfig
lose NODE   kill a node at once (1, 2, …), as a power cut would
cut NODE    cut a node off the network; ``join NODE`` undoes it
mute NODE   kill a node's kubelet; its containers go on
revive NODE bring a lost or muted node back
path NAME   print the path of a program: kubectl, helm, …
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from embedded import binaries, configuration, layout, versions
from embedded.cluster import NODES, Cluster, down, is_healthy, provide_images, up
from embedded.stages import StageError

FAULTS: dict[str, Callable[[Cluster, int], None]] = {
    "lose": Cluster.stop_node,
    "cut": Cluster.cut_link,
    "join": Cluster.join_link,
    "mute": Cluster.stop_kubelet,
    "revive": Cluster.start_node,
}


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="embedded", description="A real Kubernetes on this machine."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    starting = verbs.add_parser("up")
    starting.add_argument("--node-loss", choices=sorted(configuration.NODE_LOSS), default="quick")
    for verb in ("down", "build", "images", "status", "kubeconfig"):
        verbs.add_parser(verb)
    for verb in FAULTS:
        verbs.add_parser(verb).add_argument("node", type=int, choices=range(1, NODES + 1))
    verbs.add_parser("path").add_argument("name")
    return parser.parse_args(words)


def _run(arguments: argparse.Namespace) -> int:
    place = layout.from_environment()
    loss = configuration.NODE_LOSS[getattr(arguments, "node_loss", "quick")]
    cluster = Cluster(layout=place, loss=loss)
    match arguments.verb:
        case "up":
            up(cluster)
            print(f"cluster up: export KUBECONFIG={place.kubeconfig}")
        case "down":
            down(cluster)
        case "images":
            provide_images(cluster)
        case "build":
            pins = versions.load()
            binaries.install_packages(place, pins.packages)
            binaries.build_all(place, pins)
        case "status":
            healthy = is_healthy(cluster)
            print("healthy" if healthy else "not running, or not whole")
            return 0 if healthy else 1
        case "kubeconfig":
            print(place.kubeconfig)
        case verb if verb in FAULTS:
            FAULTS[verb](cluster, arguments.node)
        case "path":
            print(cluster.programs[arguments.name])
    return 0


def main(words: list[str] | None = None) -> int:
    """Run one verb; a failed stage prints what to do and gives exit code 1."""
    try:
        return _run(_arguments(words))
    except StageError as error:
        print(error.report(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the next run starts clean", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
