"""What the operator's own namespace says about planning: prices, networks, lessons. Pure.

Two ConfigMaps: `<operator>-planner` is written by people (Helm values), `<operator>-lessons` by
the operator. Both are read anew for each plan, so a change needs no restart; what cannot be read
counts for nothing and is named in a warning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qwenft_operator.fabrics import Networks
from qwenft_operator.quantities import amount
from qwenft_plan import parsing_network
from qwenft_plan.errors import SpecError
from qwenft_plan.hardware import find_device
from qwenft_plan.lessons import NO_LESSONS, Lessons
from qwenft_plan.prices import NO_PRICES, Prices
from qwenft_plan.sections import Network

__all__ = ["LESSONS", "NO_ADVICE", "PLANNER", "Advice"]

PLANNER, LESSONS = "planner", "lessons"
"""Endings of the two ConfigMaps' names."""

_MOST_GBITS = 100_000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Everything that a plan takes into account beside the request and the nodes."""

    lessons: Lessons = NO_LESSONS
    prices: Prices = NO_PRICES
    networks: Networks = field(default_factory=Networks)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, planner: Mapping[str, Any], lessons: Mapping[str, Any]) -> Advice:
        """Read the data of the two ConfigMaps; never raises."""
        wrong: list[str] = []
        prices = Prices.from_mapping(
            _object(planner, "prices", wrong), str(planner.get("currency", ""))
        )
        networks = replace(
            _network(_object(planner, "network", wrong), wrong),
            rates=_rates(_object(planner, "networkGbps", wrong), wrong),
        )
        learnt = Lessons.from_data(lessons)
        wrong += prices.ignored
        wrong += [f"lesson {text}" for text in learnt.ignored]
        return cls(lessons=learnt, prices=prices, networks=networks, warnings=tuple(wrong))


NO_ADVICE = Advice()
"""Where there is no operator to ask."""


def _object(data: Mapping[str, Any], key: str, wrong: list[str]) -> Mapping[object, object]:
    text = data.get(key)
    if text is None or text == "":
        return {}
    try:
        found: object = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    wrong.append(f"{key} is no JSON object")
    return {}


def _network(mapping: Mapping[object, object], wrong: list[str]) -> Networks:
    """Return the fabric, annotations and variables that are set for all runs."""
    texts: dict[str, dict[str, str]] = {"annotations": {}, "env": {}}
    own: dict[str, Any] = {}
    for key, value in mapping.items():
        if str(key) not in texts:
            own |= {} if value in ("", 0, None) else {str(key): value}
        elif isinstance(value, dict):
            texts[str(key)] = {str(name): str(text) for name, text in sorted(value.items())}
        else:
            wrong.append(f"network.{key} is no object")
    try:
        wish = parsing_network.network(own, "network")
    except SpecError as error:
        wrong.append(str(error)[:256])
        wish = Network()
    return Networks(wish=wish, annotations=texts["annotations"], env=texts["env"])


def _rates(mapping: Mapping[object, object], wrong: list[str]) -> dict[str, float]:
    """Return bytes/s; a key that names a device of the table stands for all its spellings."""
    found: dict[str, float] = {}
    for key, value in sorted(mapping.items(), key=lambda item: str(item[0])):
        number = amount(value)  # `helm --set` makes texts of numbers
        if not 0 < number <= _MOST_GBITS:
            wrong.append(f"networkGbps of {str(key)[:64]!r}: {str(value)[:32]!r} is no Gbit/s")
            continue
        device = find_device(str(key))
        found[str(key).lower() if device is None else device.name] = number * 1e9 / 8
    return found
