"""What plans cost: device hours, and money where a price of the device is given. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenft_plan.hardware import find_device
from qwenft_plan.search import Judged

__all__ = ["NO_PRICES", "Prices"]

_LONGEST_CURRENCY = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Price of an hour of one device, by the device's name in the table of hardware."""

    hourly: Mapping[str, float] = field(default_factory=dict)
    currency: str = ""
    """Printed after every amount; empty: none."""
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """What was no price, a sentence each."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, object], currency: str = "") -> Prices:
        """Read prices by product, in any spelling that finds the device; others are named.

        Of two spellings of one device the later in the alphabet counts.
        """
        hourly: dict[str, float] = {}
        ignored: list[str] = []
        for product, price in sorted(mapping.items(), key=lambda item: str(item[0])):
            device, value = find_device(str(product)), _price(price)
            if device is None:
                ignored.append(f"price of {str(product)[:64]!r}: unknown accelerator")
            elif value is None:
                ignored.append(f"price of {str(product)[:64]!r}: {str(price)[:32]!r} is no price")
            else:
                hourly[device.name] = value
        return cls(
            hourly=hourly, currency=str(currency)[:_LONGEST_CURRENCY], ignored=tuple(ignored)
        )

    def amount(self, item: Judged) -> float | None:
        """Return what a billion tokens cost under a plan, None without a price."""
        price = self.hourly.get(item.work.device.name)
        return None if price is None else price * item.device_hours_per_billion_tokens

    def told(self, item: Judged, *, short: bool = False) -> str:
        """Return the device hours of a plan, and its cost where there is a price."""
        unit = "process-hours" if item.work.device.vendor == "cpu" else "GPU-hours"
        text = f"{item.device_hours_per_billion_tokens:,.1f} {unit} per billion tokens"
        amount = self.amount(item)
        if amount is None:
            return text
        money = f" {self.currency}" if self.currency else ""
        text += f", {amount:,.2f}{money}"
        return text if short else f"{text} at {self.hourly[item.work.device.name]:g} an hour"


NO_PRICES = Prices()
"""Where nobody has given any."""


def _price(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
