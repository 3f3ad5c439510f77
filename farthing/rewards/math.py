"""A mathematical answer and its gold -> 1.0 if math-verify finds them equivalent, else 0.0.

A cheap filter refuses absurd input before sympy sees it; the rest is judged in the worker. The filter is strict where
the gold does not need the construct: an exponent of 2024 passes when the gold itself has one.
"""

import re

from farthing.errors import DataError
from farthing.rewards.worker import BAD_GOLD, RIGHT, WORKERS
from farthing.tasks.problem import Problem

MAX_CHARS = 300
MAX_DEPTH = 10
MAX_COMMANDS = 40
SYMBOLS = frozenset("−×·÷π√∞°≤≥≠∪∩∈±")
"""The non-ASCII characters of honest mathematics; no full-width digits, bidirectional marks or homoglyphs."""

HEAVY = (
    re.compile(r"[0-9]{41}"),
    re.compile(r"[0-9.][eE][-+]?[0-9]{3}"),
    re.compile(r"(?:\^|\*\*)[\s{(+-]*[0-9]{3}"),
    re.compile(r"(?:\^|\*\*)[^+,;=&]{0,40}(?:\^|\*\*)"),
    re.compile(r"(?:[0-9]{3}|[)}\]!a-zA-Z])\s*!"),
    re.compile(r"factorial|binom|integral|\\i*int|\\sum|\\prod|\\lim|__|import|lambda|\\begin", re.IGNORECASE),
    re.compile(r"\\(?:vee|lor|or)\b"),
)
"""Digit runs, scientific exponents, powers, power towers, factorials, operators that compute, alternatives."""


def depth(text: str) -> int:
    deepest = current = 0
    for character in text:
        current += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(character, 0)
        deepest = max(deepest, current)
    return deepest


def is_absurd(answer: str, gold: str) -> bool:
    """Whether an answer is refused unread: too long, too deep, stuffed, in odd characters, or heavier than its gold."""
    if not answer or len(answer) > MAX_CHARS or depth(answer) > MAX_DEPTH or answer.count("\\") > MAX_COMMANDS:
        return True
    if not all(" " <= character <= "~" or character in SYMBOLS for character in answer):
        return True
    if "$" in answer or "\\boxed" in answer:
        return True  # one answer is one formula: math-verify would pick among several
    return any(pattern.search(answer) and not pattern.search(gold) for pattern in HEAVY)


def bare(text: str) -> str:
    """The formula without the dollars or the box around it."""
    text = text.strip().removesuffix(".")
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", "}")):
        if len(text) >= len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    return text


def as_latex(text: str) -> str:
    return f"${text.replace('**', '^')}$"


def math(answer: str, problem: Problem) -> float:
    """Equivalence as judged by math-verify. DataError if the gold itself cannot be read."""
    if len(answer) > 2 * MAX_CHARS:
        return 0.0
    answer, gold = bare(answer), bare(problem.answer)
    if is_absurd(answer, gold):
        return 0.0
    if answer == gold:
        return 1.0
    verdict = WORKERS["math"].ask(as_latex(answer), as_latex(gold))
    if verdict == BAD_GOLD:
        raise DataError(
            f"the gold answer {problem.answer!r} of task {problem.task!r} is not mathematics that math-verify can "
            'read. Write it as a LaTeX formula or a number, or use the verifier "exact".'
        )
    return float(verdict == RIGHT)
