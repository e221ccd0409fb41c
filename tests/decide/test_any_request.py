"""Requests that are built from the definition's own schema, then edited, well and badly.

The apiserver would refuse what the schema forbids; the operator has to survive it all the same, for
definitions are upgraded and objects stay. After every edit: no look raises, the newest plan's Job
is the one that lives, nothing is written while nothing happens, a new process finds nothing to do,
and a good request is taken up again after any bad one.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenft_operator import names
from qwenft_operator.run import Run
from simulated import World
from simulated.builders import spec_mapping
from simulated.controllers import succeed_after

ROOT = Path(__file__).resolve().parents[2]
CRD = yaml.safe_load((ROOT / "manifests" / "crd.yaml").read_text("utf-8"))
SPEC = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
GOOD = spec_mapping()
HOSTILE = (
    "", " ", "a" * 10_000, "../../etc/passwd", "/proc/self/environ", "$(touch /tmp/x)", "`id`",
    "{{ .Values.secret }}", "\x00", "\u202egnp.exe", "💥", "'; DROP TABLE runs; --", "a\nb: c",
    "null", "NaN", "-1", "1e999", "<script>", "%s%n", "x" * 63, "x" * 64, "kube-system",
    "system:masters", "tiny", "default",
)  # fmt: skip
JUNK = st.sampled_from(
    (None, [], {}, "", -1, 0, 2**63, 2**200, 1e308, math.inf, math.nan, True, ["x"] * 300,
     {"a": {"b": {"c": {}}}}, {f"k{number}": "v" for number in range(300)}, *HOSTILE)
)  # fmt: skip
Path_ = tuple[str, ...]
SEEN: Counter[str] = Counter()


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return what the schema allows, the extremes and the hostile first."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return _object(schema)
    if kind == "array":
        return st.lists(values(schema.get("items", {})), max_size=3)
    low, high = int(schema.get("minimum", -(2**31))), int(schema.get("maximum", 2**31))
    plain: dict[str | None, st.SearchStrategy[Any]] = {
        "integer": st.sampled_from((low, high)) | st.integers(low, high),
        "number": st.floats(low, high),
        "boolean": st.booleans(),
    }
    words = st.sampled_from(HOSTILE) | st.text(max_size=schema.get("maxLength", 20) % 40)
    return plain.get(kind, words)


def _object(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    properties = schema.get("properties")
    if not properties:
        entry = schema.get("additionalProperties")
        content = values(entry) if isinstance(entry, dict) else JUNK
        return st.dictionaries(st.sampled_from(HOSTILE), content, max_size=3)
    known = {key: values(part) for key, part in properties.items()}
    required = {key: known[key] for key in schema.get("required", ()) if key in known}
    return st.fixed_dictionaries(
        required, optional={key: part for key, part in known.items() if key not in required}
    )


def places(schema: dict[str, Any], at: Path_ = ()) -> list[tuple[Path_, dict[str, Any]]]:
    """Return every field of the schema with its own part of it."""
    found = [(at, schema)] if at else []
    for key, part in (schema.get("properties") or {}).items():
        found += places(part, (*at, key))
    return found


PLACES = places(SPEC)
EDITS = st.one_of(
    st.sampled_from(PLACES).flatmap(
        lambda place: st.tuples(st.just("allowed"), st.just(place[0]), values(place[1]))
    ),
    st.tuples(st.just("junk"), st.sampled_from([path for path, _ in PLACES]), JUNK),
    st.tuples(st.just("removed"), st.sampled_from([path for path, _ in PLACES]), st.none()),
    st.tuples(st.just("whole"), st.just(()), values(SPEC)),
    st.tuples(st.just("good"), st.just(()), st.none()),
)


def edited(spec: Any, kind: str, path: Path_, value: Any) -> Any:
    """Return the spec after an edit; a way that leads through no object is made one."""
    if kind == "good":
        return copy.deepcopy(GOOD)
    if kind == "whole":
        return value
    new = copy.deepcopy(spec) if isinstance(spec, dict) else {}
    inner = new
    for key in path[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    if kind == "removed":
        inner.pop(path[-1], None)
    else:
        inner[path[-1]] = value
    return new


class Edited:
    """A world with one run that is edited, and the oracles."""

    def __init__(self) -> None:
        self.world = World()
        self.world.program(succeed_after(10**9))
        self.world.submit()
        self.rest()

    @property
    def run(self) -> dict[str, Any]:
        return self.world.objects[names.KIND, "team", "tiny"]

    def replace(self, spec: Any) -> None:
        self.run["spec"] = spec
        self.run["metadata"]["generation"] += 1
        self.world.touch(self.run)

    def rest(self) -> None:
        """Let things happen until nothing is written for a while; then nothing may be."""
        quiet = 0
        for _ in range(200):
            before = len(self.world.writes)
            self.world.tick()
            quiet = quiet + 1 if len(self.world.writes) == before else 0
            if quiet == 8:
                return
        raise AssertionError(f"writes without an end: {self.world.writes[-9:]}")

    def check(self) -> None:
        """Hold what must be true at rest, also for a new process."""
        status, wrote = self.world.status(), len(self.world.writes)
        if Run.from_object(self.run).is_managed_elsewhere:
            self.world.reconciler = self.world.new_process()
            self.world.settle()
            assert len(self.world.writes) == wrote, "another controller answers for it"
            return
        assert status["observedGeneration"] == self.run["metadata"]["generation"]
        assert len(str(status)) < 20_000
        self.world.reconciler = self.world.new_process()
        self.world.settle()
        assert len(self.world.writes) == wrote, self.world.writes[wrote:]
        living = [job for job in self.world.of_kind("Job") if not job["status"].get("conditions")]
        if status["phase"] in (names.STARTING, names.TRAINING):
            (job,) = living
            labels = job["metadata"]["labels"]
            assert labels[names.LABEL_PLAN] == status["plan"]["digest"]
            assert labels[names.LABEL_ATTEMPT] == str(status["attempt"])
            assert job["spec"]["completions"] == status["plan"]["nodes"]
        elif status["phase"] in (names.FAILED, names.SUSPENDED):
            assert not living, status


@given(st.lists(EDITS, min_size=6, max_size=12), st.booleans())
def any_edits(edits: list[tuple[str, Path_, Any]], started: bool) -> None:  # noqa: FBT001
    """Edit a run; ``started``: one that runs already, else one that is new with every edit."""
    life = Edited()
    for kind, path, value in edits:
        if not started:
            life = Edited.__new__(Edited)
            life.world = World()
            life.world.program(succeed_after(10**9))
            life.world.submit()
        life.replace(edited(life.run["spec"], kind, path, value))
        life.rest()
        life.check()
        SEEN[kind] += 1
        SEEN[f"phase {life.world.status().get('phase')}"] += 1
    if started:
        return
    life.replace(copy.deepcopy(GOOD))
    life.rest()
    assert life.world.status()["phase"] in (names.STARTING, names.SUSPENDED), life.world.status()


def lead(examples: int, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    SEEN.clear()
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    with caplog.at_level(logging.WARNING):
        settings(
            max_examples=examples, deadline=None, derandomize=True, database=None,
            suppress_health_check=quiet,
        )(any_edits)()  # fmt: skip
    assert not [record for record in caplog.records if record.exc_info], "a traceback in the log"
    return SEEN


def test_a_hundred_edits_leave_the_operator_right(caplog: pytest.LogCaptureFixture) -> None:
    seen = lead(16, caplog)
    assert sum(count for kind, count in seen.items() if not kind.startswith("phase")) >= 60


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_two_thousand_edits_leave_the_operator_right(caplog: pytest.LogCaptureFixture) -> None:
    seen = lead(400, caplog)
    print(dict(seen))
    assert sum(count for kind, count in seen.items() if not kind.startswith("phase")) >= 2000
    assert min(seen[kind] for kind in ("allowed", "junk", "removed", "whole", "good")) > 100
    assert seen["phase Failed"] > 100
    assert seen["phase Starting"] > 100
