"""An answer and its gold -> 1.0 if both are the same rational number, else 0.0. Exact, no float, no eval.

Accepts "7", "+7.", "-0.50", "1,234", "3/4", "1.5e3" and the Unicode minus. Digits and exponent are bounded before any
arithmetic, so "1e999999999" costs microseconds.
"""

import re
from fractions import Fraction

from farthing.tasks.problem import Problem

MAX_CHARS = 100
MAX_EXPONENT = 60
DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<top>{DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})|\s*/\s*(?P<bottom>{DECIMAL}))?"
)


def parse_number(text: str) -> Fraction | None:
    """The rational a text denotes; None if it is not exactly one bounded number."""
    text = text.strip()
    if len(text) > MAX_CHARS:
        return None
    found = NUMBER.fullmatch(text.replace("\u2212", "-"))
    if found is None:
        return None
    exponent = int(found["exponent"] or 0)
    bottom = Fraction((found["bottom"] or "1").replace(",", ""))
    if abs(exponent) > MAX_EXPONENT or bottom == 0:
        return None
    value = Fraction(found["top"].replace(",", "")) * Fraction(10) ** exponent / bottom
    return -value if found["sign"] == "-" else value


def number(answer: str, problem: Problem) -> float:
    """The same rational number, however it is written."""
    value = parse_number(answer)
    return float(value is not None and value == parse_number(problem.answer))
