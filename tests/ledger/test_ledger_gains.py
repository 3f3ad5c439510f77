"""Evaluations and curves by hand -> dollars a point, dollars an answer, and when to stop."""

import random
from decimal import Decimal

import pytest

from farthing.ledger.gains import gains, marginal


def evaluation(share: float, half: float = 0.02) -> dict[str, object]:
    return {"pass_at_1": share, "ci95": [share - half, share + half], "n": 100, "samples": 4}


def test_dollars_per_point_and_per_answer_by_hand() -> None:
    evals = {"grpo": {"before": evaluation(0.30, 0.03), "after": evaluation(0.50, 0.04)}, "sft": {"after": evaluation(0.25)}}
    usd = {"grpo": Decimal(40), "sft": Decimal(1)}
    grpo, sft = gains(evals, usd, {("grpo", "after"): Decimal(2)})
    # 20 points, give or take sqrt(3^2 + 4^2) = 5
    assert grpo["points"] == pytest.approx(20)
    assert grpo["points_ci95"] == pytest.approx([15, 25])
    assert grpo["usd_per_point"] == pytest.approx(2)
    assert grpo["usd_per_point_ci95"] == pytest.approx([1.6, 40 / 15])
    # 400 answers, 200 of them right, for two dollars; 46 to 54 %
    assert grpo["usd_per_correct_answer"] == pytest.approx(0.01)
    assert grpo["usd_per_correct_answer_ci95"] == pytest.approx([2 / 216, 2 / 184])
    assert "points" not in sft
    assert "no evaluation before" in sft["says"]


def test_a_gain_that_is_none_has_no_price_and_no_upper_end() -> None:
    worse, unclear = (gains({"grpo": {"before": evaluation(0.3), "after": evaluation(a)}}, {}, {})[0] for a in (0.2, 0.31))
    assert worse["usd_per_point"] is None
    assert unclear["usd_per_point_ci95"][1] is None
    assert "cannot be told from none" in unclear["says"]


@pytest.mark.parametrize(
    ("slope", "stop", "says"),
    [(0.5, False, "going on pays"), (0.0, True, "stopping is sound"), (-0.5, True, "best checkpoint")],
)
def test_marginal_reward(slope: float, stop: bool, says: str) -> None:
    rng = random.Random(1)
    curve = [(0.1 * i, slope * 0.1 * i + rng.gauss(0, 0.05)) for i in range(120)]
    found = marginal(curve)
    assert found is not None
    assert found["steps"] == 40
    assert found["reward_per_usd"] == pytest.approx(slope, abs=0.1)
    low, high = found["ci95"]
    assert low < slope < high
    assert found["stop"] is stop
    assert says in found["says"]


def test_too_few_steps_or_no_money_say_nothing() -> None:
    assert marginal([(float(i), 0.0) for i in range(11)]) is None
    assert marginal([(1.0, 0.5)] * 50) is None
    assert marginal([]) is None
