"""The built-in loop from a dataset to an exported model, and what may befall it on the way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from parity import gang, tiny
from parity.gang import Case
from qwenft_trainer.data import IGNORED, load, save_flat
from qwenft_trainer.failure import TrainerError

pytestmark = pytest.mark.torch

STEPS = 6
PIPELINE = {"pp": 2, "accumulation": 2}
SHARDED = {"dp_shard": 2}
# Steps so large that the loss grows at once: the best model is not the last, on any machine.
BEST = {"rate": 1.0, "evaluate_every": 1, "keep_best": True, "report_to": ["tensorboard"]}
ADAPTERS = {"dp_shard": 2, "method": "lora"}
# At this rate the adapters overshoot before the last step.
BEST_ADAPTERS = BEST | {"rate": 0.03, "report_to": [], "compiler": "aot_eager"}


def records(count: int, *, seed: int) -> list[dict[str, torch.Tensor]]:
    """Return samples of unequal length that count upwards in threes: easy to learn."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        begin = int(torch.randint(0, 50, (1,), generator=generator))
        length = int(torch.randint(10, 40, (1,), generator=generator))
        tokens = (torch.arange(48) * 3 + begin) % tiny.VOCABULARY
        mask = (torch.arange(48) < length).long()
        made.append({"input_ids": tokens, "attention_mask": mask})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loop")
    tiny.write_model(made / "model", tiny.make_config(num_hidden_layers=2))
    content = {"train": records(8 * STEPS, seed=1), "validation": records(11, seed=2)}
    torch.save(content, made / "data.pt")
    torch.save({"train": content["train"]}, made / "training only.pt")
    torch.save({"train": records(5, seed=1)}, made / "small.pt")
    save_flat(load(made / "data.pt"), made / "flat.safetensors")
    masked = [{**row, "labels": row["input_ids"].clone()} for row in content["train"]]
    for row in masked:
        row["labels"][:4] = IGNORED
    torch.save({"train": masked}, made / "masked.pt")
    return made


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> Mapping[str, Any]:
    """One gang runs everything; attempts share an output directory where the test says so."""

    def case(name: str, plan: Mapping[str, Any], output: str, **options: Any) -> Case:
        chosen = {"dataset": folder / "data.pt", "output": folder / output, **options}
        return Case(name=name, model=folder / "model", plan=plan, kind="loop", options=chosen)

    (folder / "blocked").mkdir()
    (folder / "blocked" / "checkpoints").touch()  # root may write to directories that are read-only
    cases = [
        case("undisturbed", SHARDED, "whole", save_every=2, evaluate_every=3),
        case("best", SHARDED, "best", **BEST),
        case("stopped", PIPELINE, "interrupted", stop_after=2),
        case("stopped again", SHARDED, "interrupted", stop_after=4, attempt=2),
        case("finished", PIPELINE, "interrupted", attempt=3),
        case("started again", SHARDED, "interrupted", attempt=4),
        case("late", SHARDED, "interrupted", attempt=1),
        case("poisoned", SHARDED, "poisoned", poison_after=3, save_every=2),
        case("small", SHARDED, "small", dataset=folder / "small.pt"),
        case("absent", SHARDED, "absent", dataset=folder / "nothing.pt"),
        case("other config", SHARDED, "other", config={"num_hidden_layers": 40}),
        case("flat", PIPELINE, "flat", dataset=folder / "flat.safetensors"),
        case("masked", SHARDED, "masked", dataset=folder / "masked.pt"),
        case("unclipped", SHARDED, "unclipped", max_grad_norm=0.0),
        case("hardly clipped", SHARDED, "hardly clipped", max_grad_norm=1e9),
        case("best adapters", ADAPTERS, "best adapters", lora={"rank": 4}, **BEST_ADAPTERS),
        case("full", SHARDED, "full", save_every=2, full_after=3, ended_by=5),
        case("room again", PIPELINE, "full", save_every=2, attempt=2),
        case("a file in the way", SHARDED, "blocked"),
        case("no validation", SHARDED, "unvalidated", dataset=folder / "training only.pt"),
    ]
    return gang.run(2, cases)


def test_a_run_ends_with_a_better_model_and_says_so(outcomes: Mapping[str, Any]) -> None:
    result = outcomes["undisturbed"]["result"]
    assert outcomes["undisturbed"]["error"] is None
    assert result["steps"] == STEPS
    assert result["validationLossAfter"] < result["validationLossBefore"] - 0.3
    assert result["trainedTokens"] > 0
    assert result["tokensPerSecond"] > 0
    assert result["memoryGiB"] > 0
    assert result["sample"] is None


def test_a_largest_norm_of_zero_clips_nothing(outcomes: Mapping[str, Any]) -> None:
    """As in Hugging Face's Trainer; scaled to a norm of zero, nothing would ever be learnt."""
    losses = outcomes["unclipped"]["losses"]
    assert losses == outcomes["hardly clipped"]["losses"]
    assert losses != outcomes["undisturbed"]["losses"], "a norm of 1 does clip here"


def test_the_export_gives_the_validation_loss_that_was_reported(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    result = outcomes["undisturbed"]["result"]
    _, info = AutoModelForCausalLM.from_pretrained(result["outputPath"], output_loading_info=True)
    assert not any(info.values())
    found = validation_loss(result["outputPath"], folder)
    assert result["validationLossAfter"] == pytest.approx(found, rel=1e-5)


def test_the_exported_model_generates(outcomes: Mapping[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(outcomes["undisturbed"]["result"]["outputPath"])
    prompt = torch.tensor([[0, 3, 6, 9]])
    answer = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=3,
        do_sample=False,
        pad_token_id=0,
    )
    assert answer.shape == (1, 7)


def test_as_many_checkpoints_are_kept_as_asked(outcomes: Mapping[str, Any], folder: Path) -> None:
    assert outcomes["undisturbed"]["error"] is None
    kept = sorted(path.name for path in (folder / "whole" / "checkpoints").glob("step-*"))
    assert kept == ["step-00000004-attempt-0001", "step-00000006-attempt-0001"]


def validation_loss(directory: str, folder: Path) -> float:
    """Return stock transformers' loss of an exported model."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    total, count = 0.0, 0
    for row in torch.load(folder / "data.pt", weights_only=True)["validation"]:
        length = int(row["attention_mask"].sum())
        tokens = row["input_ids"][None, :length]
        with torch.no_grad():
            total += float(model(tokens, labels=tokens).loss) * (length - 1)
        count += length - 1
    return total / count


def test_the_best_model_is_kept_exported_and_named(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["best"]["error"] is None
    result = outcomes["best"]["result"]
    assert result["bestStep"] < STEPS
    assert result["bestValidationLoss"] < result["validationLossAfter"]
    assert result["bestPath"] == str(folder / "best" / "best-model")
    assert validation_loss(result["bestPath"], folder) == pytest.approx(
        result["bestValidationLoss"], rel=1e-5
    )
    kept = {path.name for path in (folder / "best" / "checkpoints").glob("step-*")}
    assert f"step-{result['bestStep']:08d}-attempt-0001" in kept
    assert f"step-{STEPS:08d}-attempt-0001" in kept


# peft 0.21 asks transformers 5.23 by a name that is going away.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_best_adapters_are_kept_too_and_layers_compiled_under_them(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["best adapters"]["error"] is None
    result = outcomes["best adapters"]["result"]
    assert result["bestStep"] < STEPS
    assert result["bestValidationLoss"] < result["validationLossAfter"]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    PeftModel.from_pretrained(model, result["bestPath"]).merge_and_unload().save_pretrained(
        folder / "best merged"
    )
    assert validation_loss(str(folder / "best merged"), folder) == pytest.approx(
        result["bestValidationLoss"], rel=1e-5
    )


def test_a_full_disk_ends_a_run_with_the_path_and_keeps_what_was_saved(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    error = outcomes["full"]["error"]
    assert error["code"] == TrainerError.exit_code
    checkpoints = folder / "full" / "checkpoints"
    told = f"checkpoint {checkpoints}/step-00000004-attempt-0001 cannot be written"
    assert error["message"].startswith(told)
    assert "make room there" in error["message"]
    assert "the disk or a quota is full" in error["message"]
    assert max(map(int, outcomes["full"]["losses"])) == 5, "at the next step, not the next save"
    again = outcomes["room again"]
    assert again["error"] is None
    assert min(map(int, again["losses"])) == 3, "from the checkpoint of step 2"
    for step, loss in again["losses"].items():
        assert loss == pytest.approx(outcomes["undisturbed"]["losses"][step], abs=1e-5)
    assert not list(checkpoints.glob(".*.partial"))


def test_a_directory_that_cannot_be_written_to_is_named_before_the_first_step(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    outcome = outcomes["a file in the way"]
    assert outcome["losses"] == {}
    assert outcome["error"]["code"] == TrainerError.exit_code
    path = folder / "blocked" / "checkpoints"
    assert f"checkpoints cannot be written to {path}" in outcome["error"]["message"]


def test_a_run_that_was_not_asked_for_its_best_names_none(outcomes: Mapping[str, Any]) -> None:
    assert "bestStep" not in outcomes["undisturbed"]["result"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_curves_of_a_run_lie_under_its_output(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    events = EventAccumulator(str(folder / "best" / "logs"))
    events.Reload()
    curve = {event.step: event.value for event in events.Scalars("train/loss")}
    losses = {int(step): loss for step, loss in outcomes["best"]["losses"].items()}
    assert curve == pytest.approx(losses, rel=1e-5)
    result = outcomes["best"]["result"]
    evaluated = {event.step: event.value for event in events.Scalars("eval/loss")}
    assert list(evaluated) == list(range(STEPS + 1))
    assert evaluated[0] == pytest.approx(result["validationLossBefore"])
    assert evaluated[result["bestStep"]] == pytest.approx(result["bestValidationLoss"])
    assert min(evaluated[step] for step in range(1, STEPS + 1)) == evaluated[result["bestStep"]]


@pytest.mark.parametrize(("name", "step"), [("stopped", 2), ("stopped again", 4)])
def test_one_rank_told_to_stop_ends_all_of_them_after_a_save(
    name: str, step: int, outcomes: Mapping[str, Any]
) -> None:
    error = outcomes[name]["error"]
    assert (error["code"], error["step"]) == (64, step)
    assert f"saved after step {step}" in error["message"]
    assert outcomes[name]["result"] is None


def test_three_attempts_under_two_plans_train_as_one(outcomes: Mapping[str, Any]) -> None:
    parts = [outcomes[name]["losses"] for name in ("stopped", "stopped again", "finished")]
    assert [list(part) for part in parts] == [["1", "2"], ["3", "4"], ["5", "6"]]
    joined = {step: loss for part in parts for step, loss in part.items()}
    for step, loss in outcomes["undisturbed"]["losses"].items():
        assert joined[step] == pytest.approx(loss, abs=1e-5)


def test_the_result_counts_all_attempts(outcomes: Mapping[str, Any]) -> None:
    whole, pieces = outcomes["undisturbed"]["result"], outcomes["finished"]["result"]
    assert pieces["trainedTokens"] == whole["trainedTokens"]
    assert pieces["validationLossBefore"] == pytest.approx(whole["validationLossBefore"])
    assert pieces["validationLossAfter"] == pytest.approx(whole["validationLossAfter"], abs=1e-5)


def test_a_finished_run_that_is_started_again_trains_nothing(outcomes: Mapping[str, Any]) -> None:
    assert outcomes["started again"]["losses"] == {}
    assert outcomes["started again"]["error"] is None
    assert outcomes["started again"]["result"]["steps"] == STEPS


def test_an_attempt_that_was_replaced_does_not_begin(outcomes: Mapping[str, Any]) -> None:
    error = outcomes["late"]["error"]
    assert error["code"] == 70
    assert "attempt 1 was replaced by attempt 4" in error["message"]


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_samples(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    error = outcomes["poisoned"]["error"]
    assert (error["code"], error["step"]) == (67, 4)
    assert "loss nan" in error["message"]
    assert "samples" in error["message"]
    kept = [path.name for path in (folder / "poisoned" / "checkpoints").glob("step-*")]
    assert kept == ["step-00000002-attempt-0001"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("small", 65, "5 samples"),
        ("absent", 65, "no such file"),
        ("other config", 66, "num_hidden_layers 40"),
    ],
)
def test_bad_input_ends_a_run_before_its_first_step(
    name: str, code: int, words: str, outcomes: Mapping[str, Any]
) -> None:
    assert outcomes[name]["error"]["code"] == code
    assert words in outcomes[name]["error"]["message"]
    assert outcomes[name]["losses"] == {}


def test_a_run_without_validation_says_nothing_about_it(outcomes: Mapping[str, Any]) -> None:
    result = outcomes["no validation"]["result"]
    assert result["validationLossBefore"] is None
    assert result["validationLossAfter"] is None
    assert result["finalLoss"] < outcomes["no validation"]["losses"]["1"]


def test_a_flat_file_trains_as_the_records_it_was_made_of(outcomes: Mapping[str, Any]) -> None:
    assert outcomes["flat"]["error"] is None
    for step, loss in outcomes["undisturbed"]["losses"].items():
        assert outcomes["flat"]["losses"][step] == pytest.approx(loss, abs=1e-5)


def test_masked_prompts_are_context_only(outcomes: Mapping[str, Any]) -> None:
    masked, whole = outcomes["masked"]["result"], outcomes["no validation"]["result"]
    # Four tokens of each sample are context; the first of them never was a prediction.
    assert whole["trainedTokens"] - masked["trainedTokens"] == 3 * 8 * STEPS


def test_records_are_converted_once_for_all_attempts(
    outcomes: Mapping[str, Any], folder: Path
) -> None:
    assert outcomes["started again"]["error"] is None
    assert len(list((folder / "interrupted" / "dataset").iterdir())) == 1
    assert not (folder / "flat" / "dataset").exists()
