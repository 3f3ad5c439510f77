"""Divergences against a plain NumPy and autograd reference: values, gradients, chunks, the teacher's top tokens."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from farthing.loss import Divergence, cross_entropy, distill_loss, divergence
from farthing.models import head
from farthing.models.decoder import Decoder
from farthing.models.divergence import Comparison, token_divergences

KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jsd")
ROWS = 19


def test_divergences_by_hand() -> None:
    """P = (1/2, 1/2), Q = (3/4, 1/4)."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    forward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    reverse = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    middle = 0.625, 0.375
    to_p = 0.5 * math.log(0.5 / middle[0]) + 0.5 * math.log(0.5 / middle[1])
    to_q = 0.75 * math.log(0.75 / middle[0]) + 0.25 * math.log(0.25 / middle[1])
    found = [float(divergence(p, q, kind, 0.5)[0]) for kind in KINDS]
    assert found == pytest.approx([forward, reverse, 0.5 * to_p + 0.5 * to_q], abs=1e-6)
    assert [float(divergence(p, p, kind, 0.3)[0]) for kind in KINDS] == pytest.approx([0, 0, 0], abs=1e-7)


def test_the_loss_divides_by_the_tokens_of_the_step_once() -> None:
    """Two microbatches of a step of 4 tokens: (1 - 0.25) * 2^2 * mean divergence + 0.25 * mean cross-entropy."""
    d, logprobs = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([-1.0, -1.0, -2.0, -4.0])
    parts = [distill_loss(d[part], logprobs[part], 4, 2.0, 0.25) for part in (slice(0, 1), slice(1, 4))]
    assert float(sum(parts)) == pytest.approx(0.75 * 4 * 3.0 + 0.25 * 2.0)
    assert float(distill_loss(d, logprobs, 4, 1.0, 1.0)) == pytest.approx(float(cross_entropy(logprobs, 4)))


def reference(teacher: np.ndarray, student: np.ndarray, kind: Divergence, beta: float) -> np.ndarray:
    """From logprobs [R, K], in double precision."""
    p, q = np.exp(teacher), np.exp(student)
    if kind == "forward":
        return np.asarray((p * (teacher - student)).sum(1))
    if kind == "reverse":
        return np.asarray((q * (student - teacher)).sum(1))
    m = np.log(beta * p + (1 - beta) * q)
    return np.asarray(beta * (p * (teacher - m)).sum(1) + (1 - beta) * (q * (student - m)).sum(1))


@pytest.fixture
def hidden(model: Decoder) -> tuple[Tensor, Tensor, Tensor]:
    """(student's hidden states, teacher's, targets)."""
    generator = torch.Generator().manual_seed(3)
    size = (ROWS, model.shape.width)
    states = [torch.randn(size, generator=generator) for _ in range(2)]
    return states[0].requires_grad_(), states[1], torch.randint(0, model.shape.vocab_size, (ROWS,), generator=generator)


def lumped(logits: Tensor, top: Tensor) -> Tensor:
    """Logprobs of the tokens `top` and of all others together."""
    logprobs = logits.log_softmax(-1)
    rest = logprobs.exp().scatter(1, top, 0.0).sum(1, keepdim=True).log()
    return torch.cat((logprobs.gather(1, top), rest), dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize("chunk_elements", [61 * 4, 1 << 23])
def test_values_and_gradients_equal_the_reference(
    model: Decoder,
    hidden: tuple[Tensor, Tensor, Tensor],
    kind: Divergence,
    top_k: int,
    chunk_elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk_elements)
    student, teacher, targets = hidden
    how = Comparison(kind, beta=0.3, top_k=top_k, temperature=1.7)
    found = token_divergences(model, student, model, teacher, torch.arange(ROWS), targets, how)
    weight = model.head_weight.detach().double()
    leaf = student.detach().double().requires_grad_()
    student_logits, teacher_logits = leaf @ weight.T / 1.7, teacher.double() @ weight.T / 1.7
    if top_k:
        top = teacher_logits.topk(top_k, dim=1).indices
        views = [lumped(logits, top) for logits in (teacher_logits, student_logits)]
    else:
        views = [logits.log_softmax(-1) for logits in (teacher_logits, student_logits)]
    expected = reference(views[0].numpy(), views[1].detach().numpy(), kind, 0.3)
    np.testing.assert_allclose(found.divergence_R.detach().numpy(), expected, atol=2e-5, rtol=1e-4)
    p, q = views
    terms = {
        "forward": p.exp() * (p - q),
        "reverse": q.exp() * (q - p),
        "jsd": 0.3 * p.exp() * (p - (0.3 * p.exp() + 0.7 * q.exp()).log())
        + 0.7 * q.exp() * (q - (0.3 * p.exp() + 0.7 * q.exp()).log()),
    }
    upstream = torch.linspace(-1, 2, ROWS)
    (wanted,) = torch.autograd.grad((terms[kind].sum(1) * upstream.double()).sum(), leaf)
    (got,) = torch.autograd.grad((found.divergence_R * upstream).sum(), student)
    torch.testing.assert_close(got.double(), wanted, atol=2e-5, rtol=1e-3)


def test_the_logprobs_beside_it_are_those_of_cross_entropy(model: Decoder, hidden: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, targets = hidden
    found = token_divergences(model, student, model, teacher, torch.arange(ROWS), targets, Comparison(temperature=2.0))
    logprobs, entropy = head.token_logprobs(model, student, targets)
    torch.testing.assert_close(found.logprobs_R, logprobs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy_R, entropy, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad(x.sum(), student, retain_graph=True)[0] for x in (found.logprobs_R, logprobs)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)
