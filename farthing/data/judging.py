"""Pairs of completions and a judge -> pairs of which one is better, by several judgments in both orders.

DeepSeek-R1 (arXiv:2501.12948v2, section 3.1) judges each pair four times in random order and keeps pairs whose mean scores are
more than 1 apart. Here exactly half of the judgments see either order, so that a judge who favours what comes first favours
neither; how much it does is measured. A judge is any callable of this form; `text_judge` makes one of whatever completes texts.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

from farthing.config import RewardConfig
from farthing.data.preferences import Pair
from farthing.renderer import filled
from farthing.rewards.format import final_answer
from farthing.rewards.score import score
from farthing.tasks.problem import Problem

POINTS = 10.0
"""The best score there is."""
VERDICT = re.compile(r"\bA\W{0,5}(\d{1,2}(?:\.\d{1,2})?)\W{1,8}B\W{0,5}(\d{1,2}(?:\.\d{1,2})?)")
ASK = """Two replies to the same request are below. Score each from 1 to 10 for how helpful, correct and well put it is. Neither
length nor order says which is better. You may reason first; end with one line of this form:
A: 7 B: 4

[Request]
{question}

[Reply A]
{first}

[Reply B]
{second}
"""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Two completions of one problem, still to be compared."""

    problem: Problem
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a judge sees: two completions, in this order."""

    problem: Problem
    first: str
    second: str


Scores = tuple[float, float]
"""Of the first and of the second, from 0 to `POINTS`."""


class Judge(Protocol):
    """Comparisons -> their scores in order; None where the judge gave none that can be read."""

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Scores | None]: ...


@dataclass
class JudgedPairs:
    """The pairs that were kept, and what became of the others."""

    pairs: list[Pair] = field(default_factory=list)
    num_equal: int = 0
    """The two replies were the same: not judged."""
    num_close: int = 0
    """Not further apart than the margin."""
    num_unreadable: int = 0
    """One of the two orders had no judgment that could be read."""
    position_bias: float = 0.0
    """Points by which the reply shown first is scored higher, whichever it is."""


def judge_pairs(
    candidates: Sequence[Candidates], judge: Judge, judgments: int, min_margin: float, seed: int = 0
) -> JudgedPairs:
    """Every pair `judgments` times, half of them in either order, all given to the judge at once, shuffled."""
    result = JudgedPairs()
    asked = [c for c in candidates if final_answer(c.one) != final_answer(c.other)]
    result.num_equal = len(candidates) - len(asked)
    turns = [(i, is_turned) for i in range(len(asked)) for is_turned in (False, True) for _ in range(judgments // 2)]
    random.Random(f"judge/{seed}").shuffle(turns)
    verdicts = judge([_shown(asked[i], is_turned) for i, is_turned in turns])
    margins: list[dict[bool, list[float]]] = [{False: [], True: []} for _ in asked]
    leads = []
    for (i, is_turned), scores in zip(turns, verdicts, strict=True):
        if scores is not None:
            leads.append(scores[0] - scores[1])
            margins[i][is_turned].append(-leads[-1] if is_turned else leads[-1])
    result.position_bias = fmean(leads) if leads else 0.0
    for c, by_order in zip(asked, margins, strict=True):
        if not all(by_order.values()):
            result.num_unreadable += 1
            continue
        # each order counts once, however many of its judgments could be read
        margin = fmean(fmean(values) for values in by_order.values())
        if abs(margin) <= min_margin:
            result.num_close += 1
        else:
            result.pairs.append(Pair(c.problem.question, *((c.one, c.other) if margin > 0 else (c.other, c.one))))
    return result


def _shown(c: Candidates, is_turned: bool) -> Comparison:
    return Comparison(c.problem, c.other, c.one) if is_turned else Comparison(c.problem, c.one, c.other)


# judges ----------------------------------------------------------------------------------------------------------------


def rule_judge(reward: RewardConfig) -> Judge:
    """Ten points for a reward of 1: the problem's verifier and the format, as the recipe weighs them."""

    def points(completion: str, problem: Problem) -> float:
        return POINTS * score(completion, problem, reward).value

    def judge(comparisons: Sequence[Comparison]) -> list[tuple[float, float] | None]:
        return [(points(c.first, c.problem), points(c.second, c.problem)) for c in comparisons]

    return judge


def text_judge(complete: Callable[[Sequence[str]], list[str]], prompt: str = "") -> Judge:
    """Of whatever completes texts, an endpoint or a local model: asked for two scores, of the final answers only."""

    def judge(comparisons: Sequence[Comparison]) -> list[Scores | None]:
        return [read_scores(reply) for reply in complete([filled(prompt or ASK, _fields(c)) for c in comparisons])]

    return judge


def _fields(c: Comparison) -> dict[str, str]:
    return {"question": c.problem.question, "first": final_answer(c.first), "second": final_answer(c.second)}


def read_scores(reply: str) -> Scores | None:
    """The last `A: 7 B: 4` after the judge's chain of thought; None without one, or with a score above `POINTS`."""
    found = VERDICT.findall(final_answer(reply))
    if not found:
        return None
    first, second = (float(value) for value in found[-1])
    return (first, second) if max(first, second) <= POINTS else None
