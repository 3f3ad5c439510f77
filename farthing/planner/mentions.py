"""Plain text -> mentions: what each number in it counts (devices, hours, dollars, tokens, ...), with its unit applied.

Numbers become marks (#aa#) after the names have (@aa@, &aa&); then each pattern takes its own mentions out, the longer
units first, so that "2.788M H800 GPU hours" is not read as a time of 2.788M hours.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from farthing.planner.interval import Interval, exactly
from farthing.planner.names import ANY_DEVICE, Names, letters, mark_names
from farthing.planner.numerals import Numeral, numerals
from farthing.planner.patterns import ASIDE, NODE, PATTERNS
from farthing.planner.units import ENERGY_KWH, FLOP_PREFIXES, HOURS, MASS_TONNES


@dataclass(frozen=True)
class Mention:
    kind: str
    value: Interval
    start: int
    end: int
    raw: str
    unit: str = ""
    device: str | None = None
    """Key of a device, empty for "GPUs", None where none was named."""
    is_count: bool = False
    other: Interval | None = None
    letter: str = ""
    is_aside: bool = False
    """Said of something else: compared with, excluding, on top of."""


@dataclass
class Reading:
    """A sentence taken apart."""

    text: str
    """With marks in place of names and numbers."""
    names: Names
    mentions: list[Mention] = field(default_factory=list)
    bare_devices: list[str] = field(default_factory=list)
    """Devices named without a number: "on H100s"."""
    spare: int = 0
    """Numbers that no pattern wanted."""


def read_mentions(plain_text: str) -> Reading:
    names = mark_names(plain_text)
    found = numerals(names.text)
    text, last, table = [], 0, {}
    for number, numeral in enumerate(found):
        mark = letters(number)
        table[mark] = numeral
        text += [names.text[last : numeral.start], f"#{mark}#"]
        last = numeral.end
    marked = "".join([*text, names.text[last:]]).lower()
    reading = Reading(marked, names)
    left = marked
    for kind, pattern in PATTERNS:
        left = _take(kind, pattern, left, table, reading)
    reading.bare_devices = [names.devices[d] for d in re.findall(r"@([a-z]+)@", left)]
    reading.spare = len(re.findall(r"#[a-z]+#", left))
    asides = list(_asides(marked))
    reading.mentions = sorted(
        (replace(m, is_aside=any(a <= m.start < b for a, b in asides)) for m in reading.mentions), key=lambda m: m.start
    )
    return reading


def _take(kind: str, pattern: re.Pattern[str], text: str, table: dict[str, Numeral], reading: Reading) -> str:
    """Adds what the pattern finds to the reading -> the text with it blanked."""
    parts, last = [], 0
    for match in pattern.finditer(text):
        mention = _mention(kind, match, table, reading.names)
        if kind == "same" and mention is not None:
            mention = _like_the_last(mention, reading)
        if mention is None:
            continue
        reading.mentions.append(mention)
        parts += [text[last : match.start()], "_" * (match.end() - match.start())]
        last = match.end()
    return "".join([*parts, text[last:]])


def _like_the_last(mention: Mention, reading: Reading) -> Mention | None:
    """2.664M GPU hours of pretraining, 119K for context extension: the unit is that of the figure before."""
    before = [m for m in reading.mentions if m.end <= mention.start and m.start > mention.start - 150]
    last = max(before, key=lambda m: m.end, default=None)
    if last is None or last.kind not in ("device_hours", "usd") or mention.letter not in ("K", "k", "M"):
        return None
    return replace(mention, kind=last.kind, unit=last.unit, device=last.device)


def _mention(kind: str, match: re.Match[str], table: dict[str, Numeral], names: Names) -> Mention | None:
    groups = match.groupdict()
    numeral = table[groups["n"]] if groups.get("n") else None
    second = table[groups["n2"]] if groups.get("n2") else None
    value = numeral.value if numeral else exactly(1)
    passing = {"hours": _DURING, "tokens": _PASSES}.get(kind)
    if numeral and numeral.unhedged and passing and passing.search(match.string[: match.start()][-30:]):
        value = numeral.unhedged
    mark = groups.get("d") or groups.get("dn")
    device = names.devices[mark] if mark else None
    if device == ANY_DEVICE:  # a 2,048-GPU H800 cluster: the name comes after the general word
        named = {names.devices[d] for d in re.findall(r"@([a-z]+)@", match[0])} - {ANY_DEVICE}
        device = named.pop() if len(named) == 1 else device
    mention = Mention(
        kind, value, match.start(), match.end(), numeral.raw if numeral else match[0].strip(), "", device,
        bool(numeral and numeral.is_count) or numeral is None, numeral.other if numeral else None,
        numeral.letter if numeral else "",
    )  # fmt: skip
    return _READERS.get(kind, _as_it_is)(mention, groups, second, match[0])


_DURING = re.compile(
    r"(?<!for )(?<!took )(?<!takes )(?<!taking )(?<!needed )(?<!required )(?<!lasted )(?<!well )(?<!just )(?<!ran )\bover $"
)
"""Over 80 hours: in the course of them, unless a verb of lasting goes before."""
_PASSES = re.compile(r"\b(?:epochs?|passes) over (?:the )?$")
"""Two epochs over 600B tokens: these are no more than 600B."""
Groups = dict[str, str | None]
Reader = Callable[[Mention, Groups, Numeral | None, str], Mention | None]


def _as_it_is(mention: Mention, _groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return mention


_MOST_PER_HOUR = 50
"""Dollars: no device-hour costs more, and nothing that is bought costs less."""
_LONGEST_RUN = 50_000
"""Hours, nearly six years: more of them are of many devices, whether or not it says so."""


def _money(mention: Mention, groups: Groups, second: Numeral | None, raw: str) -> Mention | None:
    """Dollars stay dollars; another currency keeps its code as the unit."""
    said = (groups.get("cur") or "").replace(" ", ""), (groups.get("money") or "").replace("-", " ").strip()
    if not any(said):
        return None
    value = mention.value.scaled(Decimal("0.01")) if "cent" in said[1] else mention.value
    kind = mention.kind
    if kind == "price" and re.search(rf"(?<!per){NODE}|cluster", raw):
        kind = "node_price"
    if kind == "each":  # of a device-hour or of a device: no hour costs $50, no device less
        kind = "hourly" if value.high <= _MOST_PER_HOUR else "purchase"
    if kind == "at":  # 480,000 device-hours at $2.50
        kind = "hourly" if value.high <= _MOST_PER_HOUR else "usd"
    if kind == "price" and mention.device is None and not groups.get("d2"):
        kind = "hourly"
    return replace(mention, kind=kind, value=value, unit=_currency(*said))


def _currency(sign: str, word: str) -> str:
    known = {"$": "USD", "us$": "USD", "usd": "USD", "": "", "s$": "SGD", "a$": "AUD", "c$": "CAD", "hk$": "HKD", "nt$": "TWD"}
    code = known.get(sign, {"rmb": "CNY"}.get(sign, sign.upper()))
    words = {
        "yuan": "CNY", "rmb": "CNY", "renminbi": "CNY", "cny": "CNY", "euro": "EUR", "eur": "EUR", "pound": "GBP",
        "gbp": "GBP", "sterling": "GBP", "yen": "JPY", "rupee": "INR", "won": "KRW", "franc": "CHF", "canadian": "CAD",
        "australian": "AUD", "singapore": "SGD", "hong kong": "HKD",
    }  # fmt: skip
    other = next((c for w, c in words.items() if w in word), "")
    return other or code or "USD"


def _timed(mention: Mention, groups: Groups, second: Numeral | None, _raw: str) -> Mention | None:
    value = mention.value.scaled(HOURS[str(groups["t"])])
    if groups.get("half"):
        value = value.scaled(Decimal("0.5"))
    if groups.get("rate"):
        tokens = second.value if second else exactly(Decimal("1e12") if "trillion" in str(groups["rate"]) else Decimal("1e9"))
        return replace(mention, kind=mention.kind + "_per_token", value=value / tokens)
    if mention.kind == "hours" and value.low > _LONGEST_RUN:
        return replace(mention, kind="device_hours", value=value)
    return replace(mention, value=value)


def _daily(mention: Mention, groups: Groups, second: Numeral | None, _raw: str) -> Mention | None:
    """12 hours a day for ten days."""
    if second is None:
        return None
    return replace(mention, kind="hours", value=mention.value * _whole(second).scaled(HOURS[str(groups["t"])] / 24))


def _minutes(mention: Mention, _groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    """45m with nothing after it: minutes, not millions."""
    if mention.letter != "m":
        return None
    return replace(mention, kind="hours", value=mention.value.scaled(Decimal("1e-6")) / exactly(60))


def _multiplied(mention: Mention, _groups: Groups, second: Numeral | None, raw: str) -> Mention | None:
    if second is None:
        return mention
    return replace(mention, value=_count(mention) * _whole(second), is_count=False, raw=raw.strip())


def _count(mention: Mention) -> Interval:
    return exactly(mention.value.middle) if mention.is_count else mention.value


def _whole(numeral: Numeral) -> Interval:
    return exactly(numeral.value.middle) if numeral.is_count else numeral.value


def _of_flops(mention: Mention, groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    value = mention.value.scaled(Decimal(FLOP_PREFIXES[(groups.get("p") or "")[:1]]))
    if groups.get("t"):
        value = value.scaled(HOURS[str(groups["t"])] * 3600)
    return replace(mention, value=value)


def _energy(mention: Mention, groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return replace(mention, value=mention.value.scaled(ENERGY_KWH[re.sub(r"[ -]", "", str(groups["e"])).removesuffix("s")]))


def _carbon(mention: Mention, groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return replace(mention, value=mention.value.scaled(MASS_TONNES[str(groups["m"])]))


def _share(mention: Mention, _groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return replace(mention, value=mention.value.scaled(Decimal("0.01")))


def _ratio(mention: Mention, _groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return mention if mention.value.high <= 1 else replace(mention, value=mention.value.scaled(Decimal("0.01")))


def _model_size(mention: Mention, groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return mention if mention.letter.lower() in ("b", "m", "t") or mention.value.low >= 10**6 else None


def _bare_size(mention: Mention, _groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return replace(mention, kind="params") if mention.letter == "B" or mention.letter == "b" else None


_READERS: dict[str, Reader] = {
    "price": _money, "purchase": _money, "usd": _money, "each": _money, "at": _money, "aside_money": _money,
    "device_hours": _timed, "node_hours": _timed, "hours": _timed, "daily": _daily, "minutes": _minutes, "devices": _multiplied,
    "flops": _of_flops, "tflops": _of_flops, "kwh": _energy, "tco2": _carbon, "mfu": _share, "mfu_ratio": _ratio,
    "model_size": _model_size, "bare_size": _bare_size, "nodes_of": _multiplied,
}  # fmt: skip


def _asides(text: str) -> Iterator[tuple[int, int]]:
    """From "compared with" and its like to the end of the clause."""
    for match in ASIDE.finditer(text):
        end = re.search(rf"[.;)](?!\w)|, (?:but|and|so|it|we|they|which)\b|{_APPOSED}|$", text[match.end() :])
        yield match.start(), match.end() + (end.start() if end else 0)


_APPOSED = r"(?<=[a-z]), (?:only |just |about )?(?:us)?\$?#[a-z]+#,"
"""Less than a used car, $9,000, for 4,608 hours: a figure between commas is said of the run again."""
