"""A completion and its problem -> a Reward: accuracy by the problem's verifier, plus format, plus language consistency.

Source: DeepSeek-R1 (arXiv 2501.12948), 2.2: R1-Zero's reward = accuracy + format, rule based, no neural reward model; and
3.2.1: language consistency is added to it from R1's first stage on.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from farthing.config import RewardConfig
from farthing.errors import DataError
from farthing.rewards.exact import choice, exact, no_rule
from farthing.rewards.extract import extract as extract_answer
from farthing.rewards.format import chain_of, parse
from farthing.rewards.gym import gym
from farthing.rewards.language import language_consistency
from farthing.rewards.math import math
from farthing.rewards.number import number
from farthing.rewards.readability import readability
from farthing.tasks.problem import Problem

Verifier = Callable[[str, Problem], float]
"""An answer and its problem -> a reward in [0, 1]; pure, bounded in time, never evaluates the answer."""

VERIFIERS: dict[str, Verifier] = {"exact": exact, "choice": choice, "number": number, "math": math, "gym": gym, "none": no_rule}
DEFAULT = RewardConfig()


@dataclass(frozen=True, slots=True)
class Reward:
    """`value` is what the advantage sees; its parts are kept apart so that no metric mixes them."""

    value: float
    accuracy: float
    format: float
    answer: str | None
    """What the verifier read; None if there was no single answer."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The weighted summands of `value`."""
    language: float = 1.0
    """Share of the chain's words in the target language; below 1 the chain is mixed."""
    unreadable: tuple[str, ...] = ()
    """Rules of readability.py that the completion breaks."""


def verifier_of(problem: Problem) -> Verifier:
    """The problem's verifier; DataError naming the closest if there is none of that name."""
    if problem.verifier in VERIFIERS:
        return VERIFIERS[problem.verifier]
    close = difflib.get_close_matches(problem.verifier, VERIFIERS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    allowed = ", ".join(VERIFIERS)
    raise DataError(f"unknown verifier {problem.verifier!r} in task {problem.task!r}; allowed: {allowed}.{hint}")


def score(completion: str, problem: Problem, config: RewardConfig = DEFAULT) -> Reward:
    """Reward of one completion."""
    verifier = verifier_of(problem)
    answer = extract_answer(completion, config.extract)
    accuracy = 0.0 if answer is None else verifier(answer, problem)
    format_reward = float(parse(completion).is_well_formed)
    language = language_consistency(chain_of(completion), config.target_language, config.identify_language)
    found = readability(completion, config.readability, config.target_language, consistency=language)
    parts = {
        "accuracy": config.accuracy * accuracy,
        "format": config.format * format_reward,
        "language": config.language * language,
    }
    return Reward(sum(parts.values()), accuracy, format_reward, answer, parts, language, found.reasons)


def score_all(completions: Sequence[str], problems: Sequence[Problem], config: RewardConfig = DEFAULT) -> list[Reward]:
    """Rewards in order, one per (completion, problem). Equal completions of one problem are judged once."""
    seen: dict[tuple[str, int], Reward] = {}
    rewards = []
    for completion, problem in zip(completions, problems, strict=True):
        key = (completion, id(problem))
        if key not in seen:
            seen[key] = score(completion, problem, config)
        rewards.append(seen[key])
    return rewards
