"""Prompts and rewards of all kinds: shares to the prompt, eq. 8 to 10 by hand, scores in units that stay put."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from farthing.config import AlignConfig
from farthing.engine.engine import Completion, StopReason
from farthing.errors import ModelError
from farthing.rollout import Group, Rollout
from farthing.stages.align import scenario_metrics
from farthing.stages.scenarios import ScenarioRewards, Scenarios, ScoreTexts, kind_of, marked
from farthing.stages.scoring import Scored
from farthing.tasks.problem import Problem

GENERAL = {"tasks": [{"spec": "toy:general"}], "reward_model": "rm"}
HARM = {"tasks": [{"spec": "toy:harm"}], "reward_model": "rm2"}


def config(**changes: Any) -> AlignConfig:
    base: dict[str, Any] = {
        "kind": "align",
        "tasks": [{"spec": "toy:running_total"}],
        "helpfulness": GENERAL,
        "harmlessness": HARM,
        "optim": {"learning_rate": 1e-3},
        "num_steps": 1700,
        "num_prompts": 10,
        "max_completion_tokens": 16,
        "reward": {"accuracy": 1.0, "format": 0.5},
    }
    return AlignConfig.model_validate(base | changes)


def lengths(questions: Sequence[str], completions: Sequence[str]) -> Scored:
    """As a reward model that gives the number of characters, for 7 tokens of work a call."""
    return Scored([float(len(c)) for c in completions], 7, 70)


def group(kind: str, *texts: str, verifier: str = "exact") -> Group:
    problem = marked(Problem("q?", "yes", "test", verifier), kind)
    completion = Completion([1, 2], [0.0, 0.0], [1.0, 1.0], StopReason.END_OF_TEXT, 0, 0)
    return [Rollout(problem, [3], completion, text) for text in texts]


class Noted:
    """What rewards counted and said."""

    def __init__(self) -> None:
        self.tokens, self.said = 0, ""

    def count(self, num_tokens: int, flops: int) -> None:
        self.tokens += num_tokens

    def say(self, text: str) -> None:
        self.said = text


def rewards(score: ScoreTexts = lengths, **changes: Any) -> tuple[ScenarioRewards, Noted]:
    noted = Noted()
    scorers = {"helpfulness": score, "harmlessness": score}
    return ScenarioRewards(config(**changes), scorers, noted.count, noted.say), noted


def values(groups: list[Group]) -> list[list[float]]:
    return [[r.reward.value for r in g if r.reward is not None] for g in groups]


GOOD, RAW = "<think></think><answer>yes</answer>", "yes!!"


def test_the_paper_adds_preferences_in_its_last_400_steps_and_lowers_the_temperature() -> None:
    assert config().first_preference_step == 1300
    assert config().temperature == 0.7


def test_shares_hold_to_the_prompt_and_only_once_preferences_count() -> None:
    scenarios = Scenarios(config(), seed=0)
    assert {kind_of(p) for p in scenarios.take(20)} == {"reasoning"}
    scenarios.has_preferences = True
    kinds: list[str] = []
    for count in (10, 7, 3, 1, 19):
        kinds += map(kind_of, scenarios.take(count))
        for kind, share in {"reasoning": 0.5, "helpfulness": 0.25, "harmlessness": 0.25}.items():
            assert abs(kinds.count(kind) - share * len(kinds)) < 1
    step = [kind_of(p) for p in Scenarios(config(), 0).take(1) + scenarios.take(20)][1:]
    assert sum(a == b for a, b in pairwise(step)) < 12, "kinds are mixed, so that minibatches are alike"


@pytest.mark.parametrize("shares", [(0.25, 0.25), (0.34, 0.33), (0.8, 0.1), (0.01, 0.98)])
def test_one_at_a_time_they_are_dealt_by_their_shares(shares: tuple[float, float]) -> None:
    """Two kinds whose turn comes at once do not make two prompts of one, nor reasoning's less than none."""
    general = {kind: GENERAL | {"share": share} for kind, share in zip(("helpfulness", "harmlessness"), shares, strict=True)}
    scenarios = Scenarios(config(**general), seed=0)
    scenarios.has_preferences = True
    kinds = [kind_of(problem) for _ in range(300) for problem in scenarios.take(1)]
    for kind, share in zip(("helpfulness", "harmlessness"), shares, strict=True):
        assert abs(kinds.count(kind) - share * 300) <= 1


def test_what_is_replaced_is_replaced_by_its_kind() -> None:
    scenarios = Scenarios(config(), seed=0)
    scenarios.has_preferences = True
    flat = scenarios.take(8)
    dealt = dict(scenarios.dealt)
    fresh = scenarios.replace(flat)
    assert [kind_of(p) for p in fresh] == [kind_of(p) for p in flat]
    assert scenarios.dealt == dealt
    assert not {p.question for p in fresh} & {p.question for p in flat}


def test_a_stream_goes_on_where_its_state_was_kept() -> None:
    scenarios = Scenarios(config(), seed=0)
    scenarios.has_preferences = True
    scenarios.take(13)
    again = Scenarios(config(), seed=0)
    again.has_preferences = True
    again.load_state_dict(scenarios.state_dict())
    assert again.take(11) == scenarios.take(11)


def test_rewards_by_hand() -> None:
    """Reasoning: accuracy + 0.5 format. General: score in standard deviations + 0.5 format, right answer or not."""
    scored = rewards()[0]
    groups = [group("reasoning", GOOD, RAW), group("helpfulness", GOOD, RAW), group("reasoning", RAW, RAW)]
    # lengths 35 and 5: mean 20, deviation 15
    assert values(scored.score(groups)) == [[1.5, 0.0], [1.0 + 0.5, -1.0], [0.0, 0.0]]
    [general] = scored.score([group("helpfulness", GOOD, RAW)])
    assert [r.reward.accuracy for r in general if r.reward] == [1.0, 0.0], "logged, never rewarded"
    assert [dict(r.reward.parts) for r in general if r.reward] == [
        {"accuracy": 0.0, "format": 0.5, "language": 0.0, "helpfulness": 1.0},
        {"accuracy": 0.0, "format": 0.0, "language": 0.0, "helpfulness": -1.0},
    ]


def test_each_kind_has_its_own_unit_and_keeps_it() -> None:
    scored, noted = rewards(helpfulness=GENERAL | {"weight": 2.0})
    scored.score([group("helpfulness", "x" * 10, "x" * 20), group("harmlessness", "x" * 100, "x" * 300)])
    later = [group("helpfulness", "x" * 30), group("harmlessness", "x" * 300)]
    assert values(scored.score(later)) == [[2.0 * (30 - 15) / 5], [1.0]]
    other = rewards(helpfulness=GENERAL | {"weight": 2.0})[0]
    other.load_state_dict(scored.state_dict())
    assert values(other.score(later)) == values(scored.score(later))
    assert noted.tokens == 7 * 6
    assert scenario_metrics(scored.score(later), scored.weights) == {
        "helpfulness_score": 3.0, "helpfulness_tokens": 2.0, "helpfulness_accuracy": 0.0,
        "harmlessness_score": 1.0, "harmlessness_tokens": 2.0, "harmlessness_accuracy": 0.0,
    }  # fmt: skip


def test_accuracy_and_format_are_those_of_reasoning() -> None:
    scored = rewards()[0]
    groups = [group("reasoning", GOOD, RAW), group("helpfulness", GOOD, GOOD, verifier="none")]
    metrics = scenario_metrics(scored.score(groups), scored.weights)
    assert (metrics["accuracy"], metrics["format"]) == (0.5, 0.5)
    assert "helpfulness_accuracy" not in metrics, "without a gold answer there is no rule"


def test_equal_first_scores_are_said_and_harmless() -> None:
    scored, noted = rewards()
    assert values(scored.score([group("helpfulness", "abcd", "efgh")])) == [[0.0, 0.0]]
    assert "gives all of the first 2 completions the same score" in noted.said


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_scores_that_are_not_finite_stop_the_run(bad: float) -> None:
    with pytest.raises(ModelError, match="gives 1 of 2 completions a score of"):
        rewards(lambda _questions, _completions: Scored([1.0, bad], 1, 1))[0].score([group("harmlessness", "a", "b")])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"helpfulness": None, "harmlessness": None}, "with reasoning alone it is grpo"),
        ({"helpfulness": GENERAL | {"share": 0.75}}, "must add up to less than 1"),
        ({"preference_from": 1.0}, "leaves preferences no step of 1700"),
        ({"hacking_stop": True}, "hacking_stop goes back to the best checkpoint, so it needs eval.every"),
        ({"hacking_stop": True, "eval": {"every": 7}, "checkpoint": {"every": 500}}, "the two meet in none of 1700 steps"),
        ({"hacking_stop": True, "eval": {"every": 5}, "checkpoint": {"keep_best": False}}, "checkpoint.keep_best"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as raised:
        config(**changes)
    assert reason in str(raised.value)
