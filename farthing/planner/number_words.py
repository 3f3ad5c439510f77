"""Numbers in words -> intervals: "two thousand and forty-eight", "half a million", "a dozen", "tens of thousands"."""

import re
from decimal import Decimal

from farthing.planner.interval import Interval, exactly

_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = {
    word: 10 * n
    for n, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2)
}
_SMALL = {word: n for n, word in enumerate(_UNITS)} | _TENS
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PLURALS = {"tens": 1, "hundreds": 2, "thousands": 3, "millions": 6, "billions": 9, "trillions": 12}
_VAGUE = {"few": (3, 9), "several": (3, 9), "couple": (2, 2), "dozen": (12, 12), "dozens": (24, 99)}
_FRACTIONS = {"half": Decimal("0.5"), "quarter": Decimal("0.25"), "quarters": Decimal("0.75")}

_SMALL_WORD = "|".join(sorted(_SMALL, key=len, reverse=True))
_SCALE_WORD = "|".join(_SCALES)
_PLURAL_WORD = "|".join((*_PLURALS, "dozens"))
WORDED = (
    rf"(?i:(?:{_PLURAL_WORD})(?: of (?:{_PLURAL_WORD}))?(?= of\b)|"
    rf"half an? (?:dozen|{_SCALE_WORD})|(?:three )?(?:a )?quarters? of an? (?:{_SCALE_WORD})|"
    rf"(?:a few|a couple(?: of)?|several)(?:[ -](?:dozen|{_SCALE_WORD}))*|"
    rf"(?:an? )?(?:dozen|{_SCALE_WORD})(?:[ -](?:and )?(?:{_SMALL_WORD}|{_SCALE_WORD}))*|"
    rf"(?:{_SMALL_WORD})(?:(?: and a half| point (?:{_SMALL_WORD}))|(?:[ -](?:and )?(?:dozen|{_SMALL_WORD}|{_SCALE_WORD})))*"
    rf"(?: and a half)?(?: (?:{_SCALE_WORD}))?)"
)
"""A pattern that matches a number in words; `worded` reads what it matched."""


def worded(phrase: str) -> tuple[Interval, int]:
    """The interval, and the power of ten of its last scale word (0 if there is none)."""
    words = re.findall(r"[a-z]+", phrase)
    scale = next((_SCALES[word] for word in reversed(words) if word in _SCALES), 0)
    plural = [word for word in words if word in _PLURALS or word == "dozens"]
    if plural:
        return _plural(plural), 0
    if words[0] in _FRACTIONS or "quarters" in words or words[:2] == ["a", "quarter"]:
        share = next(_FRACTIONS[word] for word in words if word in _FRACTIONS)
        base = 12 if words[-1] == "dozen" else 10 ** _SCALES.get(words[-1], 0)
        return exactly(share * base), scale
    vague = next((word for word in words if word in ("few", "several", "couple")), None)
    if vague:
        low, high = _VAGUE[vague]
        factor = 10 ** sum(_SCALES.get(word, 0) for word in words) * (12 if "dozen" in words else 1)
        return Interval(Decimal(low * factor), Decimal(high * factor)), scale
    return exactly(_counted(words)), scale


def _plural(words: list[str]) -> Interval:
    """tens of thousands: 20,000 to 99,999."""
    factor = 1
    for word in words:
        factor *= 12 if word == "dozens" else 10 ** _PLURALS[word]
    return Interval(Decimal(2 * factor), Decimal(10 * factor - 1))


def _counted(words: list[str]) -> Decimal:
    total, current = Decimal(0), Decimal(0)
    for place, word in enumerate(words):
        if word == "half":
            current += Decimal("0.5")
        elif word == "point":
            digits = [_SMALL[w] for w in words[place + 1 :] if w in _SMALL]
            return _scaled(total + current + Decimal("0." + "".join(map(str, digits))), words[place + 1 :])
        elif word in _SMALL:
            current += _SMALL[word]
        elif word == "hundred":
            current = (current or Decimal(1)) * 100
        elif word == "dozen":
            current = (current or Decimal(1)) * 12
        elif word in _SCALES:
            if current == 0 and total:  # "hundred thousand million": the scales multiply
                total, current = Decimal(0), total
            total += (current or Decimal(1)) * 10 ** _SCALES[word]
            current = Decimal(0)
    return total + current


def _scaled(number: Decimal, words: list[str]) -> Decimal:
    for word in words:
        number *= 10 ** _SCALES.get(word, 0)
    return number
