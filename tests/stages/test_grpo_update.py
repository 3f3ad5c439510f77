"""GRPO's update: invariant to how it is cut up, agreeing with the engine, and able to raise a reward."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from farthing.advantage import group_advantages
from farthing.config import GrpoConfig
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.errors import TrainingDiverged
from farthing.loss import StepCounts
from farthing.models.decoder import Decoder, init_weights
from farthing.models.shape import ModelShape
from farthing.optim import Optimizer
from farthing.rollout import Rollout, rollout_seed
from farthing.stages.grpo import Minibatch, Tally, update
from farthing.tasks.problem import Problem
from farthing.tokenizer import Tokenizer

TOKENIZER = Tokenizer.characters("0123456789+= ")
PROMPTS, GROUP, MAX_TOKENS = 4, 6, 14
WHOLE = 1 << 20


def config(**changes: Any) -> GrpoConfig:
    base = {
        "kind": "grpo",
        "tasks": [{"spec": "toy:running_total"}],
        "optim": {"learning_rate": 1e-3},
        "num_steps": 1,
        "num_prompts": PROMPTS,
        "group_size": GROUP,
        "max_completion_tokens": MAX_TOKENS,
        "max_microbatch_tokens": WHOLE,
    }
    return GrpoConfig.model_validate(base | changes)


def tiny(seed: int = 0, init_std: float = 0.2) -> Decoder:
    shape = ModelShape(
        vocab_size=TOKENIZER.vocab_size,
        width=24,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_width=8,
        ffn_width=32,
        max_positions=64,
        init_std=init_std,
    )
    model = Decoder(shape)
    init_weights(model, seed)
    return model


def sampled(model: Decoder, c: GrpoConfig, step: int = 0, num_slots: int = 7) -> list[Rollout]:
    prompts = [TOKENIZER.encode("1+2+3+4+5+6+7="[2 * p :]) for p in range(PROMPTS)]
    seeds = [[rollout_seed(step, p, g) for g in range(GROUP)] for p in range(PROMPTS)]
    params = SamplingParams(c.temperature, c.top_p, c.top_k, c.max_completion_tokens)
    groups = Engine(model, TOKENIZER, num_slots).generate(prompts, seeds, params)
    problem = Problem("", "", "tiny")
    return [
        Rollout(problem, prompt, completion, "") for prompt, group in zip(prompts, groups, strict=True) for completion in group
    ]


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny()


@pytest.fixture(scope="module")
def rollouts(model: Decoder) -> list[Rollout]:
    return sampled(model, config())


@pytest.fixture(scope="module")
def advantages() -> Tensor:
    values = torch.randn(PROMPTS * GROUP, generator=torch.Generator().manual_seed(1))
    return values.masked_fill(torch.arange(PROMPTS * GROUP) % 3 == 0, 0.0)


def gradients(model: Decoder, reference: Decoder | None, part: Minibatch) -> list[Tensor]:
    """What one optimizer step would see."""
    policy = copy.deepcopy(model)
    for number in range(len(part.batches)):
        part.backward(policy, reference, number, Tally())
    return [p.grad if p.grad is not None else torch.zeros_like(p) for p in policy.parameters()]


def updated(
    model: Decoder, rollouts: Sequence[Rollout], advantages: Tensor, c: GrpoConfig, reference: Decoder | None = None
) -> tuple[list[Tensor], Tally]:
    """Weights after `update`. A large eps keeps Adam linear in the gradient: its sign at zero is not what we test."""
    policy = copy.deepcopy(model)
    policy.recompute_activations = c.recompute_activations
    optimizer = Optimizer(policy, "fp32", eps=1e-2, clip_norm=1.0)
    tally = update(policy, reference, optimizer, rollouts, advantages, c, 1e-2)
    return [p.detach() for p in policy.parameters()], tally


def assert_equal(got: Sequence[Tensor], wanted: Sequence[Tensor], atol: float = 1e-6) -> None:
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


SWITCHES: list[dict[str, Any]] = [
    {"loss": "grpo", "normalizer": "token"},
    {"loss": "grpo", "normalizer": "sequence", "kl_coef": 0.1},
    {"loss": "gspo", "normalizer": "constant", "tis_cap": 1.5},
    {"loss": "cispo", "normalizer": "token", "temperature": 0.7},
]
every_switch = pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: f"{s['loss']}-{s['normalizer']}")


@every_switch
def test_any_microbatches_and_any_order_give_the_same_gradients_and_weights(
    model: Decoder, rollouts: list[Rollout], advantages: Tensor, switches: dict[str, Any]
) -> None:
    reference = tiny(seed=3) if "kl_coef" in switches else None
    whole = config(**switches)
    grads = gradients(model, reference, Minibatch(rollouts, advantages, whole))
    weights, tally = updated(model, rollouts, advantages, whole, reference)
    assert distance(weights, list(model.parameters())) > 1e-4, "the update must move the weights"
    order = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(2)).tolist()
    for max_tokens, rows in ((1, list(range(len(rollouts)))), (130, order), (WHOLE, order[::-1])):
        cut = config(**switches, max_microbatch_tokens=max_tokens)
        shuffled = [rollouts[i] for i in rows]
        part = Minibatch(shuffled, advantages[rows], cut)
        assert (len(part.batches) > 1) == (max_tokens < WHOLE)
        assert_equal(gradients(model, reference, part), grads)
        others, other_tally = updated(model, shuffled, advantages[rows], cut, reference)
        assert_equal(others, weights)
        for name in ("loss", "kl", "clipped", "entropy", "logprob_gap", "grad_norm"):
            assert other_tally.metrics()[name] == pytest.approx(tally.metrics()[name], abs=2e-5)


def test_rollouts_without_advantage_are_skipped_and_still_counted(
    model: Decoder, rollouts: list[Rollout], advantages: Tensor
) -> None:
    c = config()
    part = Minibatch(rollouts, advantages, c)
    assert len(part.rows) == int((advantages != 0).sum()) < len(rollouts)
    assert part.counts == StepCounts(sum(r.num_tokens for r in rollouts), len(rollouts), MAX_TOKENS)
    # by hand: every row computed alone and in full, without a mask, a head chunk or a microbatch
    policy = copy.deepcopy(model)
    for r, advantage in zip(rollouts, advantages, strict=True):
        tokens, start = torch.tensor(r.row.tokens), len(r.prompt_tokens)
        log_probs = policy.logits(policy(tokens[None])[0]).log_softmax(-1)
        chosen = log_probs[:-1].gather(1, tokens[1:, None])[start - 1 :, 0]
        torch.autograd.backward(-(chosen.sum() * advantage) / part.counts.num_loss_tokens)
    by_hand = [p.grad for p in policy.parameters() if p.grad is not None]
    assert_equal(gradients(model, None, part), by_hand)


def test_a_step_of_flat_groups_alone_changes_nothing(model: Decoder, rollouts: list[Rollout]) -> None:
    weights, tally = updated(model, rollouts, torch.zeros(len(rollouts)), config())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert tally.metrics()["grad_norm"] == 0.0


def test_recomputed_activations_give_the_same_update(model: Decoder, rollouts: list[Rollout], advantages: Tensor) -> None:
    kept, _ = updated(model, rollouts, advantages, config())
    recomputed, _ = updated(model, rollouts, advantages, config(recompute_activations=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 4, "top_p": 0.9, "temperature": 1.5}])
def test_engine_and_trainer_agree_on_logprobs(model: Decoder, advantages: Tensor, sampling: dict[str, Any]) -> None:
    c = config(**sampling)
    _, tally = updated(model, sampled(model, c), advantages.abs() + 0.1, c)
    metrics = tally.metrics()
    assert tally.num_gap_tokens == tally.num_loss_tokens > 100
    assert 0 < metrics["logprob_gap"] < 1e-5
    assert metrics["logprob_gap_max"] < 1e-4


def test_the_gap_shows_weights_that_did_not_sample(rollouts: list[Rollout], advantages: Tensor) -> None:
    _, tally = updated(tiny(seed=8), rollouts, advantages, config())
    assert tally.metrics()["logprob_gap"] > 0.1


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.8}], ids=["whole", "truncated"])
def test_with_two_minibatches_engine_and_recomputed_old_logprobs_agree(
    model: Decoder, advantages: Tensor, sampling: dict[str, Any]
) -> None:
    c = config(num_minibatches=2, **sampling)
    rollouts = sampled(model, c)
    recomputed, tally = updated(model, rollouts, advantages, c)
    kept, _ = updated(model, rollouts, advantages, config(num_minibatches=2, old_logprobs="rollout", **sampling))
    once, _ = updated(model, rollouts, advantages, config(**sampling))
    assert len(tally.grad_norms) == 2
    assert_equal(recomputed, kept, atol=1e-5)
    assert distance(recomputed, once) > 1e-3


def test_the_second_minibatch_is_held_to_the_policy_that_sampled(
    model: Decoder, rollouts: list[Rollout], advantages: Tensor
) -> None:
    """After one large step its ratios have left 1, so the clip bites."""
    policy = copy.deepcopy(model)
    optimizer = Optimizer(policy, "fp32")
    tally = update(policy, None, optimizer, rollouts, advantages, config(num_minibatches=2), 3e-2)
    assert tally.metrics()["clipped"] > 0.01
    _, single = updated(model, rollouts, advantages, config())
    assert single.metrics()["clipped"] == 0.0


def test_the_kl_term_is_the_one_of_the_loss_file(model: Decoder, rollouts: list[Rollout], advantages: Tensor) -> None:
    reference, c = tiny(seed=3), config(kl_coef=0.1)
    part = Minibatch(rollouts, advantages, c)
    assert len(part.rows) == len(rollouts), "with a KL term every rollout has a gradient"
    tally = Tally()
    part.backward(copy.deepcopy(model), reference, 0, tally)
    total = 0.0
    for r in rollouts:
        tokens, start = torch.tensor(r.row.tokens), len(r.prompt_tokens)
        with torch.no_grad():
            chosen = [
                m.logits(m(tokens[None])[0]).log_softmax(-1)[:-1].gather(1, tokens[1:, None])[start - 1 :, 0]
                for m in (model, reference)
            ]
        gap = chosen[1] - chosen[0]
        total += float((gap.exp() - gap - 1).sum())
    assert tally.kl == pytest.approx(total / part.counts.num_loss_tokens, rel=1e-4)
    assert tally.kl > 0.1


def test_nan_stops_the_update_and_leaves_the_weights(model: Decoder, rollouts: list[Rollout]) -> None:
    policy = copy.deepcopy(model)
    optimizer = Optimizer(policy, "fp32")
    with pytest.raises(TrainingDiverged, match="loss is NaN"):
        update(policy, None, optimizer, rollouts, torch.full((len(rollouts),), torch.nan), config(), 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), model.parameters(), strict=True))
    assert all(p.grad is None for p in policy.parameters())


def starts_with_seven(rollout: Rollout) -> float:
    return float(rollout.completion.tokens[0] == TOKENIZER.encode("7")[0])


def learn(reward: Callable[[Rollout], float], steps: int, seed: int, **changes: Any) -> tuple[Decoder, list[float]]:
    policy = tiny(seed, init_std=0.1)
    c = config(max_completion_tokens=3, **changes)
    optimizer = Optimizer(policy, "fp32", clip_norm=1.0)
    curve = []
    for step in range(steps):
        rollouts = sampled(policy, c, step, num_slots=64)
        rewards_PG = torch.tensor([reward(r) for r in rollouts]).view(PROMPTS, GROUP)
        curve.append(float(rewards_PG.mean()))
        advantages = group_advantages(rewards_PG, c.advantage).flatten()
        update(policy, None, optimizer, rollouts, advantages, c, 1e-2)
    return policy, curve


@pytest.mark.parametrize("changes", [{}, {"loss": "cispo", "advantage": "rloo", "num_minibatches": 2}])
def test_reward_goes_up(changes: dict[str, Any]) -> None:
    _, curve = learn(starts_with_seven, steps=15, seed=1, **changes)
    assert sum(curve[:2]) / 2 < 0.3
    assert sum(curve[-2:]) / 2 > 0.8


def test_learning_is_the_same_bit_for_bit_when_repeated() -> None:
    first, second = (learn(starts_with_seven, steps=3, seed=1) for _ in range(2))
    assert first[1] == second[1]
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))
