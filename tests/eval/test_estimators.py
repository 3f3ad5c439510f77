"""pass@k against enumeration of every draw, intervals at hand-worked values."""

from itertools import combinations
from math import sqrt

import pytest

from farthing.eval.estimators import mean_ci95, pass_at_k, wilson_ci95


@pytest.mark.parametrize("num_samples", range(1, 8))
def test_pass_at_k_equals_the_enumeration_of_every_draw(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        samples = [index < num_correct for index in range(num_samples)]
        for k in range(1, num_samples + 1):
            draws = [any(draw) for draw in combinations(samples, k)]
            assert pass_at_k(num_correct, num_samples, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="pass@9 needs at least 9 samples, got 8"):
        pass_at_k(3, 8, 9)


def test_wilson_interval_worked_by_hand() -> None:
    # z^2 = 3.841459: none of 10 right leaves an upper bound of z^2 / (10 + z^2)
    assert wilson_ci95(0.0, 10) == pytest.approx((0.0, 3.841459 / 13.841459), abs=1e-6)
    assert wilson_ci95(1.0, 10) == pytest.approx((10 / 13.841459, 1.0), abs=1e-6)
    # Brown, Cai and DasGupta's textbook case of 5 in 10
    assert wilson_ci95(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-5)


def test_mean_interval_worked_by_hand() -> None:
    # mean 1/2, sample variance 1/3, standard error sqrt(1/12)
    half = 1.959964 * sqrt(1 / 12)
    assert mean_ci95([0, 1, 0, 1]) == (0.0, 1.0)
    assert mean_ci95([0.25, 0.75, 0.25, 0.75]) == pytest.approx((0.5 - half / 2, 0.5 + half / 2))
    assert mean_ci95([0.0, 1.0] * 50) == pytest.approx((0.5 - 1.959964 * sqrt(0.25 / 99), 0.5 + 0.098494), abs=1e-5)


@pytest.mark.parametrize(("value", "count"), [(0.0, 1), (1.0, 20), (0.1, 3), (0.7, 10), (0.3, 6)])
def test_equal_values_do_not_claim_certainty(value: float, count: int) -> None:
    """0.1 + 0.1 + 0.1 is not 0.3 in floats, so the spread of equal values is not exactly 0 either."""
    low, high = mean_ci95([value] * count)
    assert (low, high) == pytest.approx(wilson_ci95(value, count))
    assert high - low > 0.1
    assert 0 <= low <= high <= 1
