"""A completion and its problem -> a Reward: accuracy by the problem's verifier plus format, as R1-Zero was trained.

Source: DeepSeek-R1 (arXiv 2501.12948), 2.2: reward = accuracy + format, rule based, no neural reward model.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from farthing.errors import DataError
from farthing.rewards.exact import choice, exact, no_rule
from farthing.rewards.extract import extract as extract_answer
from farthing.rewards.format import parse
from farthing.rewards.gym import gym
from farthing.rewards.math import math
from farthing.rewards.number import number
from farthing.tasks.problem import Problem

Verifier = Callable[[str, Problem], float]
"""An answer and its problem -> a reward in [0, 1]; pure, bounded in time, never evaluates the answer."""

VERIFIERS: dict[str, Verifier] = {"exact": exact, "choice": choice, "number": number, "math": math, "gym": gym, "none": no_rule}


@dataclass(frozen=True, slots=True)
class Reward:
    """`value` is what the advantage sees; accuracy and format are kept apart so that no metric mixes them."""

    value: float
    accuracy: float
    format: float
    answer: str | None
    """What the verifier read; None if there was no single answer."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The weighted summands of `value`."""


def verifier_of(problem: Problem) -> Verifier:
    """The problem's verifier; DataError naming the closest if there is none of that name."""
    if problem.verifier in VERIFIERS:
        return VERIFIERS[problem.verifier]
    close = difflib.get_close_matches(problem.verifier, VERIFIERS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    allowed = ", ".join(VERIFIERS)
    raise DataError(f"unknown verifier {problem.verifier!r} in task {problem.task!r}; allowed: {allowed}.{hint}")


def score(
    completion: str,
    problem: Problem,
    *,
    accuracy_weight: float = 1.0,
    format_weight: float = 0.0,
    extract: str = "tags",
) -> Reward:
    """Reward of one completion. `extract` is a mode of `extract.py`."""
    verifier = verifier_of(problem)
    answer = extract_answer(completion, extract)
    accuracy = 0.0 if answer is None else verifier(answer, problem)
    format_reward = float(parse(completion).is_well_formed)
    parts = {"accuracy": accuracy_weight * accuracy, "format": format_weight * format_reward}
    return Reward(sum(parts.values()), accuracy, format_reward, answer, parts)


def score_all(
    completions: Sequence[str],
    problems: Sequence[Problem],
    *,
    accuracy_weight: float = 1.0,
    format_weight: float = 0.0,
    extract: str = "tags",
) -> list[Reward]:
    """Rewards in order, one per (completion, problem). Equal completions of one problem are judged once."""
    seen: dict[tuple[str, int], Reward] = {}
    rewards = []
    for completion, problem in zip(completions, problems, strict=True):
        key = (completion, id(problem))
        if key not in seen:
            seen[key] = score(
                completion,
                problem,
                accuracy_weight=accuracy_weight,
                format_weight=format_weight,
                extract=extract,
            )
        rewards.append(seen[key])
    return rewards
