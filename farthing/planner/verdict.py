"""A claim and a price book -> the verdict with its reasons: the one place where checks become a judgement.

One failed check: inconsistent. Else any condition: consistent only if it holds. Else, if at least one figure was held
against another and passed, and no dollars stayed unchecked: consistent. Else not checkable, with what is missing.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from farthing.ledger.prices import PriceBook
from farthing.planner.accounts import account_checks, account_of
from farthing.planner.check import Check, spoken
from farthing.planner.claim import Claim
from farthing.planner.interval import INFINITY, Interval
from farthing.planner.money_checks import device_hours, money_checks, time_check
from farthing.planner.physics_checks import compute_checks, energy_checks, training_work

Verdict = Literal["consistent", "consistent only if", "inconsistent", "not checkable"]
_NOT_SAID = (
    "the base model, if it was taken as given",
    "failed, exploratory and superseded runs",
    "data, evaluation, storage, idle time",
    "staff, and the hardware beyond its rental",
)


@dataclass(frozen=True)
class Judgement:
    claim: Claim
    verdict: Verdict
    checks: tuple[Check, ...]

    @property
    def conditions(self) -> list[str]:
        return _distinct(check.needs for check in self.checks if check.outcome == "needs")

    @property
    def missing(self) -> list[str]:
        return _distinct(check.needs for check in self.checks if check.outcome == "open")

    @property
    def readings(self) -> list[str]:
        """What the claim could mean so that it agrees; empty for a consistent one."""
        if self.verdict == "consistent":
            return []
        return _distinct(reading for check in self.checks if check.outcome in ("fail", "needs") for reading in check.readings)

    @property
    def not_included(self) -> tuple[str, ...]:
        account = account_of(self.claim)
        if account is not None and self.claim.work not in ("reproduction", "serving"):
            return account.excludes
        return () if self.claim.boundary == "full development" else _NOT_SAID

    @property
    def summary(self) -> str:
        """One line: the verdict and its main reason."""
        if self.verdict == "consistent only if":
            return f"consistent only if {'; and if '.join(self.conditions)}"
        if self.verdict == "not checkable":
            return f"not checkable: {'; '.join(self.missing)} missing"
        if self.verdict == "inconsistent":
            failed = [check.says for check in self.checks if check.outcome == "fail"]
            return f"inconsistent: {failed[0]}"
        return "consistent"

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.claim.text,
            "source": self.claim.source,
            "verdict": self.verdict,
            "summary": self.summary,
            "conditions": self.conditions,
            "missing": self.missing,
            "readings": self.readings,
            "checks": [{"name": c.name, "outcome": c.outcome, "says": c.says, "needs": c.needs} for c in self.checks],
            "read_as": read_as(self.claim),
            "assumed": list(self.claim.assumed),
            "boundary": {
                "named": self.claim.boundary or None,
                "says_it_excludes": list(self.claim.excludes),
                "not_included": list(self.not_included),
            },
        }


def judge(claim: Claim, book: PriceBook) -> Judgement:
    """The verdict on one claim."""
    first = _judge(claim, book)
    if claim.other_reading is None:
        return first
    return _of_two_readings(claim, first, _judge(claim.other_reading, book))


def _judge(claim: Claim, book: PriceBook) -> Judgement:
    hours = device_hours(claim)
    checks = [Check("figures", "fail", conflict) for conflict in claim.conflicts]
    checks += [Check("figures", "pass", agreement) for agreement in claim.agreements]
    checks += time_check(claim)
    checks += account_checks(claim, hours.value if hours else None)
    checks += money_checks(claim, book)
    checks += compute_checks(claim)
    checks += energy_checks(claim)
    checks += _nothing_to_hold(claim, checks)
    return Judgement(claim, _verdict(claim, checks), tuple(checks))


def _verdict(claim: Claim, checks: list[Check]) -> Verdict:
    outcomes = [check.outcome for check in checks]
    if "fail" in outcomes:
        return "inconsistent"
    explained = any(check.outcome == "needs" and check.name in ("published account", "price") for check in checks)
    money_open = any(check.outcome == "open" and check.name in ("price", "currency") for check in checks)
    if "needs" in outcomes and (explained or not money_open):
        return "consistent only if"
    if "pass" in outcomes and not money_open:
        return "consistent"
    return "not checkable"


def _nothing_to_hold(claim: Claim, checks: list[Check]) -> list[Check]:
    """Says what would make the claim checkable, where no two of its figures can be held together."""
    if any(check.outcome in ("pass", "fail", "needs", "open") for check in checks):
        return []
    if not claim.has_figures:
        return [
            Check(
                "figures", "open", "The claim states no quantity.", "devices, time, dollars, tokens or energy: any two of them"
            )
        ]
    hours = device_hours(claim)
    if hours is not None:
        return [
            Check(
                "figures",
                "open",
                f"{spoken(hours.value)} device-hours and nothing to hold them against.",
                "dollars, tokens and parameters, or energy",
            )
        ]
    given = ", ".join(read_as(claim)) or "nothing"
    return [Check("figures", "open", f"Stated: {given}.", "devices and time, or device-hours")]


def _of_two_readings(claim: Claim, first: Judgement, second: Judgement) -> Judgement:
    """1.000 as one thousand, then as one: the claim is at best consistent on a condition."""
    asked = "; ".join(claim.ambiguous)
    chosen, reading = (first, 0) if first.verdict != "inconsistent" or second.verdict == "inconsistent" else (second, 1)
    if chosen.verdict == "inconsistent":
        check = Check("figures", "note", f"{asked}: neither reading agrees.")
    else:
        meant = "thousands" if reading == 0 else "a decimal point"
        check = Check(
            "figures", "needs" if chosen.verdict != "not checkable" else "note", f"{asked}.", f"the point marks {meant}"
        )
    verdict: Verdict = "consistent only if" if chosen.verdict == "consistent" else chosen.verdict
    return Judgement(chosen.claim, verdict, (*chosen.checks, check))


def read_as(claim: Claim) -> dict[str, Any]:
    """The claim's quantities as [low, high], with None for no bound; dollars as exact text."""
    fields = {
        "devices": claim.num_devices, "hours": claim.hours, "device_hours": claim.device_hours, "usd": claim.usd,
        "usd_per_device_hour": claim.usd_per_device_hour, "usd_per_device": claim.usd_per_device, "params": claim.params,
        "active_params": claim.active_params, "tokens": claim.tokens, "flops": claim.flops, "mfu": claim.mfu,
        "flops_per_s_per_device": claim.flops_per_s_per_device, "tokens_per_s_per_device": claim.tokens_per_s_per_device,
        "kwh": claim.kwh, "tco2": claim.tco2,
    }  # fmt: skip
    read: dict[str, Any] = {name: _ends(value, name.startswith("usd")) for name, value in fields.items() if value is not None}
    kinds = [group.key or "unknown device" for group in claim.devices]
    extra: dict[str, Any] = {
        "device": kinds,
        "models": list(claim.models),
        "precision": claim.precision,
        "other_currency": list(claim.foreign),
    }
    work = training_work(claim)
    if work is not None and claim.flops is None:
        extra["implied_flops"] = [float(work.flops.low), float(work.flops.high)]
    hours = device_hours(claim)
    if hours is not None and hours.from_product:
        extra["implied_device_hours"] = _ends(hours.value, False)
    return read | {name: value for name, value in extra.items() if value}


def _ends(value: Interval, is_money: bool) -> list[Any]:
    def end(number: Decimal) -> str | float | None:
        if number == INFINITY:
            return None
        return f"{number.normalize():f}" if is_money else float(number)

    return [end(value.low), end(value.high)]


def _distinct(items: Any) -> list[str]:
    return list(dict.fromkeys(item for item in items if item))
