"""An answer and a reasoning-gym entry -> 1.0 if reasoning-gym's scorer gives full marks, else 0.0.

Partial credit is a surface for reward hacking, so only a score of 1 counts. A dataset is judged in one of three ways:
by our own rule where reasoning-gym's evaluates the model's text or can be tricked, by comparing text where that is all
its scorer does, and otherwise by its scorer inside the worker. Read against reasoning-gym 0.1.25.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from farthing.errors import DataError
from farthing.rewards.arithmetic import NotArithmetic, evaluate
from farthing.rewards.number import parse_number
from farthing.rewards.worker import RIGHT, WORKERS
from farthing.tasks.problem import Problem

Entry = Mapping[str, Any]

EVALUATES_ANSWER: dict[str, str] = {
    "string_insertion": "eval",
    "spiral_matrix": "eval",
    "binary_matrix": "eval",
    "n_queens": "eval",
    "countdown": "sympy parse_expr",
    "puzzle24": "sympy parse_expr",
    "simple_integration": "sympy parse_expr",
    "intermediate_integration": "sympy parse_expr",
    "polynomial_multiplication": "sympy parse_expr",
}
"""Datasets whose scorer executes the model's text, and with what. None of these scorers is ever called."""


def same_text(answer: str, entry: Entry) -> bool:
    return bool(answer.strip() == str(entry["answer"]).strip())


def same_number(answer: str, entry: Entry) -> bool:
    value = parse_number(answer)
    return value is not None and value == parse_number(str(entry["answer"]))


def probability(answer: str, entry: Entry) -> bool:
    """reasoning-gym gives "0" full marks for 0.99, as a common prefix; we keep its tolerance alone."""
    value, gold = parse_number(answer), parse_number(str(entry["answer"]))
    return value is not None and gold is not None and abs(value - gold) <= Fraction(1, 10_000)


def uses_all_numbers(answer: str, numbers: list[int], target: int) -> bool:
    try:
        result = evaluate(answer)
    except NotArithmetic:
        return False
    return result.value == target and sorted(result.numbers) == sorted(numbers)


def countdown(answer: str, entry: Entry) -> bool:
    return uses_all_numbers(answer, entry["metadata"]["numbers"], entry["metadata"]["target"])


def puzzle24(answer: str, entry: Entry) -> bool:
    """reasoning-gym truncates 24.9 to 24 and takes any four numbers in range; we take exactly 24, from those asked."""
    return uses_all_numbers(answer, entry["metadata"]["numbers"], 24)


def n_queens(answer: str, entry: Entry) -> bool:
    return answer in entry["metadata"]["valid_answers"]


def number_sorting(answer: str, entry: Entry) -> bool:
    """reasoning-gym takes [NaN, NaN, ...] and anything within 1 of each number; we take the numbers."""
    try:
        given = json.loads(answer.replace("'", '"'))
        values = [float(value) for value in given] if isinstance(given, list) else []
    except (ValueError, TypeError, RecursionError, OverflowError):
        return False
    expected = [float(value) for value in json.loads(entry["answer"].replace("'", '"'))]
    return len(values) == len(expected) and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(values, expected, strict=True)
    )


OWN_RULES: dict[str, Callable[[str, Entry], bool]] = {
    "countdown": countdown,
    "puzzle24": puzzle24,
    "coin_flip": probability,
    "n_queens": n_queens,
    "number_sorting": number_sorting,
    "string_insertion": same_text,
    "spiral_matrix": same_text,
    "binary_matrix": same_text,
    # reasoning-gym compares bool(text) with bool(text): any non-empty answer would be right.
    "game_of_life_halting": same_text,
    "chain_sum": same_number,
    "products": same_number,
    # reasoning-gym reads the first number of any text, without its sign.
    "gsm_symbolic": same_number,
}

SYMBOLIC = frozenset({"simple_integration", "intermediate_integration", "polynomial_multiplication"})
"""Judged in the worker by `symbolic.py`, which builds the formula without evaluating text."""

TRICK = re.compile(r"\b(?:nan|inf|infinity)\b|[0-9]_[0-9]", re.IGNORECASE)
"""NaN compares false with everything, which several scorers take for "no difference"; Python reads 4_2 as 42."""


def is_trick(answer: str, problem: Problem) -> bool:
    """Whether an answer is refused unread: blank, or in characters that only a lenient number reader would accept."""
    gold = str(problem.metadata["entry"]["answer"])
    if not answer.strip() or "\0" in answer or (TRICK.search(answer) and not TRICK.search(gold)):
        return True
    # A full-width digit reads as a digit to Python; honest answers use the characters of the task.
    return not answer.isascii() and not set(filter(lambda c: c > "~", answer)) <= set(gold) | set(problem.question)


@cache
def compares_text(dataset: str) -> bool:
    """Whether a dataset keeps reasoning-gym's default scorer, whose full marks mean equal text."""
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    return bool(DATASETS[dataset][0].score_answer is ProceduralDataset.score_answer)


def gym(answer: str, problem: Problem) -> float:
    """Full marks by the dataset's rule. `problem.metadata` holds "dataset", "config" and the whole "entry"."""
    dataset, entry = problem.metadata["dataset"], problem.metadata["entry"]
    if entry["answer"] is None:
        raise DataError(f"the gold answer of gym:{dataset} does not verify: there is none. Choose another dataset.")
    if is_trick(answer, problem):
        return 0.0
    if dataset in OWN_RULES:
        return float(OWN_RULES[dataset](answer, entry))
    if dataset not in SYMBOLIC and compares_text(dataset):
        return float(same_text(answer, entry))
    if len(answer) > max(1_000, 2 * len(str(entry["answer"]))):
        return 0.0
    return float(WORKERS["gym"].ask(dataset, dict(problem.metadata["config"]), dict(entry), answer) == RIGHT)
