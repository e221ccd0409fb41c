"""The loss: a sum over trained tokens, the same by every way of computing it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qwenft_trainer.loss import CHUNK_TOKENS, IGNORED, LossHead, loss_sum

pytestmark = pytest.mark.torch

OPTIONS = nn.LinearCrossEntropyOptions()


def data(rows: int = 3, length: int = 7, hidden: int = 16, vocabulary: int = 40) -> list[Tensor]:
    torch.manual_seed(0)
    states = torch.randn(rows, length, hidden)
    weight = torch.randn(vocabulary, hidden) * 0.3
    targets = torch.randint(0, vocabulary, (rows, length))
    targets[0, 3:] = IGNORED
    return [states, weight, targets]


def head(weight: Tensor, chunks: nn.LinearCrossEntropyOptions | None) -> LossHead:
    made = LossHead(weight.shape[1], weight.shape[0], chunks)
    made.weight = nn.Parameter(weight.clone())
    return made


def by_hand(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    log = (states.double() @ weight.double().T).log_softmax(-1)
    picked = log.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -(picked * (targets != IGNORED)).sum()


@pytest.mark.parametrize("chunks", [None, OPTIONS])
def test_the_sum_is_that_of_the_definition(chunks: nn.LinearCrossEntropyOptions | None) -> None:
    states, weight, targets = data()
    found = head(weight, chunks)(states, targets)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(float(by_hand(states, weight, targets)), rel=1e-6)


@pytest.mark.parametrize("chunks", [None, OPTIONS])
def test_the_gradients_are_those_of_the_definition(
    chunks: nn.LinearCrossEntropyOptions | None,
) -> None:
    states, weight, targets = data()
    states.requires_grad_()
    made = head(weight, chunks)
    made(states, targets).sum().backward()
    expected = states.detach().clone().requires_grad_()
    exact = weight.clone().requires_grad_()
    by_hand(expected, exact, targets).backward()
    assert states.grad is not None
    assert made.weight.grad is not None
    torch.testing.assert_close(states.grad, expected.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.weight.grad, exact.grad, atol=1e-5, rtol=1e-5)


def test_without_targets_the_head_gives_logits() -> None:
    states, weight, _ = data()
    torch.testing.assert_close(head(weight, OPTIONS)(states), functional.linear(states, weight))


@pytest.mark.parametrize("chunks", [None, OPTIONS])
def test_nothing_trained_costs_nothing(chunks: nn.LinearCrossEntropyOptions | None) -> None:
    states, weight, targets = data()
    made = head(weight, chunks)
    total = made(states.requires_grad_(), torch.full_like(targets, IGNORED))
    total.sum().backward()
    assert total.item() == 0.0
    assert made.weight.grad is not None
    assert float(made.weight.grad.abs().max()) == 0.0


def test_the_head_never_sees_what_is_not_trained() -> None:
    """Padding and prompts would cost as much as answers there: most of a small model's work."""
    states, weight, targets = data()
    states[targets == IGNORED] = float("nan")
    made = head(weight, OPTIONS)
    total = made(states.requires_grad_(), targets)
    total.sum().backward()
    assert made.weight.grad is not None
    assert states.grad is not None
    assert bool(made.weight.grad.isfinite().all())
    assert float(states.grad[targets == IGNORED].abs().max()) == 0.0


def test_rows_add_up() -> None:
    states, weight, targets = data()
    made = head(weight, OPTIONS)
    parts = sum(float(made(states[i : i + 1], targets[i : i + 1]).detach()) for i in range(3))
    assert parts == pytest.approx(float(made(states, targets).detach()), rel=1e-6)


def test_the_sum_of_bf16_logits_is_taken_in_fp32() -> None:
    states, weight, targets = data(rows=8, length=200)
    narrow = head(weight, OPTIONS).to(torch.bfloat16)
    wide = by_hand(states.bfloat16(), weight.bfloat16(), targets)
    found = narrow(states.bfloat16(), targets)
    assert found.dtype is torch.float32
    # A sum kept in bf16 has 8 bits: it would be off by up to 1 in 512 = 2e-3 at each rounding.
    assert found.item() == pytest.approx(float(wide), rel=1e-3)


def test_bf16_is_summed_over_several_chunks() -> None:
    states, weight, targets = data(rows=2, length=CHUNK_TOKENS)
    narrow = head(weight, OPTIONS).to(torch.bfloat16)
    total = narrow(states.bfloat16().requires_grad_(), targets)
    total.sum().backward()
    assert narrow.weight.grad is not None
    wide = weight.bfloat16().float().requires_grad_()
    by_hand(states.bfloat16().float(), wide, targets).backward()
    assert wide.grad is not None
    error = (narrow.weight.grad.float() - wide.grad).norm() / wide.grad.norm()
    assert float(error) < 0.02


def in_bf16(
    *, trains: bool = True, seen: int = CHUNK_TOKENS * 2 + 40
) -> tuple[Tensor, LossHead, Tensor]:
    """Return bf16 states that need a gradient, a head of several chunks, and targets."""
    states, weight, targets = data(rows=1, length=seen)
    made = head(weight.bfloat16(), OPTIONS)
    made.weight.requires_grad_(trains)
    return states.bfloat16().requires_grad_(), made, targets


def test_gradients_in_bf16_are_those_of_the_definition_but_for_rounding() -> None:
    states, made, targets = in_bf16()
    (made(states, targets).sum() / 3).backward()
    exact = states.detach().float().requires_grad_()
    weight = made.weight.detach().float().requires_grad_()
    (by_hand(exact, weight, targets) / 3).backward()
    for found, expected in ((states.grad, exact.grad), (made.weight.grad, weight.grad)):
        assert found is not None
        assert expected is not None
        assert found.dtype == torch.bfloat16
        off = (found.float() - expected).norm() / expected.norm()
        assert off < 0.02, off


def test_what_is_not_trained_has_no_gradient_in_bf16() -> None:
    states, made, targets = in_bf16()
    made(states, targets).sum().backward()
    assert states.grad is not None
    assert not states.grad[0][targets[0] == IGNORED].any()
    assert states.grad[0][targets[0] != IGNORED].any()


def test_a_frozen_head_in_bf16_has_no_gradient_and_passes_the_same_one_on() -> None:
    gradients = []
    for trains in (True, False):
        states, made, targets = in_bf16(trains=trains)
        made(states, targets).sum().backward()
        assert (made.weight.grad is not None) == trains
        gradients.append(states.grad)
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])


def test_without_gradients_the_sum_in_bf16_is_the_same() -> None:
    states, made, targets = in_bf16()
    with torch.no_grad():
        alone = made(states, targets)
    assert not alone.requires_grad
    torch.testing.assert_close(alone, made(states, targets).detach(), rtol=1e-6, atol=0)


def test_the_gradients_of_a_step_in_bf16_are_used_up_by_it() -> None:
    states, made, targets = in_bf16(seen=16)
    total = made(states, targets).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_the_loss_of_logits_is_torchs_own() -> None:
    states, weight, targets = data()
    logits = functional.linear(states, weight)
    expected = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    assert torch.equal(loss_sum(logits, targets), expected)


def test_an_average_of_averages_is_another_number() -> None:
    """Rows of unequal length: what the whole package is careful about."""
    states, weight, targets = data()
    targets[1, 1:] = IGNORED
    counts = (targets != IGNORED).sum(1)
    sums = torch.stack([by_hand(states[i], weight, targets[i]) for i in range(3)])
    assert float((sums / counts).mean()) != pytest.approx(float(sums.sum() / counts.sum()), 1e-3)
