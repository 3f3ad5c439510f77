"""One English sentence -> a Claim: mentions put together, stages added up, contradictions kept as such.

Anything assumed on the way (8 GPUs to a node, what an hourly price is for) is written into the claim.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

from farthing.planner.claim import Claim, DeviceGroup
from farthing.planner.interval import Interval, exactly, total
from farthing.planner.mentions import Mention, Reading, read_mentions
from farthing.planner.names import ANY_DEVICE, size_in
from farthing.planner.numerals import numerals
from farthing.planner.patterns import ASIDE, BOUNDARIES, WORK
from farthing.planner.wording import plain

_PER_NODE = 8
_CLUSTER_USD_PER_HOUR = 18
"""An hourly price above this, with no word what for, is of all devices together: no single one costs that."""
_EXCLUDES = re.compile(
    r"(?:exclud(?:es|ing)|not (?:including|counting)|does not include|without(?: counting)?|on top of) ([^.;,#&]{3,60})"
)
_SAME = re.compile(
    r"^[\s_,]*(?:\(|or|i\.e\.|that is|which is|=|equals?|equivalent to|meaning|"
    r"in other words|a total of|totall?ing|in total|for a total of|amounting to)"
)
_UNION = re.compile(r"^[\s$_]*(?:to|-|or|and up to)[\s$_]*(?:about |roughly |around )?(?:us)?\$?$")


_COMPARED = re.compile(rf"(?:{ASIDE.pattern})[^&.;]{{0,30}}&[a-z]+&")


def read_sentence(text: str, rates: Mapping[str, Decimal] | None = None) -> Claim:
    """A claim from English; `rates` are US dollars for one unit of a currency. DataError for what is no claim."""
    words = plain(text)
    reading = read_mentions(words)
    claim = _assembled(text, reading, rates or {}, lambda mention: mention.value)
    unclear = [
        m for m in reading.mentions if m.other is not None and m.kind in ("devices", "usd", "device_hours", "nodes", "nodes_of")
    ]
    if not unclear:
        return claim
    second = _assembled(text, reading, rates or {}, lambda m: m.other if m.other is not None else m.value)
    asked = tuple(f"{m.raw!r} can be read as {m.value.middle.normalize():f} or as {_other(m)}" for m in unclear)
    return replace(second, ambiguous=asked, other_reading=claim)


def _other(mention: Mention) -> str:
    assert mention.other is not None
    return f"{mention.other.middle:,.0f}"


def _assembled(text: str, reading: Reading, rates: Mapping[str, Decimal], value: Callable[[Mention], Interval]) -> Claim:
    said = [replace(m, value=value(m)) for m in reading.mentions if not m.is_aside]
    notes: list[str] = [f"{m.raw} is said of something else" for m in reading.mentions if m.is_aside]
    conflicts: list[str] = []

    def one(kind: str, what: str) -> Interval | None:
        return _together([m for m in said if m.kind == kind], what, reading, notes, conflicts)

    tokens, params = _tokens(one("tokens", "tokens"), one("epochs", "epochs"), notes), _params(said, reading, notes)
    held = _held(said, reading, tokens, notes, conflicts)
    count, hours = held.count, held.hours
    dollars, foreign = _dollars([m for m in said if m.kind == "usd"], rates)
    foreign += _dollars([m for m in said if m.kind in ("price", "node_price", "hourly", "purchase")], rates)[1]
    spent = _together(dollars, "dollars", reading, notes, conflicts)
    throughput = one("tokens_per_s_per_device", "tokens/s per device")
    whole = one("tokens_per_s", "tokens/s")
    if throughput is None and whole is not None and count is not None:
        throughput = whole / count
    words = reading.text
    return Claim(
        text=text.strip(),
        models=tuple(dict.fromkeys(reading.names.models[m] for m in re.findall(r"&([a-z]+)&", _without_asides(reading)))),
        devices=held.devices,
        hours=hours,
        device_hours=held.device_hours,
        usd=spent,
        usd_per_device_hour=_hourly(said, count, (spent, hours), rates, notes),
        usd_per_device=one("purchase", "dollars per device"),
        foreign=foreign,
        params=params,
        active_params=one("active_params", "active parameters") or _active_in_name(reading, notes),
        tokens=tokens,
        flops=one("flops", "FLOP"),
        precision=reading.names.precision,
        mfu=one("mfu", "MFU") or one("mfu_ratio", "MFU"),
        flops_per_s_per_device=one("tflops", "FLOP/s per device"),
        tokens_per_s_per_device=throughput,
        kwh=one("kwh", "energy"),
        tco2=one("tco2", "emissions"),
        work=next((work for work, pattern in WORK if re.search(pattern, words)), "unknown"),
        boundary=next((boundary for boundary, pattern in BOUNDARIES if re.search(pattern, words)), ""),
        excludes=tuple(m[1].strip() for m in _EXCLUDES.finditer(words)),
        year=reading.names.year,
        is_moe=bool(re.search(r"\bmoe\b|mixture[- ]of[- ]experts", words)),
        is_lora=bool(re.search(r"\bq?lora\b", words)),
        derived=frozenset({"device_hours"}) if held.is_derived else frozenset(),
        assumed=tuple(notes),
        conflicts=tuple(conflicts),
        agreements=("device-hours: those of the stages add up to the sum that is given",) if held.stages_add_up else (),
    )  # fmt: skip


@dataclass(frozen=True)
class _Held:
    """What was held, and for how long."""

    devices: tuple[DeviceGroup, ...]
    count: Interval | None
    hours: Interval | None
    device_hours: Interval | None
    is_derived: bool = False
    """The device-hours are not stated alone: devices times time is in them."""
    stages_add_up: bool = False
    """The stages' devices times their times come to the device-hours that are stated."""


def _held(said: list[Mention], reading: Reading, tokens: Interval | None, notes: list[str], conflicts: list[str]) -> _Held:
    """Devices, time and device-hours; of stages with devices and times of their own only the sum of these."""

    def one(kind: str, what: str) -> Interval | None:
        return _together([m for m in said if m.kind == kind], what, reading, notes, conflicts)

    devices, stated = _devices(said, reading, notes), one("device_hours", "device-hours")
    if stated is None:
        stated = _of_nodes(one("node_hours", "node-hours"), said, notes)
    per_token = one("device_hours_per_token", "device-hours per token")
    stages = _stages(said)
    if stages is not None:
        notes.append("device-hours: each stage's devices times its time, added up")
        adds_up = stated is not None and stated.meets(stages)
        if stated is not None and not adds_up:
            conflicts.append("device-hours: those of the stages are not the sum that is given")
        uncounted = tuple(replace(group, count=None) for group in devices)
        return _Held(uncounted, None, None, stated or stages, stages_add_up=adds_up)
    count = total(g.count for g in devices if g.count is not None) if any(g.count for g in devices) else None
    hours = _hours(said, reading, notes, conflicts)
    more = _beside(said, reading, count, hours, stated)
    if more is not None:
        notes.append("device-hours: devices times time, and those stated beside it")
        return _Held(devices, count, hours, more, is_derived=True)
    if stated is None and per_token is not None and tokens is not None:
        notes.append("device-hours are hours per token times tokens")
        stated = per_token * tokens
    return _Held(devices, count, hours, stated)


def _of_nodes(node_hours: Interval | None, said: list[Mention], notes: list[str]) -> Interval | None:
    """Node-hours as device-hours."""
    if node_hours is None:
        return None
    per_node = next((m.value for m in said if m.kind == "per_node"), None)
    if per_node is None:
        notes.append(f"{_PER_NODE} devices to a node are assumed")
    return node_hours * (per_node or exactly(_PER_NODE))


def _without_asides(reading: Reading) -> str:
    """The text up to the first figure of something else, without the models that others are compared with: neither these
    nor what is named after it are what is claimed."""
    starts = [m.start for m in reading.mentions if m.is_aside]
    text = reading.text[: min(starts)] if starts else reading.text
    return _COMPARED.sub(" ", text)


def _together(mentions: list[Mention], what: str, reading: Reading, notes: list[str], conflicts: list[str]) -> Interval | None:
    """One figure from its mentions: the same said twice, a range, stages that add up to a total, or stages to be added."""
    mentions = _ranges(mentions, reading)
    if not mentions:
        return None
    values = [m.value for m in mentions]
    common = values[0]
    if all(common.meets(v) for v in values):
        for v in values[1:]:
            common = common.common(v) if common.meets(v) else common
        return common
    for place, candidate in enumerate(values):
        rest = total(v for i, v in enumerate(values) if i != place)
        if len(values) > 2 and candidate.widened(0.02).meets(rest):
            notes.append(f"{what}: the parts add up to {mentions[place].raw}")
            return candidate
    for earlier, later in pairwise(mentions):
        if _SAME.match(reading.text[earlier.end : later.start].lstrip(" ,")) and not earlier.value.meets(later.value):
            conflicts.append(f"{what}: {earlier.raw} and {later.raw} are given for the same thing")
            return values[0]
    notes.append(f"{what}: {' + '.join(m.raw for m in mentions)} are added up")
    return total(values)


def _ranges(mentions: list[Mention], reading: Reading) -> list[Mention]:
    """3 weeks to 4 weeks: one mention."""
    kept: list[Mention] = []
    for mention in mentions:
        if kept and _UNION.match(reading.text[kept[-1].end : mention.start] or "x"):
            low, high = sorted((kept[-1].value.middle, mention.value.middle))
            kept[-1] = replace(kept[-1], value=Interval(low, high), end=mention.end)
        else:
            kept.append(mention)
    return kept


def _hours(said: list[Mention], reading: Reading, notes: list[str], conflicts: list[str]) -> Interval | None:
    """Two days and six hours are one time; other times are the same said twice, or stages."""
    parts: list[Mention] = []
    for mention in (m for m in said if m.kind == "hours"):
        gap = reading.text[parts[-1].end : mention.start] if parts else ""
        if parts and re.fullmatch(r"[ ,]*(?:and )?", gap) and mention.value.high < parts[-1].value.low:
            parts[-1] = replace(
                parts[-1], value=parts[-1].value + mention.value, end=mention.end, raw=f"{parts[-1].raw} {mention.raw}"
            )
        else:
            parts.append(mention)
    if (
        len(parts) == 2
        and re.search(r"^[\s,]*(?:or|i\.e\.|\()", reading.text[parts[0].end : parts[1].start])
        and not parts[0].value.meets(parts[1].value)
    ):
        conflicts.append(f"time: {parts[0].raw} and {parts[1].raw} are given for the same run")
        return parts[1].value
    return _together(parts, "time", reading, notes, conflicts)


def _beside(
    said: list[Mention], reading: Reading, count: Interval | None, hours: Interval | None, stated: Interval | None
) -> Interval | None:
    """512 GPUs for 278 hours, plus 5K GPU-hours for data: the sum."""
    if count is None or hours is None or stated is None or stated.high > (count * hours).low / 5:
        return None
    mention = next(m for m in said if m.kind == "device_hours")
    before = reading.text[max(0, mention.start - 24) : mention.start]
    return count * hours + stated if re.search(r"\b(?:plus|and|with|another|additional|further|as well as)\b", before) else None


def _stages(said: list[Mention]) -> Interval | None:
    """512 GPUs for 10 days, then 128 for 5: device-hours, where as many times as counts follow each other by turns, and the
    counts differ. None where it is one run, or where one cannot tell which time is whose."""
    parts = [m for m in said if m.kind in ("devices", "hours")]
    kinds = [m.kind for m in parts]
    if len(parts) < 4 or kinds[0] == kinds[1] or kinds != kinds[:2] * (len(parts) // 2):
        return None
    counts, times = ([m for m in parts if m.kind == kind] for kind in ("devices", "hours"))
    if all(_exact(count).meets(_exact(counts[0])) for count in counts):
        return None
    return total(_exact(count) * time.value for count, time in zip(counts, times, strict=True))


def _devices(said: list[Mention], reading: Reading, notes: list[str]) -> tuple[DeviceGroup, ...]:
    counted = _without_larger_cluster([m for m in said if m.kind in ("devices", "nodes", "nodes_of")], reading, notes)
    per_node = next((m.value for m in said if m.kind == "per_node"), None)
    named = [k for k in (m.device for m in said) if k] + [k for k in reading.bare_devices if k]
    only = named[0] if len(set(named)) == 1 else ANY_DEVICE
    groups: dict[str, Interval] = {}
    for mention in counted:
        key, count = mention.device or only, _exact(mention)
        if mention.kind == "nodes":
            if any(m.kind != "nodes" for m in counted):
                continue  # "512 GPUs in 64 nodes": the GPUs are counted already
            count = count * (per_node or exactly(_PER_NODE))
            if per_node is None:
                notes.append(f"{_PER_NODE} devices to a node are assumed")
        if key in groups and groups[key].meets(count):
            continue  # the same said twice
        groups[key] = groups[key] + count if key in groups else count
    if per_node is not None and not groups and not any(m.kind == "node_hours" for m in said):
        groups[only] = per_node
    if ANY_DEVICE in groups and len(groups) > 1:
        anonymous = groups.pop(ANY_DEVICE)
        if not any(anonymous.meets(count) for count in groups.values()) and not anonymous.meets(total(groups.values())):
            groups[ANY_DEVICE] = anonymous
    if groups:
        return tuple(DeviceGroup(count, key) for key, count in groups.items())
    kinds = dict.fromkeys(named) or ({ANY_DEVICE: None} if any(m.device is not None for m in said) else {})
    return tuple(DeviceGroup(None, key) for key in kinds)


_ALL_THERE_ARE = re.compile(
    r"\b(?:owns?|owned|owning|houses?|has access to|out of|of (?:an?|the|its|our|their))(?: about| some)? $"
)


def _without_larger_cluster(counted: list[Mention], reading: Reading, notes: list[str]) -> list[Mention]:
    """160 H100s of the 6,000-GPU cluster: what there is beside what was used."""
    larger = [m for m in counted if _ALL_THERE_ARE.search(reading.text[: m.start][-30:])]
    if len(larger) == len(counted):
        return counted
    notes += [f"{m.raw} are there, not used" for m in larger]
    return [m for m in counted if m not in larger]


def _exact(mention: Mention) -> Interval:
    """A plain count is exact, unless it ends in three zeros: 10,000 GPUs is a round number."""
    middle = mention.value.middle
    round_number = middle >= 1000 and middle % 1000 == 0
    return mention.value if round_number or not mention.is_count else exactly(middle)


def _params(said: list[Mention], reading: Reading, notes: list[str]) -> Interval | None:
    stated = [m for m in said if m.kind in ("params", "model_size")]
    if stated:
        return stated[0].value
    sizes = [size_in(name) for name in reading.names.models.values() if size_in(name)]
    if sizes:
        notes.append(f"parameters are those in the model's name: {sizes[0]}")
        return numerals(sizes[0].upper())[0].value
    return None


def _active_in_name(reading: Reading, notes: list[str]) -> Interval | None:
    """Qwen3-30B-A3B: 3B of 30B."""
    found = [match for name in reading.names.models.values() if (match := re.search(r"-a(\d+(?:\.\d+)?b)$", name))]
    if not found:
        return None
    notes.append(f"active parameters are those in the model's name: {found[0][1]}")
    return numerals(found[0][1].upper())[0].value


def _tokens(tokens: Interval | None, epochs: Interval | None, notes: list[str]) -> Interval | None:
    if tokens is None or epochs is None:
        return tokens
    notes.append("tokens are multiplied by the epochs")
    return tokens * exactly(epochs.middle)


def _dollars(money: list[Mention], rates: Mapping[str, Decimal]) -> tuple[list[Mention], tuple[str, ...]]:
    """Everything for which there is a rate, in dollars; the rest as it was written."""
    known = [replace(m, value=m.value.scaled(rates.get(m.unit, Decimal(1)))) for m in money if m.unit in (*rates, "USD")]
    return known, tuple(f"{m.raw} {m.unit}" for m in money if m.unit not in (*rates, "USD"))


def _hourly(
    said: list[Mention],
    count: Interval | None,
    spent_in: tuple[Interval | None, Interval | None],
    rates: Mapping[str, Decimal],
    notes: list[str],
) -> Interval | None:
    """Per device; a price of a node or of all devices is divided. `spent_in`: the dollars and hours beside it."""
    priced = [m for m in said if m.kind in ("price", "node_price", "hourly") and m.unit in (*rates, "USD")]
    if not priced:
        return None
    price = priced[0].value.scaled(rates.get(priced[0].unit, Decimal(1)))
    if priced[0].kind == "node_price":
        notes.append(f"the price is of a node; {_PER_NODE} devices to a node are assumed")
        return price / exactly(_PER_NODE)
    usd, hours = spent_in
    is_whole = usd is not None and hours is not None and (hours * price).meets(usd)
    if priced[0].kind == "hourly" and count is not None and (is_whole or price.low > _CLUSTER_USD_PER_HOUR):
        notes.append("the hourly price is taken to be of all devices together")
        return price / count
    return price
