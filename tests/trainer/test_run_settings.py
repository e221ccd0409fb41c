"""What the built-in loop is told: plan, request, attempt and identity."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from parity.tiny import make_plan
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.settings import Settings, read_settings

pytestmark = pytest.mark.torch

SPEC: Mapping[str, Any] = {
    "model": {"path": "/data/model"},
    "dataset": {"path": "/data/set.pt"},
    "training": {"batchSize": 8, "epochs": 2},
    "output": {"path": "/data/out"},
}


def environ(folder: Path, **changes: Any) -> dict[str, str]:
    """Write a plan and a run file; ``changes`` replace sections of the request, or its uid."""
    uid = changes.pop("uid", "u-1")
    (folder / "plan.json").write_text(make_plan().to_json())
    run = {"name": "r", "namespace": "n", "uid": uid, "spec": {**SPEC, **changes}}
    (folder / "run.json").write_text(json.dumps(run))
    return {
        "QWENFT_PLAN": str(folder / "plan.json"),
        "QWENFT_RUN": str(folder / "run.json"),
        "WORLD_SIZE": "1",
    }


def read(folder: Path, **changes: Any) -> Settings:
    return read_settings(environ(folder, **changes))


def test_paths_follow_from_the_output(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.checkpoints == Path("/data/out/checkpoints")
    assert settings.model_directory == Path("/data/out/model")


def test_the_first_attempt_is_one(tmp_path: Path) -> None:
    assert read(tmp_path).attempt == 1
    assert read_settings({**environ(tmp_path), "QWENFT_ATTEMPT": "7"}).attempt == 7
    assert read_settings({**environ(tmp_path), "QWENFT_ATTEMPT": ""}).attempt == 1


def test_an_attempt_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid, match="first"):
        read_settings({**environ(tmp_path), "QWENFT_ATTEMPT": "first"})


@pytest.mark.parametrize("variable", ["QWENFT_PLAN", "QWENFT_RUN"])
def test_both_files_must_be_named(tmp_path: Path, variable: str) -> None:
    with pytest.raises(PlanInvalid, match=variable):
        read_settings({**environ(tmp_path), variable: ""})


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"spec": 3}'])
def test_a_damaged_run_file_is_named(tmp_path: Path, content: str) -> None:
    variables = environ(tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(PlanInvalid, match=r"run\.json"):
        read_settings(variables)


def test_a_run_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    variables = environ(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(PlanInvalid, match=r"run\.json cannot be read"):
        read_settings(variables)


def test_a_wrong_field_of_the_request_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid, match=r"training\.epochz"):
        read(tmp_path, training={"batchSize": 8, "epochz": 2})


def test_a_plan_for_another_batch_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid, match=r"global_batch_size 8.*batchSize 64"):
        read(tmp_path, training={"batchSize": 64})


def test_the_same_run_has_the_same_identity(tmp_path: Path) -> None:
    assert read(tmp_path).identity == read(tmp_path).identity


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": "u-2"},
        {"model": {"path": "/data/another"}},
        {"dataset": {"path": "/data/another.pt"}},
        {"training": {"batchSize": 8, "epochs": 2, "learningRate": 1e-3}},
        {"training": {"batchSize": 8, "epochs": 2, "seed": 1}},
    ],
)
def test_another_run_has_another_identity(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    assert read(tmp_path, **changes).identity != read(tmp_path).identity


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"batchSize": 8, "epochs": 5}},
        {"training": {"batchSize": 8, "epochs": 2, "maxSteps": 9}},
        {"output": {"path": "/data/elsewhere"}},
        {"checkpoint": {"everySteps": 3}},
    ],
)
def test_a_longer_run_or_other_bookkeeping_is_the_same_run(
    tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    assert read(tmp_path, **changes).identity == read(tmp_path).identity
