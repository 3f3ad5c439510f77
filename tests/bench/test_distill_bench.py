"""The comparison of a distilled student with RL alone: differences are taken seed by seed, the teacher's hours kept apart."""

import pytest

from bench.distill import ALONE, ALONE_LONGER, Measured, between, of_seed
from farthing.config import load_recipe


def measured(distilled: float, alone: float, longer: float) -> Measured:
    accuracy = {"teacher": 0.9, "student's base": 0.1, "distilled": distilled, ALONE: alone, ALONE_LONGER: longer}
    evals = {model: {"pass_at_1": a, "n": 64, "ci95": [a - 0.1, a + 0.1], "hours": 2.0} for model, a in accuracy.items()}
    hours = {"base": 3.0, "r1_zero": 2.0, "rejection": 0.5, "student_base": 1.0, "distilled": 0.25}
    return Measured(evals, hours, {stage: h / 10 for stage, h in hours.items()})


def test_gains_over_seeds_by_hand() -> None:
    """0.2, 0.3, 0.4: mean 0.3, deviation 0.1, half an interval 4.303 * 0.1 / sqrt(3) = 0.2484."""
    found = {seed: measured(0.8, 0.8 - gain, 0.85) for seed, gain in enumerate((0.2, 0.3, 0.4))}
    equal, longer = between(found)
    assert equal.value == pytest.approx(0.3)
    assert equal.ci95 == pytest.approx((0.0516, 0.5484), abs=1e-4)
    assert (equal.reached, equal.n, equal.seeds) == (True, 3, [0, 1, 2])
    assert longer.value == pytest.approx(-0.05)
    assert longer.reached is None, "only the claim is held against a target"
    assert between({0: measured(0.8, 0.5, 0.5)})[0].reached is None, "one seed has no interval"


def test_the_teachers_hours_are_apart_and_without_the_students_base() -> None:
    figures = {f.name: f.value for f in of_seed(0, measured(0.8, 0.5, 0.5))}
    assert figures["device-hours, the teacher"] == pytest.approx(5.5)
    assert figures["cost of the teacher"] == pytest.approx(0.55)
    assert figures["device-hours, distilling"] == 0.25


def test_both_students_start_from_one_base_and_see_the_same_problems() -> None:
    stages = load_recipe("distill-tiny").stages
    both = [stages[name].model_dump() for name in ("distilled", "student_zero")]
    for key in ("start_from", "tasks", "test_share", "max_completion_tokens", "eval", "reward"):
        assert both[0][key] == both[1][key], key
