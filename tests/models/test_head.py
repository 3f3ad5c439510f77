"""token_logprobs against log_softmax and gather: values, gradients, entropies, whatever the chunk size."""

import math

import pytest
import torch
from torch import Tensor

from farthing.models import head
from farthing.models.decoder import Decoder
from farthing.models.head import token_logprobs

ROWS = 23


@pytest.fixture
def hidden(model: Decoder) -> Tensor:
    return torch.randn(ROWS, model.shape.width, generator=torch.Generator().manual_seed(3)).requires_grad_()


@pytest.fixture
def targets(model: Decoder) -> Tensor:
    return torch.randint(0, model.shape.vocab_size, (ROWS,), generator=torch.Generator().manual_seed(4))


def reference(model: Decoder, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_probs = (hidden.double() @ model.head_weight.double().T / temperature).log_softmax(-1)
    return log_probs.gather(1, targets[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("chunk_elements", [1, 61 * 4, 1 << 23])
def test_values_and_gradients_equal_the_reference(
    model: Decoder,
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    chunk_elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk_elements)
    upstream = torch.linspace(-1, 2, ROWS)
    expected, expected_entropy = reference(model, hidden, targets, temperature)
    expected_grads = torch.autograd.grad((expected * upstream).sum(), (hidden, model.head_weight))
    logprobs, entropy = token_logprobs(model, hidden, targets, temperature)
    grads = torch.autograd.grad((logprobs * upstream).sum(), (hidden, model.head_weight))
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert not entropy.requires_grad
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_real", [0, 1, ROWS])
@pytest.mark.parametrize("chunk_elements", [1, 61 * 4, 1 << 23])
def test_the_sum_has_the_gradient_of_its_parts(
    model: Decoder, hidden: Tensor, targets: Tensor, num_real: int, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without rows that only fill up, and scaled, as a loss does."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk_elements)
    places, chosen = torch.arange(ROWS).flip(0)[:num_real], targets[:num_real]
    apart = head.source_logprobs(model, hidden, places, chosen)[0].sum()
    whole = head.total_logprob(model, hidden, places, chosen)
    torch.testing.assert_close(whole, apart)
    expected, got = (torch.autograd.grad(-x / 7, (hidden, model.head_weight)) for x in (apart, whole))
    for one, other in zip(expected, got, strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(head.total_logprob(model, hidden, places, chosen), apart)


def test_gradient_equals_finite_differences(model: Decoder, hidden: Tensor, targets: Tensor) -> None:
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(5))
    logprobs, _ = token_logprobs(model, hidden, targets, 0.8)
    (grad,) = torch.autograd.grad(logprobs.sum(), hidden)
    with torch.no_grad():
        step = 1e-2
        ahead, behind = (token_logprobs(model, hidden + s * direction, targets, 0.8)[0] for s in (step, -step))
    slope = (ahead.double().sum() - behind.double().sum()) / (2 * step)
    assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=2e-3)


def test_worked_by_hand(model: Decoder) -> None:
    """A zero hidden state makes the softmax uniform: logprob -ln V, entropy ln V."""
    logprobs, entropy = token_logprobs(model, torch.zeros(2, model.shape.width), torch.tensor([0, 60]))
    assert logprobs.tolist() == pytest.approx([-math.log(61)] * 2)
    assert entropy.tolist() == pytest.approx([math.log(61)] * 2)


def test_huge_logits_stay_finite(model: Decoder, hidden: Tensor, targets: Tensor) -> None:
    logprobs, entropy = token_logprobs(model, hidden * 1e4, targets)
    (grad,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert torch.isfinite(logprobs).all()
    assert torch.isfinite(grad).all()
    assert entropy.abs().max() < 1e-3


def test_no_rows_give_no_logprobs_and_zero_gradients(model: Decoder) -> None:
    hidden = torch.zeros(0, model.shape.width, requires_grad=True)
    logprobs, _ = token_logprobs(model, hidden, torch.zeros(0, dtype=torch.long))
    torch.autograd.backward(logprobs.sum())
    assert logprobs.shape == (0,)
    assert model.head_weight.grad is not None
    assert not model.head_weight.grad.any()


def test_autocast_equals_explicit_bfloat16_in_both_passes(model: Decoder, hidden: Tensor, targets: Tensor) -> None:
    exact, _ = token_logprobs(model, hidden, targets)
    (exact_grad,) = torch.autograd.grad(exact.sum(), hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic, _ = token_logprobs(model, hidden, targets)
    (automatic_grad,) = torch.autograd.grad(automatic.sum(), hidden)
    explicit, _ = token_logprobs(model.to(torch.bfloat16), hidden.bfloat16(), targets)
    (explicit_grad,) = torch.autograd.grad(explicit.sum(), hidden)
    assert torch.equal(automatic, explicit)
    assert torch.equal(automatic_grad, explicit_grad)
    assert 0 < (automatic - exact).abs().max() < 0.1
    torch.testing.assert_close(automatic_grad, exact_grad, atol=0.03, rtol=0.05)
