"""The policy loss against per-token loops in plain floats, finite differences, and the invariances it promises."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farthing.loss import (
    Normalizer,
    PolicyLossKind,
    PolicyLossParams,
    StepCounts,
    cross_entropy,
    policy_loss,
    token_weights,
    unbiased_kl,
)

KINDS: tuple[PolicyLossKind, ...] = get_args(PolicyLossKind)
NORMALIZERS: tuple[Normalizer, ...] = get_args(Normalizer)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_normalizer = pytest.mark.parametrize("normalizer", NORMALIZERS)
EVERY_SWITCH = [
    PolicyLossParams(kind, normalizer, 0.2, high, kl_coef, tis_cap)
    for kind, normalizer, high, kl_coef, tis_cap in product(KINDS, NORMALIZERS, (0.2, 0.35), (0.0, 0.3), (0.0, 1.2))
]
every_switch = pytest.mark.parametrize("params", EVERY_SWITCH, ids=lambda p: "-".join(map(str, vars(p).values())))
LENGTHS = (5, 1, 3, 4, 2, 6)
MAX_TOKENS = 8


@dataclass
class Case:
    """Logprobs of some rollouts, [B, T] in float64, zero outside the mask."""

    logprobs: Tensor
    old: Tensor
    ref: Tensor
    sampled: Tensor
    advantages: Tensor
    mask: Tensor

    def take(self, rows: list[int]) -> "Case":
        return Case(**{name: tensor[rows] for name, tensor in vars(self).items()})

    def pad(self, left: int, right: int, below: int) -> "Case":
        sides = {1: (0, below), 2: (left, right, 0, below)}
        return Case(**{name: F.pad(tensor, sides[tensor.ndim]) for name, tensor in vars(self).items()})

    def loss_and_grad(self, params: PolicyLossParams, counts: StepCounts) -> tuple[float, Tensor]:
        leaf = self.logprobs.clone().requires_grad_()
        ref = self.ref if params.kl_coef else None
        result = policy_loss(leaf, self.old, self.advantages, self.mask, counts, params, ref, self.sampled)
        torch.autograd.backward(result.loss)
        assert leaf.grad is not None
        return result.loss.item(), leaf.grad


@pytest.fixture(scope="module")
def case() -> Case:
    generator = torch.Generator().manual_seed(11)
    size = (len(LENGTHS), max(LENGTHS))
    mask = torch.arange(size[1]) < torch.tensor(LENGTHS)[:, None]

    def noise(scale: float) -> Tensor:
        return (torch.rand(size, dtype=torch.float64, generator=generator) * 2 - 1) * scale * mask

    old = (noise(1.0) - 2.0) * mask
    advantages = torch.tensor([1.5, -0.5, 0.7, -1.1, 0.0, 0.4], dtype=torch.float64)
    # a shift a rollout, so that sequence ratios leave the bounds too
    shift = torch.tensor([0.55, -0.1, 0.05, -0.45, -0.2, -0.5], dtype=torch.float64)[:, None] * mask
    return Case(old + noise(0.5) + shift, old, old + noise(0.8), old + noise(0.4), advantages, mask)


@pytest.fixture(scope="module")
def counts() -> StepCounts:
    return StepCounts(sum(LENGTHS), len(LENGTHS), MAX_TOKENS)


def oracle(case: Case, logprobs: list[list[float]], params: PolicyLossParams) -> tuple[float, float, float]:
    """(loss, mean KL, share clipped) token by token; cispo's weights stay at the case's own logprobs."""
    total_tokens = sum(LENGTHS)
    low, high = 1 - params.clip_eps_low, 1 + params.clip_eps_high
    old, ref, sampled, frozen = (t.tolist() for t in (case.old, case.ref, case.sampled, case.logprobs))
    loss = kl_sum = clipped = 0.0
    for i, length in enumerate(LENGTHS):
        advantage = case.advantages[i].item()
        mean_log_ratio = sum(logprobs[i][t] - old[i][t] for t in range(length)) / length
        for t in range(length):
            ratio = math.exp(mean_log_ratio if params.kind == "gspo" else logprobs[i][t] - old[i][t])
            bounded = min(max(ratio, low), high)
            if params.kind == "cispo":
                weight = min(max(math.exp(frozen[i][t] - old[i][t]), low), high)
                term = weight * advantage * logprobs[i][t]
                clipped += bounded != ratio
            else:
                term = min(ratio * advantage, bounded * advantage)
                clipped += bounded * advantage < ratio * advantage
            if params.tis_cap:
                term *= min(math.exp(old[i][t] - sampled[i][t]), params.tis_cap)
            gap = ref[i][t] - logprobs[i][t]
            kl = math.exp(gap) - 1 - gap
            kl_sum += kl
            share = {
                "token": 1 / total_tokens,
                "sequence": 1 / (length * len(LENGTHS)),
                "constant": 1 / (len(LENGTHS) * MAX_TOKENS),
            }[params.normalizer]
            loss -= (term - params.kl_coef * kl) * share
    return loss, kl_sum / total_tokens, clipped / total_tokens


@every_switch
def test_equals_the_oracle(case: Case, counts: StepCounts, params: PolicyLossParams) -> None:
    result = policy_loss(case.logprobs, case.old, case.advantages, case.mask, counts, params, case.ref, case.sampled)
    loss, kl, clipped = oracle(case, case.logprobs.tolist(), params)
    assert result.loss.item() == pytest.approx(loss, rel=1e-6)
    assert result.kl.item() == pytest.approx(kl, rel=1e-6)
    assert result.clipped.item() == pytest.approx(clipped, rel=1e-6)
    assert 0 < clipped < 1, "the case must exercise the clip"


@every_switch
def test_gradient_equals_finite_differences_of_the_oracle(case: Case, counts: StepCounts, params: PolicyLossParams) -> None:
    _, grad = case.loss_and_grad(params, counts)
    step = 1e-5
    for i, length in enumerate(LENGTHS):
        for t in range(length):
            ends = []
            for sign in (1, -1):
                moved = case.logprobs.tolist()
                moved[i][t] += sign * step
                ends.append(oracle(case, moved, params)[0])
            assert grad[i, t].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-9)
    assert not grad[~case.mask].any()


@settings(deadline=None, max_examples=60)
@given(
    params=st.sampled_from(EVERY_SWITCH),
    order=st.permutations(range(len(LENGTHS))),
    cuts=st.sets(st.integers(1, len(LENGTHS) - 1)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2)),
)
def test_any_split_padding_and_order_give_the_same_update(
    case: Case,
    counts: StepCounts,
    params: PolicyLossParams,
    order: list[int],
    cuts: set[int],
    padding: tuple[int, int, int],
) -> None:
    whole_loss, whole_grad = case.loss_and_grad(params, counts)
    left = padding[0]
    total, grads = 0.0, torch.zeros_like(whole_grad)
    bounds = [0, *sorted(cuts), len(LENGTHS)]
    for start, end in pairwise(bounds):
        rows = order[start:end]
        loss, grad = case.take(rows).pad(*padding).loss_and_grad(params, counts)
        total += loss
        grads[rows] = grad[: len(rows), left : left + max(LENGTHS)]
        assert not grad[len(rows) :].any()
    assert total == pytest.approx(whole_loss, rel=1e-6)
    torch.testing.assert_close(grads, whole_grad, rtol=1e-6, atol=1e-12)


@every_normalizer
@every_kind
def test_on_policy_the_gradient_is_the_plain_policy_gradient(
    case: Case, counts: StepCounts, kind: PolicyLossKind, normalizer: Normalizer
) -> None:
    on_policy = replace(case, logprobs=case.old)
    _, grad = on_policy.loss_and_grad(PolicyLossParams(kind, normalizer), counts)
    weights = token_weights(case.mask, counts, normalizer)
    torch.testing.assert_close(grad, -case.advantages[:, None] * weights, rtol=1e-6, atol=1e-12)


def single(
    log_ratios: list[float], advantage: float, params: PolicyLossParams, rollout: list[float] | None = None
) -> tuple[float, list[float], float]:
    """One rollout whose old logprobs are all -1 -> (loss, gradient, share clipped)."""
    old = -torch.ones(1, len(log_ratios))
    logprobs = (old + torch.tensor([log_ratios])).requires_grad_()
    sampled = None if rollout is None else torch.tensor([rollout])
    mask = torch.ones_like(old, dtype=torch.bool)
    counts = StepCounts(len(log_ratios), 1, 10)
    result = policy_loss(logprobs, old, torch.tensor([advantage]), mask, counts, params, None, sampled)
    torch.autograd.backward(result.loss)
    assert logprobs.grad is not None
    return result.loss.item(), logprobs.grad[0].tolist(), result.clipped.item()


def test_ppo_clip_worked_by_hand() -> None:
    """Ratios 1.5, 0.5: a good token gains nothing above 1.2, a bad one nothing below 0.8; the others keep theirs."""
    ratios = [math.log(1.5), math.log(0.5)]
    loss, grad, clipped = single(ratios, 1.0, PolicyLossParams())
    assert (loss, clipped) == pytest.approx((-(1.2 + 0.5) / 2, 0.5))
    assert grad == pytest.approx([0.0, -0.5 / 2])
    loss, grad, clipped = single(ratios, -1.0, PolicyLossParams())
    assert (loss, clipped) == pytest.approx(((1.5 + 0.8) / 2, 0.5))
    assert grad == pytest.approx([1.5 / 2, 0.0])
    loss, grad, _ = single(ratios, 1.0, PolicyLossParams(clip_eps_high=0.6))
    assert grad == pytest.approx([-1.5 / 2, -0.5 / 2])


def test_cispo_keeps_the_gradient_where_ppo_clips() -> None:
    ratios = [math.log(1.5), math.log(0.5)]
    assert single(ratios, 1.0, PolicyLossParams("grpo"))[1][0] == 0.0
    _, grad, clipped = single(ratios, 1.0, PolicyLossParams("cispo"))
    assert grad == pytest.approx([-1.2 / 2, -0.8 / 2])
    assert clipped == 1.0


def test_gspo_ratio_worked_by_hand() -> None:
    """Log ratios 0.1 and 0.3: the sequence's ratio is exp(0.2) = 1.2214."""
    loss, grad, clipped = single([0.1, 0.3], 1.0, PolicyLossParams("gspo", clip_eps_high=0.3))
    assert (loss, clipped) == pytest.approx((-math.exp(0.2), 0.0))
    assert grad == pytest.approx([-math.exp(0.2) / 2] * 2)
    loss, grad, clipped = single([0.1, 0.3], 1.0, PolicyLossParams("gspo", clip_eps_high=0.2))
    assert (loss, clipped) == pytest.approx((-1.2, 1.0))
    assert grad == [0.0, 0.0]


def test_truncated_importance_weights_worked_by_hand() -> None:
    """The trainer finds the first token e times likelier than the engine did (cut at 2), the second half as likely."""
    rollout = [-2.0, -1.0 + math.log(2)]
    loss, grad, _ = single([0.0, 0.0], 1.0, PolicyLossParams(tis_cap=2.0), rollout)
    assert loss == pytest.approx(-(2.0 + 0.5) / 2)
    assert grad == pytest.approx([-1.0, -0.25])
    assert single([0.0, 0.0], 1.0, PolicyLossParams(), rollout)[0] == pytest.approx(-1.0)


def test_normalizers_worked_by_hand() -> None:
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    step = StepCounts(num_loss_tokens=8, num_rollouts=4, max_completion_tokens=5)
    assert token_weights(mask, step, "token")[:, 0].tolist() == [1 / 8, 1 / 8]
    assert token_weights(mask, step, "sequence")[:, 0].tolist() == pytest.approx([1 / 12, 1 / 4])
    assert token_weights(mask, step, "constant")[:, 0].tolist() == pytest.approx([1 / 20, 1 / 20])
    for normalizer in NORMALIZERS:
        assert not token_weights(mask, step, normalizer)[~mask].any()


LOGITS = st.lists(st.floats(-4, 4), min_size=5, max_size=5).map(lambda v: torch.tensor(v, dtype=torch.float64))


@settings(deadline=None)
@given(policy=LOGITS, reference=LOGITS)
def test_kl_estimate_is_never_negative_and_unbiased(policy: Tensor, reference: Tensor) -> None:
    """Its expectation under the policy, over every token there is, is the KL divergence."""
    log_p, log_q = policy.log_softmax(0), reference.log_softmax(0)
    estimate = unbiased_kl(log_p, log_q)
    assert (estimate >= -1e-12).all()
    exact = (log_p.exp() * (log_p - log_q)).sum()
    assert (log_p.exp() * estimate).sum().item() == pytest.approx(exact.item(), abs=1e-9)


def test_cross_entropy_worked_by_hand() -> None:
    """Split over microbatches, the losses add up to the mean over the step's four tokens."""
    first, second = torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[-0.5, -0.5]])
    assert cross_entropy(first, 4).item() + cross_entropy(second, 4).item() == 1.0
    assert cross_entropy(torch.zeros(0), 0).item() == 0.0
