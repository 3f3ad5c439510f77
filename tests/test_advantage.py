"""Advantages against a plain NumPy oracle, their invariances, and the overlong penalty at hand-worked points."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.advantage import AdvantageKind, group_advantages, is_flat, overlong_penalty

KINDS: tuple[AdvantageKind, ...] = get_args(AdvantageKind)
kinds = pytest.mark.parametrize("kind", KINDS)
SIXTEENTHS = st.integers(-32, 32).map(lambda n: n / 16)


@st.composite
def reward_tables(draw: st.DrawFn) -> list[list[float]]:
    size = draw(st.integers(2, 9))
    return draw(st.lists(st.lists(SIXTEENTHS, min_size=size, max_size=size), min_size=1, max_size=4))


def oracle(rewards: list[list[float]], kind: AdvantageKind) -> list[list[float]]:
    table = []
    for group in rewards:
        flat = len(set(group)) == 1
        row = []
        for index, reward in enumerate(group):
            if kind == "grpo":
                row.append(0.0 if flat else (reward - float(np.mean(group))) / float(np.std(group)))
            elif kind == "rloo":
                row.append(reward - float(np.mean(group[:index] + group[index + 1 :])))
            else:
                row.append(reward - float(np.mean(group)))
        table.append(row)
    return table


@kinds
@settings(deadline=None, max_examples=50)
@given(rewards=reward_tables())
def test_equals_the_oracle_and_sums_to_zero(kind: AdvantageKind, rewards: list[list[float]]) -> None:
    advantages = group_advantages(torch.tensor(rewards), kind)
    np.testing.assert_allclose(advantages.numpy(), oracle(rewards, kind), atol=1e-4)
    assert advantages.dtype == torch.float32
    assert advantages.sum(dim=1).abs().max() < 1e-4


@kinds
@settings(deadline=None, max_examples=50)
@given(reward=st.floats(-3, 3, width=32), size=st.integers(2, 33))
def test_a_flat_group_gives_exact_zeros(kind: AdvantageKind, reward: float, size: int) -> None:
    rewards = torch.full((1, size), reward)
    assert not group_advantages(rewards, kind).any()
    assert is_flat(rewards).tolist() == [True]


@settings(deadline=None, max_examples=50)
@given(rewards=reward_tables(), scale=st.floats(0.1, 100), shift=st.floats(-5, 5))
def test_grpo_ignores_scale_and_shift(rewards: list[list[float]], scale: float, shift: float) -> None:
    moved = group_advantages(torch.tensor(rewards) * scale + shift, "grpo")
    torch.testing.assert_close(moved, group_advantages(torch.tensor(rewards), "grpo"), atol=5e-3, rtol=0)


@kinds
def test_a_group_does_not_feel_its_neighbours(kind: AdvantageKind) -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [9.0, 9.0, 9.0, 9.0], [0.1, 0.2, 0.3, 5.0]])
    together = group_advantages(rewards, kind)
    alone = torch.cat([group_advantages(rewards[p : p + 1], kind) for p in range(3)])
    assert torch.equal(together, alone)


def test_worked_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert group_advantages(rewards, "mean_only")[0].tolist() == [0.75, -0.25, -0.25, -0.25]
    assert group_advantages(rewards, "rloo")[0].tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    # the standard deviation of (1, 0, 0, 0) is sqrt(3) / 4
    assert group_advantages(rewards, "grpo")[0].tolist() == pytest.approx([3**0.5] + [-(3**-0.5)] * 3, rel=1e-5)


def test_overlong_penalty_worked_by_hand() -> None:
    lengths = torch.tensor([0, 79, 80, 81, 90, 99, 100, 130])
    expected = [0, 0, 0, -0.05, -0.5, -0.95, -1, -1]
    assert overlong_penalty(lengths, max_tokens=100, buffer_tokens=20).tolist() == pytest.approx(expected)
    assert overlong_penalty(torch.tensor([[0, 5], [10, 10]]), 10, 10).tolist() == [[0, -0.5], [-1, -1]]
