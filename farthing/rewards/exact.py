"""An answer and its gold -> 1.0 if they are the same text ("exact") or name the same option ("choice"), else 0.0."""

import re

from farthing.tasks.problem import Problem

OPTION = re.compile(r"\(?([A-Za-z])\)?[.:]?")


def exact(answer: str, problem: Problem) -> float:
    """Equal after stripping white space. No Unicode folding: a full-width digit is another answer."""
    return float(answer.strip() == problem.answer.strip())


def option(text: str) -> str | None:
    """The letter of "B", "(B)", "b." or "B:"; None for anything longer, so that listing options earns nothing."""
    found = OPTION.fullmatch(text.strip())
    return found.group(1).upper() if found else None


def choice(answer: str, problem: Problem) -> float:
    """The same option letter, in any case and with or without brackets."""
    letter = option(answer)
    return float(letter is not None and letter == option(problem.answer))


def no_rule(answer: str, problem: Problem) -> float:
    """Of a problem without a gold answer: no rule can tell, and nothing is earned."""
    return 0.0
