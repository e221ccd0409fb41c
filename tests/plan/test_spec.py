"""The request is parsed once, and a wrong field is named by its path."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenft_plan.errors import SpecError
from qwenft_plan.spec import MATRICES, FinetuneSpec, Hub, Lora, Training, Volume

CLAIM = {"persistentVolumeClaim": {"claimName": "data"}}
SMALLEST: dict[str, Any] = {
    "model": {"name": "Qwen/Qwen1.5-7B"},
    "dataset": {"path": "/data/qwen_dataset.pt", "volume": CLAIM},
    "output": {"path": "/data/out", "volume": CLAIM},
}


def with_value(path: str, value: object) -> dict[str, Any]:
    """Return the smallest request with one field set: ``training.epochs``."""
    spec = copy.deepcopy(SMALLEST)
    *parents, last = path.split(".")
    at = spec
    for part in parents:
        at = at.setdefault(part, {})
    at[last] = value
    return spec


def refusal(mapping: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        FinetuneSpec.from_mapping(mapping)
    return caught.value


def test_smallest_request_has_the_documented_defaults() -> None:
    spec = FinetuneSpec.from_mapping(SMALLEST)
    assert spec.model.name == "Qwen/Qwen1.5-7B"
    assert spec.dataset.volume == Volume(claim_name="data")
    assert (spec.training.epochs, spec.training.batch_size) == (1, 64)
    assert (spec.training.sequence_length, spec.training.learning_rate) == (2048, 1e-5)
    assert spec.training.precision == "bf16"
    assert (spec.resources.nodes.min, spec.resources.nodes.max) == (1, None)
    assert spec.parallelism.tensor is None
    assert spec.trainer.rendezvous == "static"
    assert spec.checkpoint.keep == 2
    assert spec.run_policy.backoff_limit == 3


def test_every_field_is_read() -> None:
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"path": "/data/model", "volume": CLAIM, "config": {"hidden_size": 256}},
            "dataset": {"path": "/data/d.pt", "volume": CLAIM},
            "output": {"path": "/data/out", "volume": CLAIM},
            "training": {
                "epochs": 2, "maxSteps": 7, "batchSize": 16, "sequenceLength": 128,
                "learningRate": 1, "weightDecay": 0.1, "warmupSteps": 5, "scheduler": "cosine",
                "maxGradNorm": 0.5, "seed": 3, "precision": "fp32", "evaluateEverySteps": 4,
                "reportTo": ["mlflow", "tensorboard"],
                "method": "full", "optimizer": "adamw",
            },
            "resources": {
                "nodes": {"min": 2, "max": 4}, "processesPerNode": 2, "cpusPerProcess": 3,
                "memoryPerNode": "1.5Gi", "nodeSelector": {"pool": "train"},
                "tolerations": [{"key": "train", "operator": "Exists", "effect": "NoSchedule"}],
            },
            "parallelism": {
                "dataReplicate": 1, "dataShard": 2, "tensor": 1, "pipeline": 2, "microBatchSize": 4,
                "activationCheckpointing": "full", "pipelineSchedule": "GPipe",
            },
            "trainer": {
                "image": "trainer:dev", "imagePullPolicy": "Never", "args": ["--lr", "1e-4"],
                "script": {"configMap": {"name": "script"}}, "rendezvous": "c10d",
                "env": [{"name": "HF_TOKEN_PATH", "value": "/x"}],
            },
            "checkpoint": {"everySteps": 10, "keep": 3, "keepBest": True},
            "runPolicy": {
                "suspend": True, "backoffLimit": 0, "activeDeadlineSeconds": 60,
                "ttlSecondsAfterFinished": 0, "cleanPodPolicy": "All",
            },
        }
    )  # fmt: skip
    assert spec.model.config == {"hidden_size": 256}
    assert spec.training.max_steps == 7
    assert spec.training.evaluate_every_steps == 4
    assert spec.resources.memory_per_node == 3 * 2**29
    assert spec.resources.tolerations[0].operator == "Exists"
    assert spec.parallelism.pipeline_schedule == "GPipe"
    assert spec.trainer.script is not None
    assert spec.trainer.script.key == "train.py"
    assert spec.trainer.env[0].name == "HF_TOKEN_PATH"
    assert spec.training.report_to == ("mlflow", "tensorboard")
    assert spec.checkpoint.every_steps == 10
    assert spec.checkpoint.keep_best
    assert spec.run_policy.ttl_seconds_after_finished == 0


@pytest.mark.parametrize(
    ("field", "value", "path", "words"),
    [
        ("training.epochs", 0, "spec.training.epochs", "0 is not within"),
        ("training.epochs", True, "spec.training.epochs", "must be an integer"),
        ("training.epochs", "1", "spec.training.epochs", "must be an integer"),
        ("training.learningRate", -1, "spec.training.learningRate", "finite number"),
        ("training.learningRate", float("nan"), "spec.training.learningRate", "finite number"),
        ("training.learningRate", 10**400, "spec.training.learningRate", "finite number"),
        ("training.learningRate", "1e-5", "spec.training.learningRate", "must be a number"),
        ("training.precision", "fp16", "spec.training.precision", "none of fp32, bf16, fp8"),
        ("training.reportTo", "wandb", "spec.training.reportTo", "must be a list"),
        ("training.reportTo", ["wandb", "x"], "spec.training.reportTo[1]", "none of tensorboard"),
        ("training.reportTo", ["wandb"] * 2, "spec.training.reportTo[1]", "there twice"),
        ("training.reportTo", [["a"]], "spec.training.reportTo[0]", "none of tensorboard"),
        ("checkpoint.keepBest", True, "spec.checkpoint.keepBest", "needs training.evaluateEvery"),
        ("checkpoint.keepBest", "yes", "spec.checkpoint.keepBest", "must be true or false"),
        ("training.epoch", 1, "spec.training.epoch", "not a known field"),
        ("training.method", "dora", "spec.training.method", "none of full, lora, qlora"),
        ("training.optimizer", "sgd", "spec.training.optimizer", "none of adamw"),
        ("training.lora", {"rank": 8}, "spec.training.lora", "is for spec.training.method: lora"),
        ("training.lora", {"r": 8}, "spec.training.lora.r", "not a known field"),
        ("training.lora", {"rank": 0}, "spec.training.lora.rank", "0 is not within"),
        ("training.lora", {"alpha": -1}, "spec.training.lora.alpha", "finite number"),
        ("training.lora", {"dropout": 1}, "spec.training.lora.dropout", "1 is not below 1"),
        ("training.lora", {"targetModules": "q_proj"}, "spec.training.lora.targetModules", "list"),
        (
            "training.lora",
            {"targetModules": ["q_proj", "lm_head"]},
            "spec.training.lora.targetModules[1]",
            "'lm_head' is none of q_proj",
        ),
        ("output.hub", {}, "spec.output.hub.repository", "owner/name"),
        ("output.hub", {"repository": "name"}, "spec.output.hub.repository", "owner/name"),
        ("output.hub", {"repository": "a/b/c"}, "spec.output.hub.repository", "owner/name"),
        ("output.hub", {"repository": "a/b", "private": 1}, "spec.output.hub.private", "true or"),
        ("output.hub", {"token": "x"}, "spec.output.hub.token", "not a known field"),
        ("output.mergeAdapter", 1, "spec.output.mergeAdapter", "true or false"),
        ("output.mergeAdapter", True, "spec.output.mergeAdapter", "spec.training.method: lora"),
        ("resources.nodes", {"min": 3, "max": 2}, "spec.resources.nodes.max", "2 is below"),
        ("resources.memoryPerNode", "many", "spec.resources.memoryPerNode", "such as 16Gi"),
        ("resources.nodeSelector", {"pool": 1}, "spec.resources.nodeSelector.pool", "a string"),
        ("resources.tolerations", {}, "spec.resources.tolerations", "must be a list"),
        ("resources.tolerations", [1], "spec.resources.tolerations[0]", "must be a mapping"),
        ("parallelism.tensor", 0, "spec.parallelism.tensor", "0 is not within"),
        ("parallelism.pipelineSchedule", "DAPPLE", "spec.parallelism.pipelineSchedule", "GPipe"),
        ("dataset.path", "data.pt", "spec.dataset.path", "absolute path"),
        ("dataset.path", "/", "spec.dataset.path", "absolute path"),
        ("dataset.path", "/data/../etc", "spec.dataset.path", "absolute path"),
        ("dataset.path", "/etc/x", "spec.dataset.path", "/etc belongs to the container"),
        ("dataset.path", "/data/\x00", "spec.dataset.path", "control characters"),
        ("dataset.path", "s3://", "spec.dataset.path", "a URL such as s3://bucket"),
        ("dataset.path", "S3://b/x", "spec.dataset.path", "a URL such as s3://bucket"),
        ("dataset.path", "s3://b/x y", "spec.dataset.path", "a URL such as s3://bucket"),
        ("dataset.path", "s3://b/../x", "spec.dataset.path", "must not climb"),
        ("dataset.path", "s3://key:word@b/x", "spec.dataset.path", "hold no credentials"),
        ("dataset.path", "s3://b/x", "spec.dataset.volume", "a URL has none"),
        ("output.path", "s3://b/x", "spec.output.volume", "a URL has none"),
        ("model.path", "s3://b/x", "spec.model.path", "absolute path"),
        ("trainer.envFrom", {"secretRef": {}}, "spec.trainer.envFrom", "must be a list"),
        ("trainer.envFrom", ["x"], "spec.trainer.envFrom[0]", "must be a mapping"),
        (
            "trainer.envFrom",
            [{"secretRef": {}}],
            "spec.trainer.envFrom[0].secretRef.name",
            "Secret",
        ),
        (
            "trainer.envFrom",
            [{"configMapRef": {"name": "x"}}],
            "spec.trainer.envFrom[0].configMapRef",
            "not a known field",
        ),
        ("dataset.volume", {"hostPath": {}}, "spec.dataset.volume.hostPath", "not a known field"),
        ("dataset.volume", [], "spec.dataset.volume", "must be a mapping"),
        ("model", {}, "spec.model", "needs a name"),
        ("model.config", 3, "spec.model.config", "must be a mapping"),
        ("trainer.args", [1], "spec.trainer.args[0]", "must be a string"),
        ("trainer.args", "--x", "spec.trainer.args", "must be a list"),
        ("trainer.rendezvous", "etcd", "spec.trainer.rendezvous", "static, c10d"),
        ("trainer.script", {"configMap": {}}, "spec.trainer.script.configMap.name", "is needed"),
        ("checkpoint.keep", 0, "spec.checkpoint.keep", "not within"),
        ("runPolicy.suspend", "yes", "spec.runPolicy.suspend", "true or false"),
        ("runPolicy.cleanPodPolicy", "Some", "spec.runPolicy.cleanPodPolicy", "None, Running"),
        ("surprise", 1, "spec.surprise", "not a known field"),
    ],
)
def test_a_wrong_field_is_named_with_the_way_out(
    field: str, value: object, path: str, words: str
) -> None:
    error = refusal(with_value(field, value))
    assert error.path == path
    assert words in error.message


@pytest.mark.parametrize(
    "name",
    ["PET_NNODES", "MASTER_ADDR", "RANK", "LOCAL_RANK", "WORLD_SIZE", "QWENFT_PLAN",
     "KUBEFLOW_TRAINER_SERVER_URL", "TORCHELASTIC_RUN_ID"],
)  # fmt: skip
def test_the_rendezvous_cannot_be_overridden(name: str) -> None:
    error = refusal(with_value("trainer.env", [{"name": name, "value": "1"}]))
    assert error.path == "spec.trainer.env[0].name"
    assert "cannot be overridden" in error.message


def test_other_environment_is_passed_on() -> None:
    spec = FinetuneSpec.from_mapping(with_value("trainer.env", [{"name": "NCCL_DEBUG"}]))
    assert spec.trainer.env[0].value == ""


@pytest.mark.parametrize("name", ["", "1X", "A B", "A=B"])
def test_a_name_that_no_shell_takes_is_refused(name: str) -> None:
    assert refusal(with_value("trainer.env", [{"name": name}])).path.endswith("env[0].name")


def test_gpus_and_cpu_processes_exclude_each_other() -> None:
    error = refusal(with_value("resources", {"gpusPerNode": 8, "processesPerNode": 2}))
    assert error.path == "spec.resources.processesPerNode"


def test_one_mount_point_is_one_claim() -> None:
    other = {"persistentVolumeClaim": {"claimName": "results"}}
    error = refusal(with_value("output.volume", other))
    assert error.path == "spec.output.volume"
    assert "'data' of spec.dataset" in error.message


def test_a_script_is_a_python_file() -> None:
    script = {"configMap": {"name": "s", "key": "../train.py"}}
    assert refusal(with_value("trainer.script", script)).path.endswith("configMap.key")


@pytest.mark.parametrize("value", [None, 1, "x", [], ()])
def test_what_is_no_mapping_is_refused(value: object) -> None:
    assert refusal(value).path == "spec"


def test_zero_checkpoint_interval_means_the_end_only() -> None:
    spec = FinetuneSpec.from_mapping(with_value("checkpoint.everySteps", 0))
    assert spec.checkpoint.every_steps is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), (5, 5), ("2k", 2000), ("1Ki", 1024), ("1.5Gi", 3 * 2**29), ("2T", 2 * 10**12)],
)
def test_quantities_are_bytes(text: object, expected: int) -> None:
    spec = FinetuneSpec.from_mapping(with_value("resources.memoryPerNode", text))
    assert spec.resources.memory_per_node == expected


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_sections = ["model", "dataset", "output", "training", "resources", "parallelism", "trainer",
             "checkpoint", "runPolicy"]  # fmt: skip


@given(section=st.sampled_from(_sections), value=_json)
def test_any_json_parses_or_names_a_field(section: str, value: object) -> None:
    try:
        FinetuneSpec.from_mapping(copy.deepcopy(SMALLEST) | {section: value})
    except SpecError as error:
        assert error.path.startswith("spec")


def test_adapters_have_peft_s_defaults_and_all_matrices() -> None:
    spec = FinetuneSpec.from_mapping(with_value("training.method", "lora"))
    assert spec.training.adapters == Lora(rank=8, alpha=8.0, dropout=0.0, target_modules=MATRICES)
    assert len(MATRICES) == 7


def test_a_full_fine_tune_has_no_adapters() -> None:
    assert Training().adapters is None
    assert FinetuneSpec.from_mapping(SMALLEST).training.adapters is None


def test_a_script_trains_no_adapters_for_it_brings_its_own_method() -> None:
    mapping = with_value("training.method", "lora")
    mapping["trainer"] = {"script": {"configMap": {"name": "mine"}}}
    error = refusal(mapping)
    assert error.path == "spec.training.method"
    assert "the built-in loop only" in str(error)


def test_adapters_are_read_in_peft_s_words() -> None:
    mapping = with_value("training", {"method": "lora", "lora": {"rank": 16, "alpha": 32}})
    mapping["training"]["lora"] |= {"dropout": 0.05, "targetModules": ["v_proj", "q_proj"]}
    mapping["output"] |= {"mergeAdapter": True}
    spec = FinetuneSpec.from_mapping(mapping)
    # Matrices come in the order of a block, so that equal requests are equal.
    assert spec.training.adapters == Lora(
        rank=16, alpha=32.0, dropout=0.05, target_modules=("q_proj", "v_proj")
    )
    assert spec.output.merge_adapter


@pytest.mark.parametrize(
    "url", ["s3://bucket/a/b.pt", "gs://bucket/a", "file:///shared/out", "hf://datasets/a/b/c.pt"]
)
def test_a_url_is_taken_where_a_path_is(url: str) -> None:
    parts = {"dataset": {"path": url}, "output": {"path": f"{url}/"}}
    spec = FinetuneSpec.from_mapping(SMALLEST | parts)
    assert spec.dataset.path == url
    assert spec.output.path == url, "without the slash at its end"


def test_secrets_are_named_in_their_order() -> None:
    named = [{"secretRef": {"name": name}} for name in ("store", "hub")]
    spec = FinetuneSpec.from_mapping(SMALLEST | {"trainer": {"envFrom": named}})
    assert [item.secret_ref.name for item in spec.trainer.env_from] == ["store", "hub"]


def test_a_copy_for_the_hub_is_private_unless_asked_for_otherwise() -> None:
    def hub(**private: bool) -> Hub | None:
        wanted = {"repository": "me/tuned-7b"} | private
        return FinetuneSpec.from_mapping(with_value("output.hub", wanted)).output.hub

    assert hub() == Hub(repository="me/tuned-7b", private=True)
    assert hub(private=False) == Hub(repository="me/tuned-7b", private=False)


def test_a_script_sends_its_model_to_the_hub_by_itself() -> None:
    mapping = with_value("output.hub", {"repository": "me/x"})
    mapping |= {"trainer": {"script": {"configMap": {"name": "x"}}}}
    error = refusal(mapping)
    assert error.path == "spec.output.hub"
