"""Pods that ask for the wrong cards, land apart, or start by halves."""

from __future__ import annotations

from mutants.mutation import group

__all__ = ["MUTATIONS"]

_FABRICS = ("decide/test_fabrics.py", "render/test_network.py")
_TOPOLOGY = ("decide/test_topology.py",)
_GANGS = ("decide/test_gangs.py", "decide/test_writes.py", "shell/test_cluster.py")

MUTATIONS = (
    *group("qwenft_operator/fabrics.py", _FABRICS,
        ("takes cards of two names for one fabric", "if self.many else self.title",
         "if False else self.title"),
        ("asks for the most that a node has", "key: min(each[key] for", "key: max(each[key] for"),
        ("counts on cards that others have", "left >= (wish.count or 1)", "left >= 0"),
        ("takes functions that nobody attached",
         "(attached or asked_for or not row.attached)", "True"),
        ("overrules who wants TCP", 'if wish.fabric == "tcp":', "if False:"),
        ("goes without the cards that were asked for",
         'if wish.fabric == "auto" and not wish.resource:', "if True:"),
        ("lets the settings overrule the run", "self.wish if own == Network() else own",
         "self.wish"),
    ),
    *group("qwenft_operator/nodes.py", (*_FABRICS, *_TOPOLOGY, "decide/test_nodes.py"),
        ("assumes cards that pods do not have", "else min(rate, PLAIN_RATE)", "else rate"),
        ("does not believe a person", "rate if link.is_given else", "rate if False else"),
        ("asks for cards on one node", "if best.nodes == 1:", "if False:"),
        ("lets a plan leave its zone", "if group.zone:\n            selector",
         "if False:\n            selector"),
    ),
    *group("qwenft_plan/inventory.py", _TOPOLOGY,
        ("carries a fabric over zones", "apart = len(fabrics) > 1 or len(zones) > 1",
         "apart = len(fabrics) > 1"),
        ("weighs the smallest zone", "(-group.count, group.zone)", "(group.count, group.zone)"),
    ),
    *group("qwenft_operator/topology.py", _TOPOLOGY,
        ("breaks up the largest domain", "min(roomy)[1]", "max(roomy)[1]"),
        ("prefers a domain without room", "if size >= count]", "if size >= 1]"),
        ("prefers the widest domain", "in reversed(range(len(telling)))", "in range(len(telling))"),
    ),
    *group("qwenft_operator/render/environment.py", _FABRICS,
        ("overrules the user's variables", "| network | own |", "| own | network |"),
    ),
    *group("qwenft_operator/render/gang.py", _GANGS,
        ("starts without one pod", '"minCount": count', '"minCount": count - 1'),
        ("leaves the gang to the run", '"kind": job["kind"],', '"kind": "QwenFineTune",'),
        ("asks for one pod's share", "amount(value) * count", "amount(value)"),
        ("gives a gang no priority", "if not api.takes_priority or", "if True or"),
        ("gives every gang a priority", "if not api.takes_priority or", "if"),
    ),
    *group("qwenft_operator/render/__init__.py", _GANGS,
        ("waits in two queues", "if gang_api is None or owner.queue:", "if gang_api is None:"),
    ),
    *group("qwenft_operator/discovery.py", _GANGS,
        ("asks the apiserver each time", "self._clock() + FRESH_SECONDS", "self._clock()"),
    ),
    *group("qwenft_operator/gangs.py", _GANGS,
        ("misses a scheduler in silence", "if api is not None or", "if True or"),
    ),
)  # fmt: skip
