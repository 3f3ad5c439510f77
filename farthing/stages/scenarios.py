"""Prompts of all kinds -> one stream; groups of all kinds -> their rewards.

Reward = rule reward of reasoning, or reward model's score and format of a general prompt, and the language's of both
(DeepSeek-R1, arXiv:2501.12948v2, eq. 8 to 10).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any

from farthing.config import AlignConfig
from farthing.errors import ModelError
from farthing.rollout import Group, Rollout, score_groups
from farthing.stages.scoring import Scored
from farthing.tasks.problem import Problem
from farthing.tasks.stream import ProblemStream

REASONING = "reasoning"
KIND = "scenario"
"""Where a problem's metadata say its kind: reasoning, helpfulness or harmlessness."""
MIN_STD = 1e-6
ScoreTexts = Callable[[Sequence[str], Sequence[str]], Scored]
"""Questions and completions -> their scores: a `Scorer`'s method."""
Count = Callable[[int, int], None]
Say = Callable[[str], None]


def kind_of(problem: Problem) -> str:
    return str(problem.metadata[KIND])


class Scenarios:
    """Training prompts of every kind; while preferences do not count yet, of reasoning alone."""

    def __init__(self, config: AlignConfig, seed: int) -> None:
        tasks = {REASONING: config.tasks} | {kind: prompts.tasks for kind, prompts in config.prompts.items()}
        self.streams = {kind: ProblemStream(listed, seed, config.test_share) for kind, listed in tasks.items()}
        general = {str(kind): prompts.share for kind, prompts in config.prompts.items()}
        self.shares = {REASONING: 1 - sum(general.values())} | general
        self.has_preferences = False
        self.dealt = dict.fromkeys(self.shares, 0)
        """Prompts of each kind given out since preferences count."""

    def take(self, count: int) -> list[Problem]:
        """`count` prompts, kinds evenly mixed: after any number of them each kind has had its share, to about a prompt."""
        return [self._draw(self._next_kind() if self.has_preferences else REASONING) for _ in range(count)]

    def replace(self, problems: Sequence[Problem]) -> list[Problem]:
        """New ones of the same kinds, so that replacing leaves the shares as they are."""
        return [self._draw(kind_of(problem)) for problem in problems]

    def _draw(self, kind: str) -> Problem:
        return marked(self.streams[kind].take(1)[0], kind)

    def _next_kind(self) -> str:
        """The one that is furthest behind its share."""
        total = sum(self.dealt.values()) + 1
        kind = max(self.shares, key=lambda kind: self.shares[kind] * total - self.dealt[kind])
        self.dealt[kind] += 1
        return kind

    def held_out(self, kind: str, count: int) -> list[Problem]:
        return [marked(problem, kind) for problem in self.streams[kind].held_out(count)]

    def record(self, problem: Problem, accuracy: float) -> None:
        self.streams[kind_of(problem)].record(problem, accuracy)

    @property
    def level(self) -> int | None:
        """Of the reasoning problems' curricula."""
        return self.streams[REASONING].level

    def notes(self) -> list[str]:
        return [note for stream in self.streams.values() for note in stream.notes()]

    def state_dict(self) -> dict[str, Any]:
        return {"dealt": self.dealt, "streams": {kind: stream.state_dict() for kind, stream in self.streams.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dealt = dict(state["dealt"])
        for kind, stream in self.streams.items():
            stream.load_state_dict(state["streams"][kind])


def marked(problem: Problem, kind: str) -> Problem:
    return replace(problem, metadata={**problem.metadata, KIND: kind})


@dataclass(frozen=True)
class Scale:
    """What turns a reward model's scores, whose unit is its own, into standard deviations above the first ones."""

    mean: float
    std: float

    def standardise(self, value: float) -> float:
        return (value - self.mean) / self.std


class ScenarioRewards:
    """Rewards by kind. `scales` are set by the first scores of each kind and then kept, so that a rise stays a rise."""

    def __init__(
        self, config: AlignConfig, scorers: Mapping[str, ScoreTexts], count: Count, say: Callable[[str], None]
    ) -> None:
        """`count` is told the tokens and FLOPs of scoring, `say` what a user must know."""
        self.config, self.scorers, self._count, self._say = config, scorers, count, say
        # all that a recipe rewards, language included, but not the answer: that is the reward model's to judge
        self.general = config.reward.model_copy(update={"accuracy": 0.0})
        self.weights: dict[str, float] = {kind: prompts.weight for kind, prompts in config.prompts.items()}
        self.scales: dict[str, Scale] = {}

    def score(self, groups_P: list[Group]) -> list[Group]:
        """The same groups, in order, with every rollout's reward."""
        scored = list(groups_P)
        for kind in (REASONING, *self.scorers):
            places = [i for i, group in enumerate(groups_P) if kind_of(group[0].problem) == kind]
            mine = [groups_P[i] for i in places]
            if mine:
                done = score_groups(mine, self.config.reward) if kind == REASONING else self._score_general(kind, mine)
                for i, group in zip(places, done, strict=True):
                    scored[i] = group
        return scored

    def _score_general(self, kind: str, groups: list[Group]) -> list[Group]:
        values = self.raw_scores(kind, groups)
        scale = self.scales.get(kind) or self._calibrate(kind, values)
        weight, given = self.weights[kind], iter(values)
        ruled = score_groups(groups, self.general)
        return [[with_score(r, kind, weight * scale.standardise(next(given))) for r in group] for group in ruled]

    def raw_scores(self, kind: str, groups: Sequence[Group]) -> list[float]:
        """The reward model's own, one a rollout; its work goes to the open phase. ModelError for NaN or infinity."""
        rollouts = [r for group in groups for r in group]
        found = self.scorers[kind]([r.problem.question for r in rollouts], [r.text for r in rollouts])
        self._count(found.num_tokens, found.flops)
        if bad := [value for value in found.values if not math.isfinite(value)]:
            raise ModelError(
                f"the reward model for {kind} gives {len(bad)} of {len(rollouts)} completions a score of {bad[0]}: it is "
                'damaged, or overflows in this precision. Use another, or precision = "fp32"'
            )
        return found.values

    def _calibrate(self, kind: str, values: Sequence[float]) -> Scale:
        std = pstdev(values)
        if std < MIN_STD:
            self._say(f"the reward model for {kind} gives all of the first {len(values)} completions the same score")
            std = 1.0
        self.scales[kind] = Scale(fmean(values), std)
        return self.scales[kind]

    def state_dict(self) -> dict[str, Any]:
        return {kind: [scale.mean, scale.std] for kind, scale in self.scales.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scales = {kind: Scale(*values) for kind, values in state.items()}


def with_score(rollout: Rollout, kind: str, value: float) -> Rollout:
    """The rollout with its reward model's part added to what it has from the rules."""
    reward = rollout.reward
    assert reward is not None, "the rules score first"
    return replace(rollout, reward=replace(reward, value=reward.value + value, parts={**reward.parts, kind: value}))


def kind_metrics(groups_P: Sequence[Group], weights: dict[str, float]) -> dict[str, float]:
    """Of the general prompts, by kind: score, rule accuracy where there is a gold answer, length."""
    metrics: dict[str, float] = {}
    for kind, weight in weights.items():
        rollouts = [r for group in groups_P for r in group if kind_of(r.problem) == kind]
        rewards = [r.reward for r in rollouts if r.reward is not None]
        if not rewards:
            continue
        metrics[f"{kind}_score"] = fmean(reward.parts[kind] / weight for reward in rewards)
        metrics[f"{kind}_tokens"] = fmean(r.num_tokens for r in rollouts)
        if ruled := [r.reward.accuracy for r in rollouts if r.reward is not None and r.problem.has_gold]:
            metrics[f"{kind}_accuracy"] = fmean(ruled)
    return metrics
