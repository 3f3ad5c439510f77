"""The watch on curves made by hand: healthy ones are quiet, each way of tricking a reward model is named."""

import random
from typing import Any

import pytest

from farthing.config import HackingConfig
from farthing.stages.hacking import Watch, find_hacking

LIMITS = HackingConfig(window=5)


def curve(num: int = 40, noise: float = 0.03, seed: int = 0, **ends: tuple[float, float]) -> list[dict[str, float]]:
    """Rows whose values go in a line from the first to the last of their ends, with noise."""
    rng = random.Random(seed)
    kept = {"accuracy": (0.8, 0.8), "helpfulness_score": (0.0, 2.0), "helpfulness_accuracy": (0.6, 0.9)} | ends
    return [
        {"step": float(i)} | {name: a + (b - a) * i / (num - 1) + rng.gauss(0, noise) for name, (a, b) in kept.items()}
        for i in range(num)
    ]


def signs(rows: list[dict[str, float]], **changes: Any) -> list[str]:
    return [alarm.sign for alarm in find_hacking(rows, LIMITS.model_copy(update=changes))]


@pytest.mark.parametrize("seed", range(5))
def test_a_score_that_rises_with_its_accuracy_is_no_trick(seed: int) -> None:
    assert signs(curve(seed=seed)) == []
    assert signs(curve(seed=seed, helpfulness_accuracy=(0.7, 0.7))) == [], "standing still is no fall"
    assert signs(curve(seed=seed, helpfulness_tokens=(20.0, 60.0))) == [], "longer and better is no explosion"


def test_accuracy_that_falls_without_a_rising_score_is_not_hacking() -> None:
    assert signs(curve(helpfulness_score=(0.0, 0.2), helpfulness_accuracy=(0.9, 0.3), accuracy=(0.8, 0.2))) == []


@pytest.mark.parametrize(
    ("ends", "sign"),
    [
        ({"helpfulness_accuracy": (0.8, 0.5)}, "helpfulness prompts"),
        ({"accuracy": (0.8, 0.5)}, "helpfulness against reasoning"),
        ({"helpfulness_accuracy": (0.6, 0.6), "helpfulness_tokens": (20.0, 90.0)}, "helpfulness length"),
        ({"harmlessness_score": (0.0, 1.5), "harmlessness_accuracy": (0.9, 0.6)}, "harmlessness prompts"),
    ],
)
def test_every_way_of_tricking_a_reward_model_is_named(ends: dict[str, tuple[float, float]], sign: str) -> None:
    assert signs(curve(**ends)) == [sign]
    [alarm] = find_hacking(curve(**ends), LIMITS)
    assert "score up by" in alarm.evidence
    assert "against 35 to 39" in alarm.evidence
    ends["helpfulness_score"] = ends["harmlessness_score"] = (0.0, 0.0)
    assert signs(curve(**ends)) == []


def test_a_rise_then_a_fall_is_seen_against_the_best_stretch_and_not_the_first() -> None:
    up = curve(20, helpfulness_score=(0.0, 1.0), helpfulness_accuracy=(0.3, 0.9))
    down = curve(20, helpfulness_score=(1.0, 2.0), helpfulness_accuracy=(0.9, 0.6))
    rows = [row | {"step": float(i)} for i, row in enumerate([*up, *down])]
    assert rows[-1]["helpfulness_accuracy"] > rows[0]["helpfulness_accuracy"]
    assert signs(rows) == ["helpfulness prompts"]


def test_noise_alone_raises_no_alarm_and_a_curriculum_excuses_reasoning() -> None:
    for seed in range(4):
        watch = Watch(LIMITS, lambda _: None)
        for row in curve(150, noise=0.1, seed=seed, helpfulness_accuracy=(0.6, 0.6)):
            watch.look(int(row["step"]), row)
        assert watch.alarms == {}, f"a false alarm with seed {seed}"
    harder = curve(accuracy=(0.8, 0.4), level=(0.0, 3.0))
    assert signs(harder) == []


def test_too_few_steps_and_steps_before_preferences_count_say_nothing() -> None:
    tricked = curve(helpfulness_accuracy=(0.9, 0.1))
    assert signs(tricked[:9]) == []
    before = [{"step": float(i), "accuracy": 0.8} for i in range(30)]
    assert signs([*before, *tricked[:9]]) == []
    assert signs([*before, *tricked]) == ["helpfulness prompts"]
    assert signs([]) == []


def test_prompts_without_gold_answers_are_watched_by_reasoning_and_length() -> None:
    rows = [
        {k: v for k, v in row.items() if k != "helpfulness_accuracy"}
        for row in curve(accuracy=(0.8, 0.5), helpfulness_tokens=(20.0, 90.0))
    ]
    assert signs(rows) == ["helpfulness against reasoning", "helpfulness length"]


def test_the_watch_says_each_sign_once_and_goes_on_where_a_checkpoint_left_it() -> None:
    rows = curve(60, helpfulness_accuracy=(0.9, 0.2))
    said: list[str] = []
    watch = Watch(LIMITS, said.append)
    counts = [watch.look(int(row["step"]), row | {"reward": 1.0, "format": 0.5}) for row in rows]
    assert counts[-1] == 1
    assert len(said) == 1
    assert "reward hacking (helpfulness prompts)" in said[0]
    resumed_said: list[str] = []
    half = Watch(LIMITS, lambda _: None)
    for row in rows[:30]:
        half.look(int(row["step"]), row)
    resumed = Watch(LIMITS, resumed_said.append)
    resumed.load_state_dict(half.state_dict())
    assert [resumed.look(int(row["step"]), row) for row in rows[30:]] == counts[30:]
    assert resumed.alarms == watch.alarms
    assert resumed_said == [], "it was said before the checkpoint"
