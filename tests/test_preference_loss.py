"""The preference losses against numbers worked by hand."""

import math

import pytest
import torch

from farthing.eval.estimators import correlation, normal_ci95
from farthing.loss import pairwise_loss, pointwise_loss


def test_pairwise_by_hand() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 1.0, -1.0])
    by_hand = (math.log(2) + math.log(1 + math.e) + math.log(1 + math.exp(-3))) / 3
    assert float(pairwise_loss(chosen, rejected, 3)) == pytest.approx(by_hand)
    assert float(pairwise_loss(chosen, rejected, 6)) == pytest.approx(by_hand / 2)


def test_pointwise_by_hand() -> None:
    scores, is_safe = torch.tensor([0.0, 2.0, 2.0]), torch.tensor([True, True, False])
    by_hand = (math.log(2) + math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 3
    assert float(pointwise_loss(scores, is_safe, 3)) == pytest.approx(by_hand)


def test_gradients_by_hand_and_scores_far_out_stay_finite() -> None:
    scores = torch.tensor([0.5, -1e4, 1e4], requires_grad=True)
    loss = pairwise_loss(scores, torch.zeros(3), 3)
    torch.autograd.backward(loss)
    assert math.isfinite(float(loss.detach()))
    assert scores.grad is not None
    by_hand = [-1 / (1 + math.exp(0.5)) / 3, -1 / 3, 0.0]
    assert scores.grad.tolist() == pytest.approx(by_hand)
    labels = torch.tensor([1e4, -1e4], requires_grad=True)
    assert float(pointwise_loss(labels, torch.tensor([False, True]), 2).detach()) == pytest.approx(1e4)


def test_correlation_and_interval_by_hand() -> None:
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [1, 3, 1]) == 0.0
    assert correlation([1, 2, 3, 4], [1, 2, 2, 1]) == pytest.approx(0.0)
    assert correlation([1, 2], [2, 1]) == pytest.approx(-1.0)
    assert correlation([5, 5], [1, 2]) == 0.0
    low, high = normal_ci95([-3.0, 1.0, 5.0])
    assert (low, high) == pytest.approx((1 - 1.959964 * 4 / math.sqrt(3), 1 + 1.959964 * 4 / math.sqrt(3)))
    assert normal_ci95([7.0]) == (7.0, 7.0)
