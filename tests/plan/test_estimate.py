"""One described run in, one answer out: an estimate or an error that names the column."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planning import answer, row
from qwenft_plan.estimate import estimate_line, estimate_row

TRUTH = Path(__file__).parents[1] / "truth" / "measured_runs.csv"
IGNORED = (
    "measured_tokens_per_s_per_gpu",
    "measured_mfu",
    "measured_mem_gb",
    "measured_step_s",
    "measured_tflops_per_gpu",
    "source",
    "source_id",
    "note",
    "tokens_derived",
)
COUNTS = (
    "n_gpus",
    "gpus_per_node",
    "seq_len",
    "global_batch",
    "micro_batch",
    "fsdp",
    "dp",
    "tp",
    "pp",
    "cp",
    "vpp",
)
DIMENSIONS = ("hidden", "layers", "heads", "kv_heads", "ffn", "vocab")


def test_an_estimate_has_speed_memory_and_whether_it_fits() -> None:
    found = answer()
    assert set(found) == {"tokens_per_s_per_gpu", "memory_gb", "fits"}
    assert 0 < found["tokens_per_s_per_gpu"] < 1e6
    assert 0 < found["memory_gb"] < 1000
    assert found["fits"] is True


@pytest.mark.parametrize("column", COUNTS)
@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "eight", "4k", "8,19", "1e9", "8x", True, [8], {}, 1.5, -2, 10**9]
)
def test_a_count_that_is_no_positive_whole_number_is_an_error_that_names_its_column(
    column: str, value: object
) -> None:
    found = answer(**{column: value})
    assert set(found) == {"error"}
    assert found["error"].startswith(f"{column}: expected a whole number of at least 1")
    assert repr(value) in found["error"]


@pytest.mark.parametrize("column", DIMENSIONS)
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "4k", "1,02", False, [1], 10**9, "many"])
def test_a_dimension_that_is_no_positive_whole_number_is_an_error_that_names_its_column(
    column: str, value: object
) -> None:
    whole = {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "ffn": 11008}
    found = answer(**(whole | {column: value}))
    assert set(found) == {"error"}
    assert found["error"].startswith(f"{column}: expected a whole number")


@pytest.mark.parametrize("column", COUNTS[1:])
@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_count_is_filled_in(column: str, value: object) -> None:
    assert "error" not in answer(**{column: value})


@pytest.mark.parametrize("value", ["16", 16, 16.0, "16.0", " 16 ", "16 (8x2)", "16(paper)"])
def test_a_count_may_be_text_or_a_number_and_carry_a_remark(value: object) -> None:
    assert answer(global_batch=value) == answer(global_batch="16")


@pytest.mark.parametrize("value", ["TPU v4", "", "?", None, "K80"])
def test_an_unknown_device_is_an_error(value: object) -> None:
    assert answer(gpu=value)["error"].startswith("gpu: unknown accelerator")


@pytest.mark.parametrize("column", ["gpu", "framework", "recompute", "precision", "zero", "kind"])
@pytest.mark.parametrize("value", [[], {}, ["H100"]])
def test_a_text_column_that_holds_no_text_is_an_error_that_names_it(
    column: str, value: object
) -> None:
    found = answer(**{column: value})
    assert found["error"].startswith(f"{column}: expected text")


@pytest.mark.parametrize(
    "name",
    [
        "Qwen1.5-MoE-A2.7B",
        "Qwen3-30B-A3B",
        "Mixtral-8x7B",
        "Mixtral 8x22B",
        "DeepSeek-V3",
        "deepseek v2",
        "gpt-oss-120b",
        "Grok-1",
        "dbrx",
    ],
)
def test_a_mixture_of_experts_is_refused_with_a_sentence(name: str) -> None:
    found = answer(model=name)
    assert found == {
        "error": f"model: {name} is a mixture of experts; only dense models are estimated"
    }


@pytest.mark.parametrize("experts", ["8", 64])
def test_expert_parallelism_gives_a_mixture_of_experts_away(experts: object) -> None:
    assert "mixture of experts" in answer(ep=experts)["error"]


@pytest.mark.parametrize("experts", [None, "", "1", 1])
def test_a_single_expert_is_a_dense_model(experts: object) -> None:
    assert answer(ep=experts) == answer()


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({"fsdp": "3"}, "n_gpus"),
        ({"tp": "16"}, "n_gpus"),
        ({"fsdp": "8", "tp": "2"}, "n_gpus"),
        ({"dp": "5", "fsdp": "1"}, "dp"),
    ],
)
def test_degrees_that_do_not_multiply_to_the_devices_are_an_error(
    columns: dict[str, str], column: str
) -> None:
    assert answer(**columns)["error"].startswith(f"{column}: ")


@pytest.mark.parametrize("value", ["many", "-7", "0", "7T", [7], "1e9"])
def test_a_number_of_parameters_that_no_model_has_is_an_error(value: object) -> None:
    assert answer(model="new", params_b=value)["error"].startswith("params_b: expected billions")


def test_a_model_of_which_nothing_is_known_is_an_error() -> None:
    error = answer(model="new")["error"]
    assert error == "hidden: the dimensions of 'new' are neither given nor known"


@pytest.mark.parametrize("column", IGNORED)
@pytest.mark.parametrize("value", ["12345", "", None, "nonsense", 1e99, ["x"]])
def test_what_was_measured_and_where_it_stands_is_not_looked_at(column: str, value: object) -> None:
    assert answer(**{column: value}) == answer()


def test_columns_that_nobody_knows_are_not_looked_at() -> None:
    assert answer(colour="blue", **{"": "", "gpu price": "2"}) == answer()


@pytest.mark.parametrize(
    ("semantics", "order"),
    [("max_allocated_GiB", 0), ("peak active", 0), ("max_reserved_GiB", 1), ("nvidia-smi", 2)],
)
def test_memory_is_what_the_source_s_words_mean(semantics: str, order: int) -> None:
    kinds = ("allocated", "reserved", "")
    shown = [answer(mem_semantics=kind)["memory_gb"] for kind in kinds]
    assert shown == sorted(shown)
    assert len(set(shown)) == 3
    assert answer(mem_semantics=semantics)["memory_gb"] == shown[order]


@pytest.mark.parametrize("semantics", ["", "allocated", "reserved"])
@pytest.mark.parametrize(("n_gpus", "fits"), [("8", True), ("1", False)])
def test_whether_it_fits_does_not_depend_on_what_the_source_prints(
    semantics: str, n_gpus: str, *, fits: bool
) -> None:
    found = answer(n_gpus=n_gpus, fsdp=n_gpus, gpus_per_node=n_gpus, mem_semantics=semantics)
    assert found["fits"] is fits


def test_the_smallest_run_is_not_rounded_to_nothing() -> None:
    tiny = {"hidden": 1, "layers": 1, "heads": 1, "ffn": 1, "vocab": 1, "seq_len": 1}
    found = answer(
        model="dot", gpu="cpu", n_gpus=1, gpus_per_node=1, fsdp=1, global_batch=1, **tiny
    )
    assert found["memory_gb"] > 0


@pytest.mark.parametrize("empty", [None, ""])
def test_a_run_without_a_number_of_devices_is_not_guessed(empty: str | None) -> None:
    one = {"fsdp": "1", "gpus_per_node": "1"}
    assert answer(n_gpus=empty, **one)["error"].startswith("n_gpus: is empty")
    assert "error" not in answer(n_gpus="1", **one)


def test_the_slowest_run_is_not_rounded_to_nothing() -> None:
    huge = {"hidden": 10**6, "layers": 10**4, "heads": 1000, "ffn": 10**6, "vocab": 10**6}
    found = answer(model="vast", gpu="cpu", n_gpus=1, gpus_per_node=1, fsdp=1, **huge)
    assert found["tokens_per_s_per_gpu"] > 0


@pytest.mark.parametrize(
    "line", ["", "{", "null x", "[1,]", "{'model': 'x'}", "nonsense", '{"model": "x"', "[" * 10_000]
)
def test_a_line_that_is_no_json_is_an_error_of_one_line(line: str) -> None:
    text = estimate_line(line)
    assert json.loads(text)["error"].startswith("not JSON")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("line", "kind"),
    [("[]", "list"), ("1", "int"), ('"row"', "str"), ("null", "NoneType"), ("true", "bool")],
)
def test_a_line_that_is_no_object_says_what_it_is(line: str, kind: str) -> None:
    assert json.loads(estimate_line(line)) == {"error": f"expected a JSON object, found {kind}"}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400])
@pytest.mark.parametrize("column", ["n_gpus", "seq_len", "hidden", "params_b"])
def test_a_number_out_of_range_is_an_error(column: str, value: str) -> None:
    rest = {"model": "x", "gpu": "H100", "layers": 2} | {"hidden": 64}
    rest.pop(column, None)
    if column == "params_b":
        rest = {"model": "x", "gpu": "H100"}
    line = f'{json.dumps(rest)[:-1]}, "{column}": {value}}}'
    assert "error" in json.loads(estimate_line(line))


def test_a_good_line_gives_the_row_s_answer() -> None:
    assert json.loads(estimate_line(json.dumps(row()))) == answer()


def test_equal_lines_give_byte_equal_answers() -> None:
    assert estimate_line(json.dumps(row())) == estimate_line(json.dumps(row()))


def test_the_order_of_columns_does_not_matter() -> None:
    assert estimate_row(dict(reversed(row().items()))) == answer()


def truth() -> list[dict[str, str]]:
    with TRUTH.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_measured_run_gets_an_estimate_or_a_reason() -> None:
    errors = []
    for line in truth():
        found = estimate_row(line)
        if "error" in found:
            errors.append(found["error"])
            continue
        assert math.isfinite(found["tokens_per_s_per_gpu"])
        assert found["tokens_per_s_per_gpu"] > 0
        assert found["memory_gb"] > 0
    assert all("mixture of experts" in error for error in errors), set(errors)


_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["8", "1", "full", "H100", "A100-40GB", "cpu", "Qwen2.5-7B", "fp8", "zero-2"]),
    st.lists(st.integers(), max_size=2),
)
_columns = st.sampled_from(sorted({*row(), *COUNTS, *DIMENSIONS, "params_b", "ep", "zero", "note"}))


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(_columns, _values, max_size=6))
def test_any_row_gives_finite_positive_numbers_or_an_error(changes: dict[str, Any]) -> None:
    found = estimate_row(row(**changes))
    if "error" in found:
        assert set(found) == {"error"}
        assert ": " in found["error"]
    else:
        assert math.isfinite(found["tokens_per_s_per_gpu"])
        assert math.isfinite(found["memory_gb"])
        assert min(found["tokens_per_s_per_gpu"], found["memory_gb"]) > 0


@settings(max_examples=60, deadline=None)
@given(line=st.text(max_size=60))
def test_any_line_gives_one_line_of_json(line: str) -> None:
    text = estimate_line(line)
    assert "\n" not in text
    assert isinstance(json.loads(text), dict)
