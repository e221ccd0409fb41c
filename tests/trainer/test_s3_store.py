"""Data, checkpoints, going on and the result in S3: the whole path against a server of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from parity import gang, tiny
from parity.gang import Case
from qwenft_trainer.remote import Store
from stores import S3, serve_s3

pytestmark = [pytest.mark.torch, pytest.mark.full, pytest.mark.timeout(900)]
SHARDED, PIPELINE = {"dp_shard": 2}, {"pp": 2, "accumulation": 2}
STEPS = 6
DATA = "s3://bucket/data.pt"


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with serve_s3() as made:
        made.make_bucket("bucket")
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: S3) -> Path:
    made = tmp_path_factory.mktemp("s3")
    tiny.write_model(made / "model", tiny.make_config(num_hidden_layers=2))
    rows = [
        {
            "input_ids": (torch.arange(48) * 3 + begin) % tiny.VOCABULARY,
            "attention_mask": torch.ones(48, dtype=torch.long),
        }
        for begin in range(8 * STEPS)
    ]
    torch.save({"train": rows, "validation": rows[:9]}, made / "data.pt")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables().items():
            patch.setenv(name, value)
        Store(DATA).put(made / "data.pt", "")
    return made


def case(name: str, folder: Path, variables: Mapping[str, str], where: str, **options: Any) -> Case:
    chosen = {"dataset": DATA, "output": f"s3://{where}", "apart": True, "environ": variables,
              "scratch": folder / "scratch" / name}  # fmt: skip
    plan = options.pop("plan", SHARDED)
    return Case(name=name, model=folder / "model", plan=plan, kind="loop", options=chosen | options)


@pytest.fixture(scope="module")
def outcomes(folder: Path, server: S3) -> Mapping[str, Any]:
    """Two ranks, each a node of its own; what is refused comes last, once the door is closed."""
    known = server.variables()
    local = {"dataset": folder / "data.pt", "output": folder / "local", "apart": False}
    lost = "s3://nowhere/data.pt"
    found = gang.run(2, [
        Case(name="local", model=folder / "model", plan=SHARDED, kind="loop", options=local),
        case("whole", folder, known, "bucket/whole", save_every=2),
        case("stopped", folder, known, "bucket/interrupted", plan=PIPELINE, stop_after=2),
        case("finished", folder, known, "bucket/interrupted", save_every=2, attempt=2),
        case("late", folder, known, "bucket/interrupted", attempt=1),
        case("absent", folder, known, "bucket/a", dataset="s3://bucket/nothing.pt"),
        case("lost-data", folder, known, "bucket/b", dataset=lost),
        case("lost-output", folder, known, "nowhere/out"),
    ])  # fmt: skip
    kept = names("s3://bucket/whole", known)
    server.close_the_door()
    wrong, file = server.variables(key="wrong"), folder / "data.pt"
    found |= gang.run(2, [
        case("closed-data", folder, wrong, "bucket/c"),
        case("closed-output", folder, wrong, "bucket/d", dataset=file),
    ])  # fmt: skip
    return found | {"kept": kept}


def names(url: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return Store(url).names()


def test_a_run_in_s3_trains_as_one_in_a_volume_does(outcomes: Mapping[str, Any]) -> None:
    assert outcomes["whole"]["error"] is None
    assert outcomes["whole"]["losses"] == outcomes["local"]["losses"]
    assert outcomes["whole"]["result"]["outputPath"] == "s3://bucket/whole/model"


def test_the_bucket_holds_the_newest_checkpoints_the_model_and_the_result(
    outcomes: Mapping[str, Any],
) -> None:
    kept = outcomes["kept"]
    assert {name.split("/")[0] for name in kept} == {"checkpoints", "model", "result.json"}
    steps = {name.split("/")[1] for name in kept if name.startswith("checkpoints/step")}
    assert steps == {"step-00000004-attempt-0001", "step-00000006-attempt-0001"}
    assert {"model/config.json", "model/model.safetensors"} <= set(kept)


def test_a_stopped_run_goes_on_from_the_bucket_under_another_plan(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["stopped"]["error"]["code"] == 64
    assert sorted(outcomes["finished"]["losses"]) == ["3", "4", "5", "6"]
    assert outcomes["finished"]["losses"]["6"] == pytest.approx(
        outcomes["local"]["losses"]["6"], abs=1e-4
    )
    AutoModelForCausalLM.from_pretrained(folder / "local" / "model")


def test_an_earlier_attempt_is_fenced_off_the_bucket(outcomes: Mapping[str, Any]) -> None:
    assert "attempt 1 was replaced by attempt 2" in outcomes["late"]["error"]["message"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "spec.dataset.path: s3://bucket/nothing.pt: "),
        ("lost-data", "s3://nowhere/data.pt: there is no bucket or container 'nowhere'; make it"),
        ("lost-output", "there is no bucket or container 'nowhere'; make it, or mend the URL"),
        ("closed-data", "the store refuses the credentials"),
        ("closed-output", "s3://bucket/d: the store refuses the credentials; mend the Secret"),
    ],
)
def test_what_the_user_has_to_mend_ends_with_65_and_one_sentence(
    outcomes: Mapping[str, Any], name: str, sentence: str
) -> None:
    error = outcomes[name]["error"]
    assert error["code"] == 65
    assert sentence in error["message"]
    assert "\n" not in error["message"]
    assert outcomes[name]["losses"] == {}
