"""What a plan and a model must have in common, checked before anything is built."""

from transformers import PretrainedConfig

from qwenft_plan.plan import Plan
from qwenft_trainer.execution import stage_count
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.model import layer_count


def check_plan(plan: Plan, config: PretrainedConfig) -> None:
    """Raise :class:`PlanInvalid`, with the numbers, if the model cannot be cut as planned."""
    if plan.precision == "fp8":
        _check_fp8(plan)
    _check_tensor(plan, config)
    _check_pipeline(plan, config)


def _check_fp8(plan: Plan) -> None:
    if plan.tp > 1 or plan.method != "full":
        raise PlanInvalid(
            f"precision fp8 is for method full with tp 1, not {plan.method} with tp {plan.tp}; "
            "choose bf16, or plan anew"
        )


def _check_tensor(plan: Plan, config: PretrainedConfig) -> None:
    for name in ("num_attention_heads", "intermediate_size", "vocab_size"):
        value = int(getattr(config, name))
        if value % plan.tp:
            raise PlanInvalid(f"tp {plan.tp} does not divide the model's {name} {value}")
    key_heads = int(config.num_key_value_heads)
    if key_heads % plan.tp and plan.tp % key_heads:
        raise PlanInvalid(
            f"tp {plan.tp} and the model's num_key_value_heads {key_heads} do not divide each other"
        )
    if plan.sequence_length % plan.tp:
        raise PlanInvalid(f"tp {plan.tp} does not divide sequence_length {plan.sequence_length}")


def _check_pipeline(plan: Plan, config: PretrainedConfig) -> None:
    if plan.pp == 1:
        return
    if config.tie_word_embeddings:
        raise PlanInvalid(
            "pp > 1 is not supported for a model with tied embeddings (tie_word_embeddings); "
            "shard or split its tensors instead: pp 1"
        )
    if layer_count(config) < stage_count(plan):
        raise PlanInvalid(
            f"{plan.pipeline_schedule} over pp {plan.pp} needs {stage_count(plan)} stages, but the "
            f"model has {layer_count(config)} layers"
        )
    if plan.pipeline_schedule != "GPipe" and plan.gradient_accumulation_steps < plan.pp:
        raise PlanInvalid(
            f"{plan.pipeline_schedule} over pp {plan.pp} needs at least as many micro-batches, but "
            f"gradient_accumulation_steps is {plan.gradient_accumulation_steps}"
        )
