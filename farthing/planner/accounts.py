"""A claim about a model whose maker published its cost line by line -> does the claim say what the maker said?

Dollars or hours are looked for among the lines, their total, the base model, and both together. Dollars of one of these
with the time of another is the commonest mistake of the press (R1: the price of 147K hours with one line's 80 hours).
"""

import datetime
import re
import tomllib
from decimal import Decimal
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from farthing.planner.check import Check, short, spoken
from farthing.planner.claim import Claim
from farthing.planner.interval import Interval, exactly

_ROUNDING = 0.025
"""Published lines are rounded (41K for 40,960): they are met within this share."""


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    num_devices: int | None = None
    hours: Decimal | None = None
    device_hours: Decimal
    usd: Decimal | None = None


class Account(BaseModel):
    """What a model's maker says it took, and what that leaves out."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    name: str
    names: tuple[str, ...]
    date: datetime.date
    source: str
    device: str = ""
    num_devices: int | None = None
    base: str = ""
    params: float = 0
    active_params: float | None = None
    tokens: float | None = None
    precision: str = ""
    includes: str
    excludes: tuple[str, ...]
    lines: tuple[Line, ...] = ()
    at_least_usd: Decimal | None = None
    """All that its maker says, where there are no lines."""


class Part(BaseModel):
    """A line, or a sum of lines, that a figure may stand for."""

    model_config = ConfigDict(frozen=True)
    name: str
    device_hours: Decimal
    usd: Decimal | None
    has_base: bool = False


@cache
def accounts() -> dict[str, Account]:
    text = (files("farthing.planner") / "accounts.toml").read_text("utf-8")
    found = [Account.model_validate(record) for record in tomllib.loads(text, parse_float=Decimal)["account"]]
    return {account.key: account for account in found}


def account_of(claim: Claim) -> Account | None:
    """Of the model that the claim names; with several, of the one that builds on another."""
    known = {name: account for account in accounts().values() for name in account.names}
    named = [known[plain] for plain in map(_plain, claim.models) if plain in known]
    return max(named, key=lambda account: (bool(account.base), len(account.lines)), default=None)


def _plain(name: str) -> str:
    name = re.sub(r"'s|[ _]+", lambda m: "" if m[0] == "'s" else "-", name.lower())
    return re.sub(r"^(llama|gpt|deepseek)(?=[\dvr])", r"\1-", name)


def parts(account: Account) -> list[Part]:
    """Total first, then its lines, then the base and all together."""
    own = _sum(account, account.name if len(account.lines) == 1 else f"all of {account.name}: {_listed(account)}")
    lines = [Part(name=line.name, device_hours=line.device_hours, usd=line.usd) for line in account.lines]
    found = [own] + (lines if len(lines) > 1 else [])
    if account.base:
        base = _sum(accounts()[account.base], f"its base model {accounts()[account.base].name}").model_copy(
            update={"has_base": True}
        )
        both = Part(
            name=f"{account.name} together with its base model {accounts()[account.base].name}",
            device_hours=own.device_hours + base.device_hours,
            usd=own.usd + base.usd if own.usd and base.usd else None,
            has_base=True,
        )
        found += [both, base]
    return found


def _listed(account: Account) -> str:
    return " + ".join(line.name for line in account.lines)


def _sum(account: Account, name: str) -> Part:
    usd = [line.usd for line in account.lines if line.usd is not None]
    hours = sum((line.device_hours for line in account.lines), Decimal(0))
    return Part(name=name, device_hours=hours, usd=sum(usd, Decimal(0)) if len(usd) == len(account.lines) else None)


def account_checks(claim: Claim, device_hours: Interval | None) -> list[Check]:
    """What the published account says to the claim; nothing if there is none, or if the claim is of something else."""
    account = account_of(claim)
    if claim.work == "serving":
        return []
    if account is None:
        return _unnamed(claim, device_hours)
    if claim.work == "post-training" and not account.base:
        return []  # it starts from the model; what that took is another matter
    if claim.work == "reproduction":
        return [_reproduced(account)]
    if not account.lines:
        return _at_least(claim, account)
    if claim.device and claim.device != account.device:
        return _other_device(claim, account)
    checks = _cluster(claim, account)
    usd_parts = _meeting(account, claim.usd, "usd")
    hour_parts = _meeting(account, device_hours, "device_hours")
    if claim.usd is not None and device_hours is not None and _has_dollars(account):
        checks.append(_both(account, claim, device_hours, usd_parts, hour_parts))
    elif claim.usd is not None and _has_dollars(account):
        checks.append(_dollars(account, claim, usd_parts))
    elif device_hours is not None and not device_hours.is_open:
        checks.append(_hours(account, device_hours, hour_parts))
    return checks


def _at_least(claim: Claim, account: Account) -> list[Check]:
    """A maker's bare "more than": a smaller figure counts less than it."""
    if claim.usd is None or account.at_least_usd is None:
        return []
    says = f"Its maker says more than ${short(account.at_least_usd)} ({account.source})."
    if claim.usd.high < account.at_least_usd:
        return [
            Check(
                "published account",
                "needs",
                says,
                f"it counts less than its maker, who says more than ${short(account.at_least_usd)}",
            )
        ]
    return [Check("published account", "note", says)]


def _other_device(claim: Claim, account: Account) -> list[Check]:
    """Somebody else's run of the same model, unless its maker priced the run: then the device is known."""
    if not _has_dollars(account):
        return []
    says = f"{claim.device} for {account.name}: its maker says {account.device} ({account.source})."
    return [Check("published account", "fail", says)]


def _has_dollars(account: Account) -> bool:
    return parts(account)[0].usd is not None


def _meeting(account: Account, figure: Interval | None, field: str) -> list[Part]:
    if figure is None:
        return []
    found = [(part, getattr(part, field)) for part in parts(account)]
    return [part for part, value in found if value is not None and figure.meets(exactly(value).widened(_ROUNDING))]


def _cluster(claim: Claim, account: Account) -> list[Check]:
    count = claim.num_devices
    known = {n for n in (account.num_devices, *(line.num_devices for line in account.lines)) if n}
    if count is None or not known or any(count.meets(exactly(number)) for number in known):
        return []
    base = accounts().get(account.base)
    if base and base.num_devices and count.meets(exactly(base.num_devices)):
        if any(part.has_base for part in _meeting(account, claim.usd, "usd")):
            return []
        why = f"{base.num_devices:,} is the cluster of its base model {base.name}"
    else:
        why = f"its maker says {', '.join(f'{number:,}' for number in sorted(known))}"
    says = f"{spoken(count)} devices for {account.name}: {why} ({account.source})."
    return [Check("published account", "fail" if _has_dollars(account) else "note", says)]  # else "up to", or an assumption


def _both(account: Account, claim: Claim, device_hours: Interval, usd_parts: list[Part], hour_parts: list[Part]) -> Check:
    assert claim.usd is not None
    same = [part for part in usd_parts if part in hour_parts]
    if same:
        both = f"{spoken(claim.usd, money=True)} and {spoken(device_hours)} device-hours"
        says = f"{both} are those of {same[0].name} ({account.source})."
        if claim.boundary == "full development":
            return _not_development(account, says)
        return Check("published account", "pass", says)
    total = parts(account)[0]
    readings = tuple(_means(part) for part in (usd_parts or [total])[:1])
    if usd_parts and hour_parts:
        says = (
            f"{spoken(claim.usd, money=True)} is the price of {usd_parts[0].name} "
            f"({short(usd_parts[0].device_hours)} device-hours), but "
            f"{spoken(device_hours)} device-hours are {hour_parts[0].name} alone, {_price(hour_parts[0])} ({account.source})."
        )
        return Check("published account", "fail", says, readings=(*readings, *map(_means, hour_parts[:1])))
    says = (
        f"{account.source} gives {_price(total)} for {short(total.device_hours)} device-hours of {account.name}; "
        f"no line of it has "
        f"{spoken(claim.usd, money=True)} with {spoken(device_hours)} device-hours."
    )
    return Check("published account", "fail", says, readings=readings)


def _dollars(account: Account, claim: Claim, usd_parts: list[Part]) -> Check:
    """Dollars without time: at best consistent if they mean one of the parts."""
    assert claim.usd is not None
    total, said = parts(account)[0], spoken(claim.usd, money=True)
    is_bound = claim.usd.is_open or not claim.usd.low
    if usd_parts and (is_bound or claim.usd.high < total_of(account) * 3):
        part = usd_parts[0]
        says = f"{said} is what {account.source} gives for {part.name}: {account.includes}."
        if claim.boundary == "full development":
            return _not_development(account, says)
        left_out = account.excludes if not part.has_base else accounts()[account.base].excludes
        return Check(
            "published account", "needs", says, f"it means {part.name}, and leaves out: {'; '.join(left_out)}", (_means(part),)
        )
    near = [p for p in parts(account) if p.usd and claim.usd.meets(exactly(p.usd).widened(0.15))]
    if claim.boundary == "full development" and near:
        return _not_development(account, f"{said} is near the {_price(near[0])} of {near[0].name}.")
    if claim.boundary in ("full development", "hardware") or claim.work == "buying":
        says = f"{account.source} has no figure for that boundary; its lines add up to {_price(total)}: {account.includes}."
        return Check("published account", "open", says, "an account of development or hardware cost by its maker")
    slipped = _slipped(account, claim.usd)
    if slipped:
        power = abs((claim.usd.middle / (slipped.usd or 1)).log10().to_integral_value())
        digits = f"the digits of {_price(slipped)} for {slipped.name}"
        says = f"{said} has {digits} with the point {power} places off ({account.source})."
        return Check("published account", "fail", says, readings=(_means(slipped),))
    if claim.usd.high < (total.usd or 0):
        says = f"{said} is less than the {_price(total)} that {account.source} gives, and none of its lines."
        return Check("published account", "fail", says, readings=(_means(total),))
    covered = [part for part in parts(account) if part.usd and part.usd <= claim.usd.low] or [total]
    most = max(covered, key=lambda part: part.usd or 0)
    more = claim.usd.low - (most.usd or 0)
    says = f"{account.source} gives {_price(total)} for {account.name}; {said} matches neither it nor it with the base model."
    need = f"it covers ${short(more)} beyond the {_price(most)} of {most.name} (experiments, failed runs, staff, hardware)"
    return Check("published account", "needs", says, need, tuple(_means(part) for part in parts(account) if part.has_base)[:1])


def total_of(account: Account) -> Decimal:
    return max(part.usd or Decimal(0) for part in parts(account))


def _hours(account: Account, device_hours: Interval, hour_parts: list[Part]) -> Check:
    total = parts(account)[0]
    if hour_parts:
        says = f"{spoken(device_hours)} device-hours are those of {hour_parts[0].name} ({account.source})."
        return Check("published account", "pass", says)
    says = (
        f"{account.source} gives {short(total.device_hours)} device-hours for {account.name}, the claim {spoken(device_hours)}."
    )
    differ = "leaves out" if device_hours.high < total.device_hours else "adds"
    need = f"it {differ} {short(abs(total.device_hours - device_hours.middle))} device-hours against the source's count"
    return Check("published account", "needs", says, need, (f"{short(total.device_hours)} device-hours",))


def _reproduced(account: Account) -> Check:
    total = parts(account)[0]
    says = (
        f"A reproduction is another run, often of a smaller model. {account.name} itself: {short(total.device_hours)} "
        f"device-hours{f', {_price(total)}' if total.usd else ''} ({account.source})."
    )
    return Check("published account", "note", says)


def _unnamed(claim: Claim, device_hours: Interval | None) -> list[Check]:
    """No model is named, but devices and time are a line of an account and the dollars its total."""
    if claim.usd is None or device_hours is None or claim.num_devices is None or claim.models:
        return []
    for account in accounts().values():
        if claim.device not in ("", account.device) or not _has_dollars(account):
            continue
        lines = [
            part for line, part in zip(account.lines, parts(account)[1:], strict=False)
            if line.num_devices and claim.num_devices.meets(exactly(line.num_devices))
            and device_hours.meets(exactly(part.device_hours).widened(_ROUNDING))
        ]  # fmt: skip
        totals = [part for part in _meeting(account, claim.usd, "usd") if part not in lines and not part.has_base]
        if lines and totals:
            return [_both(account, claim, device_hours, totals, lines)]
    return []


def _not_development(account: Account, says: str) -> Check:
    return Check(
        "published account", "fail", f"{says} That is not the cost of development: it leaves out {'; '.join(account.excludes)}."
    )


def _slipped(account: Account, usd: Interval) -> Part | None:
    """The same three digits, another power of ten; a bound has no digits of its own."""
    if usd.is_open or not usd.low:
        return None
    for part in parts(account):
        for power in (-3, -2, -1, 1, 2, 3):
            if (
                part.usd
                and len(part.usd.normalize().as_tuple().digits) > 1
                and usd.meets(exactly(part.usd.scaleb(power)).widened(0.005))
            ):
                return part
    return None


def _price(part: Part) -> str:
    return f"${short(part.usd)}" if part.usd is not None else "no dollars"


def _means(part: Part) -> str:
    priced = f" at ${short(part.usd / part.device_hours)}, {_price(part)}" if part.usd else ""
    return f"{short(part.device_hours)} device-hours{priced}: {part.name}"
