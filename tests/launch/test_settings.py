"""What one attempt is told, and which attempts belong to the same run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launching.plans import environ, make_plan, spec, write_run
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.settings import Settings, read_settings


def refused(variables: Mapping[str, str]) -> str:
    with pytest.raises(PlanInvalid) as caught:
        read_settings(variables)
    return str(caught.value)


def read(folder: Path, request: Mapping[str, Any], *, uid: str = "u-1") -> Settings:
    variables = environ(folder, make_plan(), request)
    write_run(folder, request, uid=uid)
    return read_settings(variables)


def test_plan_request_and_attempt_are_read(tmp_path: Path) -> None:
    plan = make_plan(accumulation=2)
    settings = read_settings(environ(tmp_path, plan, spec(tmp_path)) | {"QWENFT_ATTEMPT": "3"})
    assert settings.plan == plan
    assert settings.attempt == 3
    assert settings.spec.training.batch_size == 4
    assert settings.checkpoints == tmp_path / "out" / "checkpoints"
    assert settings.model_directory == tmp_path / "out" / "model"


def test_an_output_behind_a_url_has_a_copy_on_this_node(tmp_path: Path) -> None:
    request = spec(tmp_path)
    request["output"] = {"path": "s3://bucket/run"}
    variables = environ(tmp_path, make_plan(), request) | {"QWENFT_SCRATCH": str(tmp_path / "s")}
    settings = read_settings(variables)
    assert settings.checkpoints == tmp_path / "s" / "output" / "checkpoints"
    assert settings.told(settings.result_directory) == "s3://bucket/run/model"
    assert settings.converts_apart
    assert settings.converted == tmp_path / "s" / "dataset"
    del variables["QWENFT_SCRATCH"]
    assert read_settings(variables).scratch.name.startswith("qwenft-"), "the run's own, in /tmp"


def test_a_dataset_from_a_url_is_not_converted_into_the_output(tmp_path: Path) -> None:
    """It is another file at each attempt, and would be converted there anew each time."""
    request = spec(tmp_path)
    request["dataset"] = {"path": "s3://bucket/data.pt"}
    settings = read_settings(environ(tmp_path, make_plan(), request))
    assert settings.converts_apart
    assert settings.converted.is_relative_to(settings.scratch)
    assert settings.told(settings.model_directory) == str(tmp_path / "out" / "model")


def test_adapters_have_a_place_of_their_own_and_the_model_s_if_merged(tmp_path: Path) -> None:
    request = spec(tmp_path)
    request["training"] = {**request.get("training", {}), "method": "lora"}
    plan = dataclasses.replace(make_plan(), method="lora")
    alone = read_settings(environ(tmp_path, plan, request))
    assert alone.result_directory == alone.adapter_directory == tmp_path / "out" / "adapter"
    request["output"] = {**request["output"], "mergeAdapter": True}
    merged = read_settings(environ(tmp_path, plan, request))
    assert merged.result_directory == merged.model_directory


def test_a_plan_for_another_method_is_refused(tmp_path: Path) -> None:
    plan = dataclasses.replace(make_plan(), method="lora")
    text = refused(environ(tmp_path, plan, spec(tmp_path)))
    assert "for method lora" in text
    assert "training.method is full" in text


@pytest.mark.parametrize("attempt", [None, ""])
def test_a_run_without_an_operator_is_attempt_1(tmp_path: Path, attempt: str | None) -> None:
    variables = environ(tmp_path, make_plan(), spec(tmp_path))
    del variables["QWENFT_ATTEMPT"]
    if attempt is not None:
        variables["QWENFT_ATTEMPT"] = attempt
    assert read_settings(variables).attempt == 1


def test_an_older_checkpoint_is_asked_for_by_a_step(tmp_path: Path) -> None:
    variables = environ(tmp_path, make_plan(), spec(tmp_path))
    assert read_settings(variables).before_step is None
    assert read_settings(variables | {"QWENFT_CHECKPOINT_BEFORE_STEP": ""}).before_step is None
    asked = variables | {"QWENFT_CHECKPOINT_BEFORE_STEP": "400"}
    assert read_settings(asked).before_step == 400
    assert read_settings(asked).identity == read_settings(variables).identity


def test_a_step_that_is_no_number_is_refused(tmp_path: Path) -> None:
    variables = environ(tmp_path, make_plan(), spec(tmp_path))
    assert "'x'" in refused(variables | {"QWENFT_CHECKPOINT_BEFORE_STEP": "x"})


def test_the_world_size_of_the_environment_is_held_against_the_plan(tmp_path: Path) -> None:
    plan = make_plan(processes_per_node=2)
    variables = environ(tmp_path, plan, spec(tmp_path))
    assert read_settings(variables | {"WORLD_SIZE": "2"}).plan == plan
    assert "but 4 processes were started" in refused(variables | {"WORLD_SIZE": "4"})
    assert "but 1 processes were started" in refused(variables)


@pytest.mark.parametrize("variable", ["QWENFT_PLAN", "QWENFT_RUN"])
def test_the_built_in_loop_says_which_file_it_lacks(tmp_path: Path, variable: str) -> None:
    variables = environ(tmp_path, make_plan(), spec(tmp_path))
    del variables[variable]
    assert refused(variables).startswith(f"{variable} names no ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[]", 'must hold a JSON object with "spec"'),
        (b'{"spec": 1}', 'must hold a JSON object with "spec"'),
        (b'{"uid": "u-1"}', 'must hold a JSON object with "spec"'),
    ],
)
def test_a_damaged_run_file_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    variables = environ(tmp_path, make_plan(), spec(tmp_path))
    Path(variables["QWENFT_RUN"]).write_bytes(content)
    sentence = refused(variables)
    assert variables["QWENFT_RUN"] in sentence
    assert said in sentence


def test_a_missing_run_file_is_refused_by_name(tmp_path: Path) -> None:
    variables = environ(tmp_path, make_plan(), spec(tmp_path))
    Path(variables["QWENFT_RUN"]).unlink()
    assert f"{tmp_path}/run.json cannot be read" in refused(variables)


def test_a_wrong_field_is_named_with_the_file_and_its_path(tmp_path: Path) -> None:
    request = spec(tmp_path, training={"batchSize": "many"})
    sentence = refused(environ(tmp_path, make_plan(), request))
    assert sentence.startswith(f"{tmp_path}/run.json: ")
    assert "training.batchSize" in sentence


def test_a_plan_for_another_batch_than_the_requests_is_refused(tmp_path: Path) -> None:
    request = spec(tmp_path, training={"batchSize": 16})
    sentence = refused(environ(tmp_path, make_plan(rows=4), request))
    assert "global_batch_size 4" in sentence
    assert "training.batchSize 16" in sentence


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"epochs": 7}},
        {"training": {"maxSteps": 99}},
        {"checkpoint": {"keep": 9, "everySteps": 5}},
        {"parallelism": {"tensor": 1}},
    ],
    ids=str,
)
def test_a_longer_or_differently_planned_run_is_the_same_run(
    tmp_path: Path, change: Mapping[str, Any]
) -> None:
    assert (
        read(tmp_path, spec(tmp_path, **change)).identity == read(tmp_path, spec(tmp_path)).identity
    )


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"learningRate": 0.5}},
        {"training": {"seed": 1}},
        {"training": {"precision": "bf16"}},
        {"dataset": {"path": "/elsewhere/set.pt"}},
        {"model": {"name": "Qwen/Qwen1.5-7B"}},
    ],
    ids=str,
)
def test_another_model_data_or_recipe_is_another_run(
    tmp_path: Path, change: Mapping[str, Any]
) -> None:
    assert (
        read(tmp_path, spec(tmp_path, **change)).identity != read(tmp_path, spec(tmp_path)).identity
    )


def test_a_resource_made_anew_under_the_old_name_is_another_run(tmp_path: Path) -> None:
    request = spec(tmp_path)
    assert read(tmp_path, request, uid="u-2").identity != read(tmp_path, request).identity


def test_the_order_of_keys_in_the_run_file_says_nothing(tmp_path: Path) -> None:
    request = spec(tmp_path)
    backwards = dict(reversed(request.items()))
    backwards["training"] = dict(reversed(request["training"].items()))
    assert read(tmp_path, backwards).identity == read(tmp_path, request).identity
