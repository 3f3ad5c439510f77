"""Plain text -> mentions: what each number in it counts (devices, hours, dollars, tokens, ...), with its unit applied.

Numbers become marks (#aa#) after the names have (@aa@, &aa&); then each pattern takes its own mentions out, the longer
units first, so that "2.788M H800 GPU hours" is not read as a time of 2.788M hours.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from farthing.planner.interval import Interval, exactly
from farthing.planner.names import Names, letters, mark_names
from farthing.planner.numerals import CURRENCY, Numeral, numerals
from farthing.planner.units import ENERGY_KWH, FLOP_PREFIXES, HOURS, MASS_TONNES, MONEY_WORDS

_N, _D, _TIME = r"#(?P<n>[a-z]+)#", r"@(?P<d>[a-z]+)@", rf"(?P<t>{'|'.join(sorted(HOURS, key=len, reverse=True))})"
_N2, _D2 = r"#(?P<n2>[a-z]+)#", r"@[a-z]+@"
_ADJECTIVE = (
    r"(?:(?:nvidia|amd|huawei|google|intel|ai|cloud|rented|top|high-end|consumer|export-grade|chinese|total|more|of|the|its|such|"
    r"these|latest|older|hopper|ampere|blackwell|tesla|ascend|sxm\d?|powerful|server|datacenter|data-center|data center|class|training|dedicated|"
    r"individual|separate|physical|gaming|whole|single|compute|modest|specialized|specialised|advanced|graphics|interconnected|"
    r"then|just|only|cutting-edge|mid-range|cheap|commodity|new|used|second-hand|google cloud|kinds? of|worth of|equivalent|grade)[ -])*"
)
_MONEY = rf"(?P<money>{MONEY_WORDS})"
_CUR = rf"(?P<cur>{CURRENCY})"
_NODE = r"(?:nodes?|servers?|machines?|box(?:es)?|hosts?|instances?)"
_H = r"(?:hours?|hrs?|h)\b"


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
    for kind, pattern in _PATTERNS:
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
        if mention is None:
            continue
        reading.mentions.append(mention)
        parts += [text[last : match.start()], "_" * (match.end() - match.start())]
        last = match.end()
    return "".join([*parts, text[last:]])


def _mention(kind: str, match: re.Match[str], table: dict[str, Numeral], names: Names) -> Mention | None:
    groups = match.groupdict()
    numeral = table[groups["n"]] if groups.get("n") else None
    second = table[groups["n2"]] if groups.get("n2") else None
    value = numeral.value if numeral else exactly(1)
    if numeral and numeral.unhedged and kind == "hours" and _DURING.search(match.string[: match.start()][-30:]):
        value = numeral.unhedged
    mark = groups.get("d") or groups.get("dn")
    device = names.devices[mark] if mark else None
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
Groups = dict[str, str | None]
Reader = Callable[[Mention, Groups, Numeral | None, str], Mention | None]


def _as_it_is(mention: Mention, _groups: Groups, _second: Numeral | None, _raw: str) -> Mention | None:
    return mention


def _money(mention: Mention, groups: Groups, second: Numeral | None, raw: str) -> Mention | None:
    """Dollars stay dollars; another currency keeps its code as the unit."""
    said = (groups.get("cur") or "").replace(" ", ""), (groups.get("money") or "").replace("-", " ").strip()
    if not any(said):
        return None
    value = mention.value.scaled(Decimal("0.01")) if "cent" in said[1] else mention.value
    kind = mention.kind
    if kind == "price" and re.search(rf"(?<!per){_NODE}|cluster", raw):
        kind = "node_price"
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
    return replace(mention, value=value)


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
    "price": _money, "purchase": _money, "usd": _money, "aside_money": _money,
    "device_hours": _timed, "hours": _timed, "minutes": _minutes, "devices": _multiplied,
    "flops": _of_flops, "tflops": _of_flops, "kwh": _energy, "tco2": _carbon, "mfu": _share, "mfu_ratio": _ratio,
    "model_size": _model_size, "bare_size": _bare_size, "nodes_of": _multiplied,
}  # fmt: skip

_FLOP = r"(?P<p>peta|exa|zetta|yotta|tera|giga|p|e|z|t)?[ -]?"
_UTIL = r"(?:mfu|hfu|model flops? utili[sz]ation|flops? utili[sz]ation|utili[sz]ation|flops? efficiency|(?:hardware|compute|training) efficiency)"
_PATTERNS: list[tuple[str, re.Pattern[str]]] = [
    (kind, re.compile(pattern))
    for kind, pattern in [
        (
            "aside_money",
            rf"{_CUR} ?{_N}(?: ?{_MONEY})? ?(?:/|per|a|an) ?(?:#[a-z]+# |million |one |1m |m |thousand |billion )?(?:(?:input|output) )?(?:tokens?|month|query|request|user|seat|employee|engineer|person|share)\b",
        ),
        (
            "price",
            rf"(?:{_CUR} ?)?{_N}(?:[ -]?{_MONEY})? ?(?:/|per|an?|each|for each|for an?|for every|for one) ?(?:single )?(?:{_ADJECTIVE}{_D}(?:[ -]?{_D2})*[ -]?)?(?:8-gpu |#[a-z]+#[ -]?(?:x ?)?{_D2}[ -])?(?:{_NODE}[ -]?|cluster[ -]?)?(?:/|-|per|for|an?|each| )*{_H}(?: ?(?:per|/|a|an|for each|for every) ?(?:{_ADJECTIVE}@(?P<d2>[a-z]+)@|{_NODE}))?",
        ),
        ("purchase", rf"{_CUR} ?{_N}(?:[ -]?{_MONEY})? ?(?:/|per|a|an|each|for each) ?(?:{_ADJECTIVE}{_D})(?![ -]?{_TIME})"),
        ("flops", rf"{_N} ?(?P<p>peta|exa|p|e)?(?:flops?(?:/s|ps)?|flop/s|fs?|f/s)(?:-s)?[ -](?P<t>days?|hours?|years?)\b"),
        (
            "device_hours",
            rf"{_N}[ -]?(?:{_ADJECTIVE}{_D}(?:'s)?[ -]?(?:{_ADJECTIVE}{_D2}[ -]?)*)(?:of )?{_TIME}\b(?P<rate> ?(?:per|/|for each|for every|a) ?(?:{_N2} ?|one )?(?:trillion |billion )?tokens?)?",
        ),
        ("device_hours", rf"{_N} (?:total )?{_TIME} (?:of|on) {_ADJECTIVE}{_D}(?:[ -]{_D2})? ?(?:time|compute|usage|use)\b"),
        ("device_hours", rf"{_N} (?:device|accelerator|core|gpu|chip|card|total|compute)[ -]?{_TIME}\b"),
        (
            "tflops",
            rf"{_N} ?(?P<p>t|tera|p|peta)[ -]?flop(?:s|/s|s/s)?(?:/sec| per second)? ?(?:/|per|on each|each|a) ?{_ADJECTIVE}{_D}",
        ),
        ("tflops", rf"{_N} ?(?P<p>t|tera)[ -]?flop(?:s/s|/s|s)?\b"),
        ("aside_rate", rf"{_N} ?(?:peta|p)[ -]?flop(?:s/s|/s|s)?\b"),
        (
            "tokens_per_s_per_device",
            rf"{_N} ?(?:tokens?|toks?) ?(?:/|per|a) ?(?:s|sec|second)(?:/|ond)? ?(?:/|per|on each|for each) ?{_ADJECTIVE}{_D}",
        ),
        ("tokens_per_s", rf"{_N} ?(?:tokens?|toks?) ?(?:/|per|a|each|every) ?(?:s|sec|second)\b"),
        (
            "aside_rate",
            rf"{_N} ?(?:[a-z]+ )?(?:tokens?|samples?|steps?|problems?|questions?) ?(?:/|per|a|each|every) ?(?:hour|day|step|batch|week|minute|prompt|question|sample|gpu|@[a-z]+@)",
        ),
        (
            "flops",
            rf"{_N} ?(?P<p>exa|zetta|yotta|e|z)?[ -]?(?:flops?|floating[- ]?point operations?|operations|total flops?)\b(?! ?/)",
        ),
        ("kwh", rf"{_N} ?(?P<e>[kmgt]wh|(?:kilo|mega|giga|tera)watt[ -]?hours?|[mgt]j|(?:mega|giga|tera)joules?)\b"),
        ("aside_power", rf"{_N} ?(?:[kmg]?w|watts?|kilowatts?|megawatts?|gigawatts?)\b"),
        (
            "tco2",
            rf"{_N} ?(?P<m>kg|kilograms?|kt|kilotons?|kilotonnes?|t|tons?|tonnes?|metric tons?|lbs?|pounds?) ?(?:of )?(?:co2(?:[ -]?e(?:q(?:uivalents?)?)?)?|carbon(?: dioxide)?(?:[ -]equivalents?)?|carbon emissions|emissions)",
        ),
        (
            "mfu",
            rf"{_N} ?(?:%|percent|per cent) ?(?:of (?:the )?(?:theoretical |hardware |bf16 |dense )*peak|(?:\w+ ){{0,2}}?{_UTIL})",
        ),
        (
            "mfu",
            rf"{_UTIL}(?: \(?(?:mfu|hfu)\)?)?(?: of| was| is| at|:|=| rate of| reached| reaching)* ?(?:about |around |roughly |~)?{_N} ?(?:%|percent|per cent)",
        ),
        ("mfu", rf"(?:at|with|and|reaching|achiev\w+) (?:an? )?{_N} ?(?:%|percent|per cent) mfu"),
        ("mfu_ratio", rf"mfu(?: of| was| is| at|:|=)* ?{_N}(?! ?%)"),
        ("aside_percent", rf"{_N} ?(?:%|percent\b|per cent\b|times\b|x (?:less|cheaper|more|lower|higher|the|fewer)|-fold)"),
        ("usd", rf"{_CUR} ?{_N}(?:[ -]?{_MONEY})?"),
        ("usd", rf"{_N}[ -]?{_MONEY}\b"),
        (
            "tokens",
            rf"{_N}[ -](?:(?!for\b|on\b|per\b|and\b|in\b|to\b|epochs?\b|hours?\b|days?\b)[a-z-]+[ -]){{0,4}}?(?:tokens?|tok)\b",
        ),
        (
            "active_params",
            rf"{_N}[ -]?(?:param(?:eter)?s? )?(?:of (?:which|them) (?:are )?)?(?:active|activated)(?: param(?:eter)?s?| per token)*",
        ),
        (
            "active_params",
            rf"(?:activat\w+|active|with only)(?: only| just| params| parameters|:|=| of)* {_N}(?: (?:of )?(?:its )?(?:active )?param(?:eter)?s?| per token| active)",
        ),
        (
            "params",
            rf"{_N}[ -](?:(?!for\b|on\b|per\b|and\b|in\b|to\b|hours?\b|days?\b)[a-z]+[ -]){{0,3}}?(?:param(?:eter)?s?)\b",
        ),
        (
            "model_size",
            rf"{_N}(?:[ -](?!for\b|on\b|in\b|and\b|x\b)[a-z]+){{0,3}}?[ -](?:models?|llms?|networks?|transformers?|moe|base|variant|version|policy|checkpoint)\b",
        ),
        ("model_size", rf"&[a-z]+& \(?{_N}(?=[ ,).]|$)(?! ?(?:@|tokens))"),
        (
            "aside_count",
            rf"{_N} ?(?:-?(?:way|bit|shot|point|step|layers?|experts?|heads?|samples?|examples?|problems?|questions?|prompts?|traces?|steps|iterations|updates|rollouts|researchers|people|employees|engineers|authors|runs|experiments|stages|languages|benchmarks|context|minutes? read|pages|lines|papers|customers|downloads|stars))\b",
        ),
        ("epochs", rf"{_N} ?(?:epochs?|passes)\b"),
        (
            "nodes_of",
            rf"{_N}[ -](?:{_ADJECTIVE}|{_D2}[ -])?(?:{_NODE}|dgx(?: systems?)?|hgx(?: systems?)?)(?: ?(?:,|\(|of|with|each with|each having|having|each holding|holding|containing|and|x|-|equipped with|that each have|each))* ?{_N2}[ x*-]*{_ADJECTIVE}@(?P<dn>[a-z]+)@(?: ?@[a-z]+@)*(?: each| per node| in each)?",
        ),
        (
            "nodes_of",
            rf"{_N} ?(?:x )?{_N2}[ -]?(?:x ?)?@(?P<dn>[a-z]+)@[ -](?:@[a-z]+@[ -])?(?:nodes|servers|machines|boxes|hosts|instances)\b",
        ),
        ("per_node", rf"{_N} {_ADJECTIVE}{_D}(?:s)? ?(?:per|/|a|in each|each|on each|in every|on every) ?{_NODE}\b"),
        ("per_node", rf"{_N} (?:per|a|in each|each|on each|to a) ?{_NODE}\b"),
        ("nodes", rf"{_N}[ -](?:{_ADJECTIVE}(?:{_D}[ -]?)*)(?:dgx|hgx)?[ -]?(?:{_NODE}|systems)\b"),
        ("nodes", rf"{_N}[ -](?:nvidia )?(?:dgx|hgx)(?:[ -]?{_D})?(?: (?:systems?|pods?))?"),
        ("nodes", rf"\b(?:a|one|single) (?:single )?(?:8-gpu )?(?:{_D}[ -])(?:@[a-z]+@[ -])?{_NODE}\b"),
        ("devices", rf"{_N} ?(?:x|\*|times) ?{_N2} ?(?:x |-)?{_ADJECTIVE}{_D}(?:[ -]?{_D2})*"),
        ("devices", rf"{_N}(?: ?x ?|[ -]?){_ADJECTIVE}{_D}(?:[ -]?{_ADJECTIVE}{_D2})*"),
        ("devices", rf"{_D}s? ?(?:x|\*|:|=|\() ?{_N}(?! ?{_TIME}\b)"),
        ("devices", rf"\b(?:a|an|one|single)[ -]{_ADJECTIVE}{_D}(?:[ -]?{_D2})*(?![ -]?{_TIME}\b)"),
        (
            "hours",
            rf"{_N}[ -]?(?:(?:full|straight|wall[- ]?clock|calendar|consecutive|entire|whole|continuous|short|solid|gruelling|long|actual|working|elapsed)[ -])*{_TIME}\b(?! ?(?:of experience|old|ago))(?P<rate> ?(?:per|/|for each|for every) ?(?:{_N2} ?|one )?(?:trillion |billion )?tokens?)?",
        ),
        (
            "hours",
            rf"(?<!per )(?<!times )\b(?P<half>half )?(?:an?|one|a single|the course of a|a mere|another) (?:(?:full|single|whole|long) )?{_TIME}\b(?! ago)(?!-)",
        ),
        ("minutes", rf"{_N}(?= on\b| with\b|,|\.| and\b| for\b|$)"),
        (
            "devices",
            rf"(?:cluster|fleet|pool|farm|total) of (?:about |some |over |roughly |up to )?{_N}(?! ?(?:{_TIME}|tokens|dollars)\b)",
        ),
        ("bare_size", rf"{_N}"),
    ]
]

_ASIDE = re.compile(
    r"\b(?:compared (?:with|to)|in comparison (?:with|to)|versus|vs\.?|rather than|instead of|unlike|in contrast (?:to|with)|exclud\w+|"
    r"not (?:including|counting)|does not include|without(?: counting)?|on top of|in addition to|apart from|aside from|as opposed to|"
    r"(?:cheaper|less expensive|more expensive|lower|more efficient|fewer|less|more|higher|faster) than (?=[&a-z])|a (?:fraction|tenth) of|(?:while|whereas|where|but) (?=&)|"
    r"(?:the )?(?:headline|rumou?red|previously reported|earlier)\b|against (?:the )?(?=[&$]))"
)


def _asides(text: str) -> Iterator[tuple[int, int]]:
    """From "compared with" and its like to the end of the clause."""
    for match in _ASIDE.finditer(text):
        end = re.search(r"[.;)](?!\w)|, (?:but|and|so|it|we|they|which)\b|$", text[match.end() :])
        yield match.start(), match.end() + (end.start() if end else 0)
