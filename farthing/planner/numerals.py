"""Plain text -> the numbers in it as intervals: digits, words, suffixes, powers of ten, ranges, "about" and "over".

A number without a hedge stands for all that round to it, at most a tenth either way: 147K is 146.5K to 147.5K.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from farthing.errors import DataError
from farthing.planner.interval import INFINITY, LARGEST, Interval
from farthing.planner.number_words import WORDED, worded

_SCALES = {"hundred": 2, "thousand": 3, "grand": 3, "million": 6, "billion": 9, "trillion": 12, "quadrillion": 15}
_SCALES |= {"mio": 6, "mln": 6, "mn": 6, "mm": 6, "bn": 9, "tn": 12, "trn": 12, "k": 3, "m": 6, "b": 9, "t": 12}
_DIGITS = (
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d{1,3}(?:[ '_]\d{3})+(?![\d.,]\d|\d)|\d{1,3}(?:\.\d{3}){2,}(?!\d)|"
    r"\d+ 1/2|\d+,\d{1,2}(?!\d)|\d+\.\d+|\.\d+|\d+"
)
_SCALED = (
    r" ?-?(?P<word>hundred|thousand|grand|million|billion|trillion|quadrillion)s?\b| ?(?P<short>mln|mio|bn|mn|mm|tn|trn|MM)\b|"
    r"(?P<letter>[kKMBTmb])(?![a-zA-Z0-9])|(?P<tee>t)(?![a-zA-Z0-9])(?! ?(?:of )?(?i:co2|carbon|tonnes?))|"
    r" (?P<capital>[KMBT])(?= ?[a-z@$])"
)
_NUMBER = re.compile(
    rf"(?<![\w.])(?:10 ?(?:\^|\*\*) ?\{{?(?P<bare>\d{{1,6}})\}}?|(?P<digits>{_DIGITS})"
    r"(?: ?[xX*] ?10 ?(?:\^|\*\*) ?\{?(?P<power>[+-]?\d{1,6})\}?|[eE](?P<exponent>[+-]?\d{1,6})(?![\w])|"
    rf"(?:{_SCALED}))?|(?P<words>\b(?:{WORDED})\b))"
)
CURRENCY = r"(?:(?<![a-z'])(?:us|s|a|c|hk|nt|sg)\$|(?<![a-z])us \$|\$|(?<![a-z])(?:usd|eur|gbp|cny|rmb|jpy|inr|krw|chf))"
_HEDGES = {
    "just over": r"just (?:over|above)|a (?:little|bit) (?:over|more than)|slightly (?:over|more than|above)",
    "under": r"nearly|almost|just (?:under|short of|shy of|below)|close to|approaching",
    "above": r"(?:well |far )?(?:over|above)|more than|at least|no less than|not less than|upwards? of|exceed(?:ing|ed|s)|"
    r"in excess of|north of|greater than|a minimum of|>=?|beyond|topp(?:ing|ed)|surpass(?:ing|ed)",
    "below": r"(?:well )?(?:under|below)|less than|fewer than|(?:no|not) more than|at most|up to|as (?:little|low|few) as|"
    r"a maximum of|<=?|cheaper than",
    "about": r"about|around|approximately|approx\.?|roughly|some|circa|ca\.?|~|(?:an )?estimated|(?:an )?estimates? of|"
    r"on the order of|in the (?:region|range|neighbou?rhood) of|a reported|reportedly",
}
_HEDGE = re.compile(
    "(?:^|[^a-z])(?:"
    + "|".join(f"(?P<{name.replace(' ', '_')}>{words})" for name, words in _HEDGES.items())
    + rf") ?(?:(?:only|just|a|an|the|mere|total of|cost of|a total of) )*(?:{CURRENCY} ?)?$"
)
_AFTER = re.compile(
    rf"(?P<above> ?\+(?! ?\d)|,? or more\b|-plus\b| plus\b(?=[ ,.]?$)|,? (?:{CURRENCY}|dollars) or more)|"
    r"(?P<below>,? or (?:less|fewer)\b)|(?P<about>,? or so\b|-?ish\b|,? give or take)"
)
_RANGE = re.compile(rf" ?(?P<joint>-|to|or|and|through|~)(?: about| around| roughly)? ?(?:{CURRENCY} ?)?$")
_NEGATIVE = re.compile(
    rf"(?:^|[^\w\s)] |[a-z] |[(])(?:-(?:{CURRENCY} ?)?\d[\d,.]*(?![\d,.]*[a-z ]*-)|"
    r"\bminus (?:\d[\d,.]*|one|two|three|five|ten)\b)"
)
_ABOUT, _NEARLY = Decimal("0.1"), Decimal("0.85")
_ONE = Decimal(1)


@dataclass(frozen=True)
class Numeral:
    """One number of the text; `start` and `end` are its place, `scale` the power of ten of its suffix."""

    start: int
    end: int
    value: Interval
    raw: str
    scale: int = 0
    letter: str = ""
    """The suffix if it is one letter: 7B may be a model, 45m minutes."""
    is_count: bool = False
    """Digits and nothing else, not hedged: 512, which for devices is exact."""
    other: Interval | None = None
    """The second reading of 1.000: one thousand."""
    unhedged: Interval | None = None
    """The value without its "over": over 80 hours may be during 80 hours."""


def numerals(text: str) -> list[Numeral]:
    """All numbers of a plain text, in order, ranges joined. DataError for one beyond any quantity."""
    negative = _NEGATIVE.search(text)
    if negative:
        raise DataError(f"a quantity cannot be negative: {negative[0].strip()!r}. Give what was held, spent or used.")
    found: list[Numeral] = []
    for match in _NUMBER.finditer(text):
        numeral = _read(match)
        gap = text[found[-1].end : numeral.start] if found else ""
        joined = _joined(found[-1], numeral, gap, text) if found and len(gap) < 20 else None
        if joined:
            found[-1] = joined
        else:
            found.append(numeral)
    return list(_hedged(text, found))


def digits(text: str) -> Interval:
    """Plain digits, with what rounds to them."""
    return _rounded(*_digits(text))


def _read(match: re.Match[str]) -> Numeral:
    raw, groups = match[0], match.groupdict()
    if groups["words"]:
        value, scale = worded(groups["words"].lower())
        if value.low == value.high and scale >= 3:  # "half a million" is no more exact than 500K
            value = _rounded(*_digits(f"{value.low.normalize():f}"))
        return Numeral(match.start(), match.end(), value, raw, scale, is_count=value.low == value.high)
    if groups["bare"]:
        return _checked(Numeral(match.start(), match.end(), _power(_ONE, groups["bare"], raw), raw))
    figures = groups["digits"]
    number, place = _digits(figures)
    exponent = groups["power"] or groups["exponent"]
    if exponent:
        value = _power(number, exponent, raw)
        half = min(_power(place / 2, exponent, raw).low, value.low * _ABOUT)
        return _checked(Numeral(match.start(), match.end(), Interval(value.low - half, value.low + half, value.low), raw))
    letter = groups["letter"] or groups["tee"] or groups["capital"] or ""
    suffix = (groups["word"] or groups["short"] or letter).lower()
    scale = _SCALES[suffix] if suffix else 0
    value = _rounded(number, place).scaled(_ONE.scaleb(scale))
    other = None
    if not suffix and re.fullmatch(r"\d{1,3}\.\d{3}", figures):
        other = _rounded(number * 1000, place * 1000)
    is_count = not suffix and number == number.to_integral_value()
    return _checked(Numeral(match.start(), match.end(), value, raw, scale, letter, is_count, other))


def _digits(text: str) -> tuple[Decimal, Decimal]:
    """The number, and the worth of its last digit that is not a padding zero."""
    if text.endswith(" 1/2"):
        return Decimal(text[:-4]) + Decimal("0.5"), Decimal("0.5")
    if re.fullmatch(r"\d+,\d{1,2}", text):
        plain = text.replace(",", ".")
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}", text):
        plain = text.replace(".", "")
    else:
        plain = re.sub(r"[ ,'_]", "", text)
    number = Decimal(plain)
    if "." in plain:
        return number, _ONE.scaleb(-len(plain.partition(".")[2]))
    zeros = len(plain) - len(plain.rstrip("0"))
    return number, _ONE.scaleb(zeros)


def _rounded(number: Decimal, place: Decimal) -> Interval:
    half = min(place / 2, number * _ABOUT)
    return Interval(number - half, number + half, number)


def _power(number: Decimal, exponent: str, raw: str) -> Interval:
    if abs(int(exponent)) > LARGEST.adjusted():
        raise _too_large(raw)
    value = number.scaleb(int(exponent))
    return Interval(value, value)


def _checked(numeral: Numeral) -> Numeral:
    if numeral.value.high > LARGEST:
        raise _too_large(numeral.raw)
    return numeral


def _too_large(raw: str) -> DataError:
    return DataError(f"the number {raw[:40]!r} is beyond any quantity of a training run; the largest read is {LARGEST:.0e}.")


def _joined(first: Numeral, second: Numeral, gap: str, text: str) -> Numeral | None:
    """3 to 4, $5-6 million: one interval; a suffix of the second is meant for the first too."""
    match = _RANGE.search(" " + gap if gap[:1] != " " else gap)
    if match is None or match.start() > 1:
        return None
    if match["joint"] == "and" and not re.search(
        r"\bbetween (?:about )?\S{0,8}$", text[max(0, first.start - 24) : first.start]
    ):
        return None
    low, high = first.value.middle, second.value.middle
    if second.scale > first.scale == 0 and low.scaleb(second.scale) <= high:
        low = low.scaleb(second.scale)
    if low > high or high == INFINITY:
        return None
    raw = text[first.start : second.end]
    return Numeral(first.start, second.end, Interval(low, high), raw, second.scale, second.letter)


def _hedged(text: str, found: list[Numeral]) -> Iterator[Numeral]:
    """About, over, under and their like, before the number or after it; what stands after becomes part of it."""
    for numeral in found:
        before = _HEDGE.search(text[max(0, numeral.start - 40) : numeral.start].lower())
        after = _AFTER.match(text[numeral.end :][:24].lower())
        match = before or after
        hedge = next((name for name, got in match.groupdict().items() if got), "") if match else ""
        yield _bounded(replace(numeral, end=numeral.end + (after.end() if after else 0)), hedge)


def _bounded(numeral: Numeral, hedge: str) -> Numeral:
    low, middle, high = numeral.value.low, numeral.value.middle, numeral.value.high
    bounds = {
        "about": Interval(min(low, middle * (1 - _ABOUT)), max(high, middle * (1 + _ABOUT)), middle),
        "under": Interval(middle * _NEARLY, middle, middle),
        "below": Interval(Decimal(0), middle, middle),
        "above": Interval(middle, INFINITY, middle),
        "just_over": Interval(middle, middle * (1 + _ABOUT), middle),
    }
    if hedge not in bounds:
        return numeral
    return replace(numeral, value=bounds[hedge], is_count=False, unhedged=numeral.value)
