"""fp8 by torchao, emulated on the CPU: rounding as on a GPU, products in bf16."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torchao.float8.float8_linear import Float8Linear

from parity import tiny
from qwenft_trainer import fp8
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.fp8 import multiply_in_fp8
from qwenft_trainer.model import Slice, Stage, checked_config
from qwenft_trainer.validate import check_plan

pytestmark = pytest.mark.torch

CONFIG = checked_config(tiny.make_config())


def stage(**changes: Any) -> Stage:
    torch.manual_seed(0)
    config = checked_config(tiny.make_config(**changes))
    return Stage(config, Slice(layers=range(2), first=True, last=True))


def test_every_matrix_of_a_layer_multiplies_in_fp8_and_nothing_else_does() -> None:
    made = stage()
    names = [name for name, _ in made.named_parameters()]
    multiply_in_fp8(made)
    assert [name for name, _ in made.named_parameters()] == names
    found = {name for name, module in made.named_modules() if isinstance(module, Float8Linear)}
    assert len(found) == 2 * 7
    assert all(".layers." in name for name in found)


def test_matrices_with_odd_sides_stay_as_they_are() -> None:
    made = stage(intermediate_size=120)
    multiply_in_fp8(made)
    layer = made.model.layers["0"]
    assert isinstance(layer.self_attn.q_proj, Float8Linear)
    assert not isinstance(layer.mlp.gate_proj, Float8Linear)
    assert not isinstance(layer.mlp.down_proj, Float8Linear)


def test_products_are_rounded_to_eight_bits() -> None:
    exact = stage().bfloat16()
    rounded = stage().bfloat16()
    multiply_in_fp8(rounded)
    tokens, positions = torch.arange(12)[None], torch.arange(12)[None]
    with torch.no_grad():
        apart = (rounded(tokens, positions) - exact(tokens, positions)).abs().max()
    assert 0 < apart < 0.5


def test_a_gpu_without_fp8_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fp8.torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(fp8.torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    with pytest.raises(PlanInvalid, match="A100-SXM4-80GB does not multiply in fp8; choose bf16"):
        multiply_in_fp8(stage())


@pytest.mark.parametrize("changes", [{"tp": 2}, {"method": "lora"}])
def test_plans_that_fp8_does_not_cover_are_refused(changes: dict[str, Any]) -> None:
    degrees = {"tp": 2} if "tp" in changes else {}
    plan = replace(tiny.make_plan(**degrees), precision="bf16")
    plan = replace(plan, method=changes.get("method", "full"))
    object.__setattr__(plan, "precision", "fp8")  # the plan itself refuses tensor 2
    with pytest.raises(PlanInvalid, match="fp8 is for method full with tp 1"):
        check_plan(plan, CONFIG)
