"""The health check for Argo CD, as the page shows it, run by Lua over whole lives of runs.

Debian's package `lua5.4`; Argo CD runs the same lines in a Lua of its own, of version 5.1.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from documented import blocks
from simulated import World
from simulated.controllers import Ending, succeed_after

pytestmark = pytest.mark.full
KEY = "resource.customizations.health.qwenft.dev_QwenFineTune"
EXPECTED = {
    "Pending": "Progressing", "Queued": "Progressing", "Starting": "Progressing",
    "Restarting": "Progressing", "Training": "Healthy", "Succeeded": "Healthy",
    "Suspended": "Suspended", "Failed": "Degraded",
}  # fmt: skip


def script() -> str:
    for where, text in blocks("yaml"):
        if where == "docs/howto/gitops.md" and KEY in text:
            return str(yaml.safe_load(text)["data"][KEY])
    raise AssertionError("the page shows no health check")


def lua(value: Any) -> str:
    """Write a JSON value as Lua."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"[{lua(key)}]={lua(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "{" + ",".join(map(lua, value)) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nil"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + "".join(f"\\{byte:03d}" for byte in str(value).encode()) + '"'


def judged(body: Mapping[str, Any]) -> tuple[str, str]:
    program = (
        f"local obj = {lua(body)}\nlocal found = (function()\n{script()}\nend)()\n"
        'io.write(found.status, "\\n", found.message or "")'
    )
    done = subprocess.run(
        ["lua5.4", "-"], input=program, capture_output=True, text=True, check=True, timeout=30
    )
    status, _, message = done.stdout.partition("\n")
    return status, message


def lived(world: World, *, until: str, suspend: bool = False) -> dict[str, tuple[str, str]]:
    """Live and return phase → what the check said at its first moment."""
    world.submit(**({"runPolicy": {"suspend": True}} if suspend else {}))
    found: dict[str, tuple[str, str]] = {}
    for second in range(400):
        world.tick()
        if second == 8:
            world.report(3)
        phase = world.status().get("phase")
        if phase is not None and phase not in found:
            found[phase] = judged(world.of_kind("QwenFineTune")[0])
        if phase == until:
            return found
    raise AssertionError(f"never {until}: {sorted(found)}")


def lives() -> dict[str, tuple[str, str]]:
    well = World()
    well.program(succeed_after(20))
    badly = World()
    badly.program(lambda _attempt, _index, age: Ending(code=67) if age > 12 else None)
    found = lived(well, until="Succeeded")
    found |= lived(World(nodes=("node-1",)), until="Pending")
    found |= lived(badly, until="Failed")
    return found | lived(World(), until="Suspended", suspend=True)


def test_every_phase_of_a_life_has_the_health_that_the_page_tells() -> None:
    found = lives()
    assert {phase: status for phase, (status, _) in found.items()} == {
        phase: EXPECTED[phase] for phase in found
    }
    assert {"Pending", "Starting", "Training", "Succeeded", "Failed", "Suspended"} <= found.keys()
    assert all(message for _, message in found.values())


def test_a_run_that_nobody_has_looked_at_is_in_progress() -> None:
    world = World()
    world.submit()
    assert judged(world.of_kind("QwenFineTune")[0])[0] == "Progressing"


def test_a_change_that_nobody_has_looked_at_is_in_progress() -> None:
    world = World()
    world.program(succeed_after(5))
    lived(world, until="Succeeded")
    body = dict(world.of_kind("QwenFineTune")[0])
    body["metadata"] = dict(body["metadata"]) | {"generation": 7}
    assert judged(body) == ("Progressing", "the operator has not looked at it yet")


def test_the_page_s_table_is_what_is_tested() -> None:
    (page,) = {text for where, text in _texts() if where.endswith("gitops.md")}
    for phase, health in EXPECTED.items():
        row = next(
            line for line in page.splitlines() if line.startswith("|") and f"`{phase}`" in line
        )
        assert row.split("|")[3].strip() == health


def _texts() -> list[tuple[str, str]]:
    from documented import TEXTS  # noqa: PLC0415 - a list of files, read here only

    return [(str(path), path.read_text("utf-8")) for path in TEXTS]
