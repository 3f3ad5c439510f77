"""The sampler: the distribution it draws from, the logprobs it reports, and its counter-based random numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farthing.engine.sampler import Sampled, SamplingParams, sample, uniform
from farthing.errors import RecipeError
from farthing.models import fused

MASK = (1 << 64) - 1
GOLDEN, MIX1, MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
LOGITS = [1.2, -0.7, 0.3, 2.1, -3.0, 0.31, 1.0, -0.2, 0.9, -1.5, 0.0, 1.9]
SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.5),
    SamplingParams(temperature=2.0),
    SamplingParams(top_k=4),
    SamplingParams(top_k=1),
    SamplingParams(top_k=100),
    SamplingParams(top_p=0.7),
    SamplingParams(top_p=0.01),
    SamplingParams(temperature=1.3, top_p=0.8, top_k=6),
]
every_setting = pytest.mark.parametrize("params", SETTINGS, ids=lambda p: f"t{p.temperature}-p{p.top_p}-k{p.top_k}")


def splitmix64(seed: int, counter: int) -> int:
    """Output number `counter` of the generator whose state starts at `seed`, in Python's unbounded integers."""
    z = (seed + (counter + 1) * GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * MIX1) & MASK
    z = ((z ^ (z >> 27)) * MIX2) & MASK
    return z ^ (z >> 31)


def seed_with_output(output: int) -> int:
    """The int64 seed whose first output is `output`: every step of the mix has an inverse."""

    def unshift(z: int, bits: int) -> int:
        undone = z
        for _ in range(64 // bits):
            undone = z ^ (undone >> bits)
        return undone

    z = (unshift(output, 31) * pow(MIX2, -1, 1 << 64)) & MASK
    z = (unshift(z, 27) * pow(MIX1, -1, 1 << 64)) & MASK
    seed = (unshift(z, 30) - GOLDEN) & MASK
    assert splitmix64(seed, 0) == output
    return seed - (1 << 64) if seed >> 63 else seed


def draw(logits: list[float], params: SamplingParams, seeds: list[int], counter: int = 0) -> Sampled:
    rows = torch.tensor([logits]).expand(len(seeds), -1)
    return sample(rows, params, torch.tensor(seeds), torch.full((len(seeds),), counter))


def truncated(logits: list[float], params: SamplingParams) -> tuple[np.ndarray, float]:
    """(renormalised probabilities, kept mass) in NumPy float64, token by token."""
    scaled = np.array(logits, dtype=np.float64) / params.temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    kept: list[int] = []
    order = np.argsort(-probs, kind="stable")[: params.top_k or len(probs)]
    enough = params.top_p * probs[order].sum() if params.top_p < 1 else math.inf
    for token in order:
        if probs[kept].sum() >= enough:
            break
        kept.append(int(token))
    mass = probs[kept].sum()
    result = np.zeros_like(probs)
    result[kept] = probs[kept] / mass
    return result, float(mass)


@every_setting
def test_tokens_follow_the_truncated_distribution(params: SamplingParams) -> None:
    probs, _ = truncated(LOGITS, params)
    count = 20_000
    tokens = draw(LOGITS, params, list(range(count)), counter=3).tokens_B
    observed = np.bincount(tokens.numpy(), minlength=len(LOGITS))
    assert not observed[probs == 0].any()
    expected = probs[probs > 0] * count
    chi2 = float(((observed[probs > 0] - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert chi2 <= freedom + 4 * math.sqrt(2 * freedom)


@every_setting
def test_logprobs_and_kept_mass_are_those_of_the_distribution(params: SamplingParams) -> None:
    probs, mass = truncated(LOGITS, params)
    sampled = draw(LOGITS, params, list(range(500)))
    np.testing.assert_allclose(sampled.logprobs_B, np.log(probs[sampled.tokens_B]), atol=1e-5)
    np.testing.assert_allclose(sampled.kept_mass_B, mass, rtol=1e-5)
    whole, _ = truncated(LOGITS, SamplingParams(params.temperature))
    untruncated = sampled.logprobs_B + sampled.kept_mass_B.log()
    np.testing.assert_allclose(untruncated, np.log(whole[sampled.tokens_B]), atol=1e-5)


@every_setting
def test_a_draw_does_not_depend_on_the_rest_of_the_batch(params: SamplingParams) -> None:
    generator = torch.Generator().manual_seed(2)
    logits, seeds = torch.randn(9, 12, generator=generator), torch.arange(9) * 7919
    counters = torch.arange(9) % 4
    together = sample(logits, params, seeds, counters)
    for order in (torch.arange(9).flip(0), torch.tensor([4]), torch.tensor([8, 4, 0])):
        other = sample(logits[order], params, seeds[order], counters[order])
        assert torch.equal(other.tokens_B, together.tokens_B[order])
        assert torch.equal(other.logprobs_B, together.logprobs_B[order])
    assert len(set(draw(LOGITS, SamplingParams(), list(range(30))).tokens_B.tolist())) > 3
    assert len({int(draw(LOGITS, SamplingParams(), [1], c).tokens_B) for c in range(30)}) > 3


def test_temperature_zero_takes_the_likeliest() -> None:
    sampled = draw(LOGITS, SamplingParams(temperature=0), list(range(5)))
    assert sampled.tokens_B.tolist() == [3] * 5
    assert sampled.logprobs_B.tolist() == [0] * 5
    assert sampled.kept_mass_B.tolist() == [1] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_left_as_they_were(dtype: torch.dtype) -> None:
    logits = torch.tensor([LOGITS], dtype=dtype)
    before = logits.clone()
    sample(logits, SamplingParams(temperature=0.5, top_p=0.5), torch.tensor([1]), torch.tensor([0]))
    assert torch.equal(logits, before)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(-(1 << 63), (1 << 63) - 1), counter=st.integers(0, 1 << 31))
def test_uniform_equals_splitmix64(seed: int, counter: int) -> None:
    value = uniform(torch.tensor([seed]), torch.tensor([counter])).item()
    assert value == (splitmix64(seed & MASK, counter) >> 40) / 2**24
    assert 0 <= value < 1


def test_splitmix64_equals_its_published_outputs() -> None:
    """First outputs for seed 1234567 of the reference implementation (Vigna)."""
    assert [splitmix64(1234567, n) for n in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_uniform_numbers_of_a_seed_and_of_a_counter_look_uniform() -> None:
    for numbers in (uniform(torch.arange(20_000), torch.tensor(5)), uniform(torch.tensor(5), torch.arange(20_000))):
        observed = torch.histc(numbers, bins=20, min=0, max=1)
        assert ((observed - 1000) ** 2 / 1000).sum() < 19 + 4 * math.sqrt(38)


def impossible(logits: Tensor, params: SamplingParams) -> set[int]:
    probs, _ = truncated(logits.tolist(), params)
    return set(np.flatnonzero(probs == 0).tolist())


@settings(deadline=None, max_examples=50)
@given(
    logits=st.lists(st.sampled_from([-math.inf, -80.0, -3.0, 0.0, 0.5, 4.0]), min_size=2, max_size=12),
    params=st.sampled_from(SETTINGS),
    output=st.one_of(st.integers(0, MASK), st.sampled_from([0, MASK])),
)
def test_impossible_tokens_are_never_drawn(logits: list[float], params: SamplingParams, output: int) -> None:
    """Also at the two ends of the uniform numbers, 0 and 1 - 2^-24."""
    if max(logits) == -math.inf:
        logits = [*logits, 0.0]
    # distinct logits: which of two equal ones a truncation keeps is the sort's choice
    values = torch.tensor(logits) + torch.arange(len(logits)) * 1e-3
    sampled = draw(values.tolist(), params, [seed_with_output(output)])
    assert int(sampled.tokens_B) not in impossible(values, params)
    assert torch.isfinite(sampled.logprobs_B).all()


def test_the_ends_of_the_unit_interval_give_the_first_and_last_possible_token() -> None:
    logits = [-math.inf, 0.0, 1.0, 2.0, -math.inf]
    seeds = [seed_with_output(0), seed_with_output(MASK)]
    assert draw(logits, SamplingParams(), seeds).tokens_B.tolist() == [1, 3]


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_tokens": 0}])
def test_impossible_settings_are_named(wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(RecipeError, match=rf"sampling needs .*got .*{name}={value}"):
        SamplingParams(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(fused.library() is None, reason="no compiler here, or FARTHING_KERNELS=off")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_kernel_draws_what_plain_pytorch_draws(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 rows over 5,000 tokens: the same token but where rounding falls between two, and the same logprob."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5000, generator=generator) * 2
    arguments = (logits, SamplingParams(temperature=temperature), torch.arange(4000), torch.zeros(4000, dtype=torch.int64))
    got = sample(*arguments)
    broken = sample(torch.full((1, 300), math.nan), SamplingParams(), torch.zeros(1).long(), torch.zeros(1).long())
    assert torch.isnan(broken.logprobs_B).all()
    monkeypatch.setattr(fused, "library", lambda: None)
    wanted = sample(*arguments)
    same = got.tokens_B == wanted.tokens_B
    assert same.float().mean() > 0.999
    torch.testing.assert_close(got.logprobs_B[same], wanted.logprobs_B[same], atol=2e-5, rtol=1e-5)
