"""A plan is obeyed or refused before anything starts; it is never adapted in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launching.plans import make_plan, write_plan
from qwenft_trainer import planfile
from qwenft_trainer.failure import PlanInvalid


def load(path: Path, *, world_size: int) -> str:
    """Return the sentence with which a plan file is refused."""
    with pytest.raises(PlanInvalid) as caught:
        planfile.load({"QWENFT_PLAN": str(path)}, world_size=world_size)
    return str(caught.value)


@pytest.mark.parametrize("environ", [{}, {"QWENFT_PLAN": ""}])
def test_no_plan_is_no_error_a_plain_script_needs_none(environ: dict[str, str]) -> None:
    assert planfile.load(environ, world_size=8) is None


@pytest.mark.parametrize(
    ("nodes", "processes", "degrees"),
    [
        (1, 1, {}),
        (1, 4, {}),
        (2, 2, {"dp_shard": 4}),
        (2, 4, {"pp": 2, "tp": 2, "accumulation": 2}),
    ],
)
def test_a_plan_for_the_started_processes_is_read_whole(
    tmp_path: Path, nodes: int, processes: int, degrees: dict[str, int]
) -> None:
    plan = make_plan(nodes=nodes, processes_per_node=processes, rows=8, **degrees)
    path = write_plan(tmp_path, plan)
    read = planfile.load({"QWENFT_PLAN": str(path)}, world_size=nodes * processes)
    assert read == plan


@pytest.mark.parametrize(
    ("nodes", "processes", "started"), [(2, 2, 2), (1, 2, 4), (2, 1, 1), (4, 1, 8)]
)
def test_another_number_of_processes_is_refused_with_the_command_that_is_right(
    tmp_path: Path, nodes: int, processes: int, started: int
) -> None:
    path = write_plan(tmp_path, make_plan(nodes=nodes, processes_per_node=processes))
    said = load(path, world_size=started)
    assert said.startswith(f"{path}: world_size is {nodes * processes} ")
    assert f"but {started} processes were started" in said
    assert f"--nnodes={nodes} --nproc-per-node={processes}" in said
    assert "or plan anew" in said


def test_a_missing_plan_file_is_named_with_its_variable(tmp_path: Path) -> None:
    said = load(tmp_path / "gone.json", world_size=1)
    assert said.startswith(f"QWENFT_PLAN: {tmp_path}/gone.json: cannot be read")


def test_a_directory_in_place_of_a_plan_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in load(tmp_path, world_size=1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "must be a JSON object, not list"),
        (b"\xff\xfe", "cannot be read"),
        (b"{}", "schema_version: is missing"),
    ],
)
def test_a_damaged_plan_file_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    sentence = load(path, world_size=1)
    assert str(path) in sentence
    assert said in sentence


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tp", 0, "tp: must be a whole number of at least 1, not 0"),
        ("tp", 2, "pp · dp_replicate · dp_shard · tp is 2"),
        ("micro_batch_size", 3, "global_batch_size: is 4 but"),
        ("precision", "int8", "precision: 'int8' is none of fp32, bf16"),
        ("flavour", 1, "flavour: is not a field of a plan file"),
        ("digest", "0123456789", "drop it after an edit"),
        ("schema_version", 9, "schema_version: 9 is unknown"),
    ],
)
def test_a_plan_edited_into_nonsense_is_refused_by_field(
    tmp_path: Path, field: str, value: object, said: str
) -> None:
    path = write_plan(tmp_path, make_plan())
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    sentence = load(path, world_size=1)
    assert str(path) in sentence
    assert said in sentence


def test_a_plan_written_by_hand_needs_no_digest(tmp_path: Path) -> None:
    path = write_plan(tmp_path, make_plan())
    fields = json.loads(path.read_text())
    del fields["digest"]
    path.write_text(json.dumps(fields))
    assert planfile.load({"QWENFT_PLAN": str(path)}, world_size=1) == make_plan()


def two_halves(folder: Path, **choices: object) -> dict[str, str]:
    fields = {"pipeline_schedule": "ZBVZeroBubble"} | choices
    plan = make_plan(processes_per_node=2, pp=2, accumulation=2, rows=8)
    path = write_plan(folder, plan)
    kept = {k: v for k, v in json.loads(path.read_text()).items() if k != "digest"}
    path.write_text(json.dumps(kept | fields))
    return {"QWENFT_PLAN": str(path)}


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compiled_layers_under_zero_bubble_are_refused_before_anything_starts(
    tmp_path: Path, compiler: str
) -> None:
    environ = two_halves(tmp_path)
    assert planfile.load(environ, world_size=2) is not None
    with pytest.raises(PlanInvalid) as caught:
        planfile.load(environ | {"QWENFT_COMPILE": compiler}, world_size=2)
    said = str(caught.value)
    assert said.startswith(f"{environ['QWENFT_PLAN']}: ZBVZeroBubble runs backward in two halves")
    assert f"unset QWENFT_COMPILE (it is {compiler!r})" in said
    assert "or choose another pipeline_schedule" in said


def test_layers_that_the_plan_compiles_under_zero_bubble_are_refused_too(tmp_path: Path) -> None:
    environ = two_halves(tmp_path, compile=True)
    with pytest.raises(PlanInvalid, match="leave out compile or choose another"):
        planfile.load(environ, world_size=2)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("planned", "asked", "expected"),
    [
        (False, "", None),
        (True, "", "inductor"),
        (False, "aot_eager", "aot_eager"),
        (True, "aot_eager", "aot_eager"),
    ],
)
def test_the_environment_names_the_compiler_else_the_plan_says_whether_there_is_one(
    tmp_path: Path, *, planned: bool, asked: str, expected: str | None
) -> None:
    environ = two_halves(tmp_path, pipeline_schedule="1F1B", compile=planned)
    plan = planfile.load(environ, world_size=2)
    assert plan is not None
    assert planfile.compiler(plan, {"QWENFT_COMPILE": asked}) == expected


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_selective_recomputation_under_zero_bubble_is_refused_in_a_plan_by_hand_too(
    tmp_path: Path, checkpointing: str
) -> None:
    environ = two_halves(tmp_path, activation_checkpointing=checkpointing)
    if checkpointing != "selective":
        assert planfile.load(environ, world_size=2) is not None
        return
    with pytest.raises(PlanInvalid, match="full or none works"):
        planfile.load(environ, world_size=2)


@pytest.mark.parametrize("schedule", ["GPipe", "1F1B", "Interleaved1F1B"])
def test_other_schedules_go_with_compiled_layers(tmp_path: Path, schedule: str) -> None:
    environ = two_halves(tmp_path, pipeline_schedule=schedule)
    assert planfile.load(environ | {"QWENFT_COMPILE": "inductor"}, world_size=2) is not None
