"""What the formulas hold to for every model, device, framework and layout that can be drawn."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from planning.drawn import layouts, models, works
from qwenft_plan.cost import step_time, tokens_per_second
from qwenft_plan.divisibility import batch_reason, pipeline_reason, tensor_reason
from qwenft_plan.memory import peak_memory
from qwenft_plan.model import ModelShape
from qwenft_plan.workload import Layout, Workload

FORMULAS = settings(max_examples=80, deadline=None)
FINITE = 1e30
factors = st.sampled_from((1.1, 2.0, 10.0))


@FORMULAS
@given(work=works, layout=layouts())
def test_memory_is_finite_and_no_part_is_negative(work: Workload, layout: Layout) -> None:
    parts = peak_memory(work, layout)
    assert 0 < parts.total < FINITE
    for field in fields(parts):
        assert getattr(parts, field.name) >= 0, field.name


@FORMULAS
@given(work=works, layout=layouts())
def test_time_is_finite_and_no_part_is_negative(work: Workload, layout: Layout) -> None:
    parts = step_time(work, layout)
    assert 0 < parts.total < FINITE
    for field in fields(parts):
        assert getattr(parts, field.name) >= 0, field.name


@FORMULAS
@given(work=works, layout=layouts())
def test_no_device_computes_faster_than_its_peak(work: Workload, layout: Layout) -> None:
    peak = max(work.device.peak_bf16, work.device.matmul_fp8)
    passes = 6 if work.method.kind == "full" else 4  # frozen weights have no gradients
    flops = passes * work.model.layers * work.model.layer_matrix_parameters
    speed = tokens_per_second(work, layout) / layout.world_size
    assert speed * flops <= peak


@FORMULAS
@given(work=works, layout=layouts(), factor=factors, field=st.sampled_from(("link", "network")))
def test_a_faster_link_never_slows_a_layout(
    work: Workload, layout: Layout, factor: float, field: str
) -> None:
    faster = replace(work.device, **{field: getattr(work.device, field) * factor})
    before, after = step_time(work, layout), step_time(replace(work, device=faster), layout)
    assert after.total <= before.total * (1 + 1e-9)


@FORMULAS
@given(work=works, layout=layouts(), factor=factors)
def test_a_faster_memory_never_slows_a_layout(
    work: Workload, layout: Layout, factor: float
) -> None:
    faster = replace(work, device=replace(work.device, hbm=work.device.hbm * factor))
    assert step_time(faster, layout).total <= step_time(work, layout).total * (1 + 1e-9)


@FORMULAS
@given(work=works, layout=layouts())
def test_a_longer_sequence_never_needs_less(work: Workload, layout: Layout) -> None:
    longer = replace(work, sequence_length=2 * work.sequence_length)
    assert peak_memory(longer, layout).total >= peak_memory(work, layout).total
    assert step_time(longer, layout).total >= step_time(work, layout).total


@FORMULAS
@given(work=works, layout=layouts())
def test_a_larger_micro_batch_never_needs_less(work: Workload, layout: Layout) -> None:
    larger = replace(layout, micro_batch=2 * layout.micro_batch)
    assert peak_memory(work, larger).total >= peak_memory(work, layout).total


@FORMULAS
@given(work=works, layout=layouts())
def test_one_more_block_never_needs_less(work: Workload, layout: Layout) -> None:
    deeper = replace(work, model=replace(work.model, layers=work.model.layers + 1))
    assert peak_memory(deeper, layout).total >= peak_memory(work, layout).total
    assert deeper.model.parameters > work.model.parameters


@FORMULAS
@given(model=models(), length=st.sampled_from((1, 2048, 131072)))
def test_a_model_s_flops_are_at_least_six_a_multiplying_parameter(
    model: ModelShape, length: int
) -> None:
    least = 6 * model.layers * model.layer_matrix_parameters
    assert least < model.flops_per_token(length) < FINITE
    assert model.layer_matrix_parameters < model.layer_parameters < model.parameters


@FORMULAS
@given(model=models(), tp=st.integers(1, 64), factor=st.integers(1, 4))
def test_a_tensor_degree_that_exists_has_divisors_that_exist(
    model: ModelShape, tp: int, factor: int
) -> None:
    if tensor_reason(model, tp * factor, 4096) is None:
        assert tensor_reason(model, tp, 4096) is None


@FORMULAS
@given(
    model=models(),
    pp=st.integers(1, 16),
    schedule=st.sampled_from(("GPipe", "1F1B", "Interleaved1F1B", "ZBVZeroBubble")),
    count=st.integers(1, 64),
)
def test_a_pipeline_that_exists_cuts_blocks_and_micro_batches(
    model: ModelShape, pp: int, schedule: str, count: int
) -> None:
    reason = pipeline_reason(model, pp, schedule, count)
    if reason is None:
        assert model.layers % pp == 0
        assert pp == 1 or not model.tied
        assert pp == 1 or schedule == "GPipe" or count >= pp
    else:
        assert reason.startswith(f"pipeline {pp}: ")


@FORMULAS
@given(whole=st.integers(1, 500), dp=st.integers(1, 64), micro=st.integers(1, 64))
def test_a_batch_exists_exactly_where_it_can_be_cut(whole: int, dp: int, micro: int) -> None:
    assert (batch_reason(whole, dp, micro) is None) == (whole % (dp * micro) == 0)
