"""The definition, the parser and the chart say the same, field by field."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenft_operator import names, status
from qwenft_operator.experience import Finding
from qwenft_plan import parsing
from qwenft_plan.errors import SpecError
from qwenft_plan.inventory import Inventory
from qwenft_plan.lessons import NO_LESSONS, Experience, Pair, lesson_key
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import plan
from qwenft_plan.prices import Prices
from qwenft_plan.progress import Progress
from qwenft_plan.spec import MATRICES, FinetuneSpec
from simulated.builders import spec_mapping

ROOT = Path(__file__).parents[2]
FILE = ROOT / "manifests" / "crd.yaml"
CRD: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
VERSION: dict[str, Any] = CRD["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]
SPEC: dict[str, Any] = SCHEMA["properties"]["spec"]
STATUS: dict[str, Any] = SCHEMA["properties"]["status"]

Node = dict[str, Any]


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every schema below ``node`` with its path."""
    yield path, node
    for key, child in (node.get("properties") or {}).items():
        yield from walk(child, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from walk(node[key], f"{path}[]")


def section_of(annotation: Any) -> type | None:
    """Return the dataclass behind ``X``, ``X | None`` or ``tuple[X, …]``."""
    for item in (annotation, *typing.get_args(annotation)):
        if isinstance(item, type) and dataclasses.is_dataclass(item):
            return item
    return None


SPECIAL = {
    ".model.config",  # Hugging Face's spelling, read by the planner
    ".resources.nodeSelector",
    ".resources.memoryPerNode",
    ".trainer.args",
    ".training.reportTo",
    ".training.lora.targetModules",
}
NESTED = {"Volume": ("persistentVolumeClaim",), "Script": ("configMap",)}


def compare(node: Node, kind: type, path: str) -> None:
    """Assert that ``node`` has the fields, types and defaults of the dataclass ``kind``."""
    for wrapper in NESTED.get(kind.__name__, ()):
        node = node["properties"][wrapper]
        path = f"{path}.{wrapper}"
        if kind.__name__ == "Script":
            assert set(node["properties"]) == {"name", "key"}
            return
    hints = typing.get_type_hints(kind)
    fields = {camel(field.name): field for field in dataclasses.fields(kind)}
    assert set(node["properties"]) == set(fields), path
    for key, field in fields.items():
        where = f"{path}.{key}"
        if where in SPECIAL:
            continue
        compare_field(node["properties"][key], field, hints[field.name], where)


def compare_field(node: Node, field: dataclasses.Field[Any], hint: Any, where: str) -> None:
    section = section_of(hint)
    if section is not None:
        compare(node["items"] if node["type"] == "array" else node, section, where)
        return
    plain = [item for item in typing.get_args(hint) or (hint,) if item is not types.NoneType]
    expected = {int: "integer", float: "number", str: "string", bool: "boolean"}[plain[0]]
    assert node["type"] == expected, where
    if field.default not in (dataclasses.MISSING, None, ""):
        assert node.get("default") == field.default, f"{where}: default"
    elif field.default is None:
        assert "default" not in node, f"{where}: the planner's to choose"


def test_definition_and_parser_agree_field_by_field() -> None:
    compare(SPEC, FinetuneSpec, "")


def test_every_enum_is_the_parsers() -> None:
    for path, node in walk(SPEC):
        if "enum" not in node or "[]" in path:
            continue
        section, *rest = path.strip(".").split(".")
        for value in node["enum"]:
            FinetuneSpec.from_mapping(spec_mapping(**{section: nested(rest, value)}))
        with pytest.raises(SpecError, match="'oddity' is none of ") as caught:
            FinetuneSpec.from_mapping(spec_mapping(**{section: nested(rest, "oddity")}))
        taken = str(caught.value).partition(" is none of ")[2].split(", ")
        assert set(taken) == set(node["enum"]), f"{path}: the planner takes {taken}"


def test_the_trackers_are_the_parsers() -> None:
    items = SPEC["properties"]["training"]["properties"]["reportTo"]["items"]
    assert items["enum"] == list(parsing.TRACKERS)


def nested(keys: list[str], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def test_the_matrices_to_adapt_are_the_parsers() -> None:
    node = SPEC["properties"]["training"]["properties"]["lora"]["properties"]["targetModules"]
    assert tuple(node["items"]["enum"]) == MATRICES
    assert node["maxItems"] == len(MATRICES)


def test_the_definition_is_structural_and_bounded() -> None:
    for path, node in walk(SPEC):
        kind = node.get("type")
        assert kind or node.get("x-kubernetes-int-or-string"), f"{path} has no type"
        if kind == "string":
            assert {"maxLength", "enum", "format"} & set(node), f"{path} is unbounded"
        if kind == "array":
            assert "maxItems" in node, f"{path} is unbounded"
        if "additionalProperties" in node:
            assert "maxProperties" in node, f"{path} is unbounded"
        if kind == "integer":
            assert "minimum" in node, f"{path} is unbounded"


def test_the_status_is_bounded_too() -> None:
    for path, node in walk(STATUS):
        if node.get("type") == "string":
            assert {"maxLength", "enum", "format"} & set(node), path
        if node.get("type") == "array":
            assert "maxItems" in node, path


def test_the_definition_is_small() -> None:
    """Twice this, and ``kubectl apply`` could no longer keep its annotation beside other fields."""
    assert len(json.dumps(CRD)) < 100_000


SENTENCE = re.compile(r"[A-Z0-9<].*\.")
UNIT = re.compile(
    r"\b(GiB|seconds?|hours?|tokens?|samples?|steps?|epochs|nodes?|pods?|processes|GPUs|cores|ranks?|"
    r"replicas|micro-batches|heads|blocks|elements|checkpoints|restarts|attempts?|changes|number|"
    r"index|share|factor|units?|nats)\b",
    flags=re.IGNORECASE,
)


def described() -> list[tuple[str, str, str]]:
    """Return path, type and description of every node that ``kubectl explain`` can be asked for."""
    return [
        (path, str(node.get("type")), str(node.get("description", "")))
        for path, node in walk(SCHEMA)
        if path != ".metadata"  # the apiserver's own, which it lets nobody describe
    ]


@pytest.mark.parametrize(("path", "kind", "text"), described(), ids=lambda value: str(value)[:60])
def test_kubectl_explain_has_a_sentence_for_every_field(path: str, kind: str, text: str) -> None:
    assert SENTENCE.fullmatch(text), f"{path}: {text!r} is no sentence"
    if kind in ("integer", "number"):
        assert UNIT.search(text), f"{path}: {text!r} names no unit"


def test_the_fields_that_nobody_would_guess_name_their_unit() -> None:
    told = {path: text for path, _, text in described()}
    for path, unit in {
        ".spec.training.batchSize": "samples", ".spec.training.sequenceLength": "tokens",
        ".status.plan.predicted.mfu": "from 0 to 1", ".status.memoryBudgetGiB": "GiB",
        ".status.progress.loss": "nats", ".status.plan.cost.amount": "units of currency",
    }.items():  # fmt: skip
        assert unit in told[path].casefold() or unit in told[path], path


def test_the_chart_ships_the_same_bytes() -> None:
    shipped = ROOT / "charts" / "qwenft" / "files" / "crd.yaml"
    assert shipped.read_bytes() == FILE.read_bytes()


def test_names_are_the_code_s() -> None:
    spec = CRD["spec"]
    assert (spec["group"], VERSION["name"]) == (names.GROUP, names.VERSION)
    assert (spec["names"]["kind"], spec["names"]["plural"]) == (names.KIND, names.PLURAL)
    assert spec["names"]["shortNames"] == ["qft"]
    assert spec["names"]["categories"] == ["all"]
    assert CRD["metadata"]["name"] == f"{names.PLURAL}.{names.GROUP}"


def test_the_columns_tell_a_run_s_story_in_one_line() -> None:
    columns = [c["name"] for c in VERSION["additionalPrinterColumns"] if not c.get("priority")]
    assert columns == ["Phase", "Plan", "Nodes", "Step", "Loss", "Restarts", "Age"]
    for column in VERSION["additionalPrinterColumns"]:
        path = column["jsonPath"]
        if path.startswith(".status"):
            node: Mapping[str, Any] = {"properties": {"status": STATUS}}
            for key in path.strip(".").split("."):
                node = node["properties"][key]


def test_every_rule_s_message_names_a_field() -> None:
    rules = [rule for _, node in walk(SCHEMA) for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) >= 12
    for rule in rules:
        assert re.match(r"(spec|metadata|path)[.\w]*: ", rule["message"]), rule["message"]


def test_every_progress_field_has_its_place_in_the_status() -> None:
    report = Progress(
        attempt=1, step=2, total_steps=3, epoch=0.5, loss=1.0, validation_loss=1.0,
        gradient_norm=1.0, learning_rate=1e-5, tokens_per_second=10.0, memory_gib=1.0, mfu=0.5,
        estimated_remaining_seconds=9.0, checkpoint_step=2, plan_digest="abc",
        checkpoint_seconds=2.0, checkpoint_blocked_seconds=0.1, data_wait_seconds=0.01,
        predicted_memory_gib=1.1,
    )  # fmt: skip
    blocks = status.progress_blocks(report, 0.0)
    assert set(blocks) == {"progress", "measured", "checkpoint"}
    for name, block in blocks.items():
        assert set(block) == set(STATUS["properties"][name]["properties"]), name


def test_every_field_of_a_plan_has_its_place_in_the_status() -> None:
    """The apiserver drops what the definition does not have, and says nothing."""
    spec = FinetuneSpec.from_mapping(
        spec_mapping(model={"name": "Qwen/Qwen1.5-7B"}) | {"resources": {"gpusPerNode": 8}}
    )
    model, nodes = ModelShape.for_spec(spec.model), Inventory.parse("2x8xH100")
    raw = plan(spec=spec, model=model, inventory=nodes)
    kind = lesson_key(raw.chosen.work, raw.chosen.layout)
    pair = Pair(predicted=10.0, measured=9.9)
    known = NO_LESSONS.after(kind, Experience(run="x", memory=pair, speed=pair))
    planned = plan(spec=spec, model=model, inventory=nodes, lessons=known)
    block = status.plan_block(planned, Prices(hourly={"H100-80GB": 2.0}, currency="USD"))
    schema = STATUS["properties"]["plan"]["properties"]
    assert set(block) == set(schema)
    for key in ("predicted", "correction", "cost", "parts"):
        assert set(block[key]) == set(schema[key]["properties"]), key
    for key in ("memoryGiB", "stepSeconds"):
        parts = schema["parts"]["properties"][key]["properties"]
        assert set(block["parts"][key]) == set(parts), key
    (first, *_) = block["alternatives"]
    assert set(first) == set(schema["alternatives"]["items"]["properties"])
    assert set(first["cost"]) == {"deviceHours", "amount", "currency"}
    lesson = STATUS["properties"]["lesson"]["properties"]
    for speed in (9.0, 1e9):
        told = Finding(
            kind=kind,
            experience=Experience(run="x", memory=pair, speed=Pair(predicted=10.0, measured=speed)),
        ).to_status()
        assert set(told) <= set(lesson)


def test_every_phase_is_in_the_definition() -> None:
    phases = STATUS["properties"]["phase"]["enum"]
    assert set(phases) == set(status._CONDITIONS)
