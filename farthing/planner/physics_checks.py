"""Claim and hardware -> can these devices have done that in this time, on that energy, with these emissions?

FLOPs are 6 N D (Kaplan et al., arXiv:2001.08361) with active parameters, unless the claim gives them. Only what no device
can do fails: FLOP/s above the dense peak of 8-bit arithmetic, energy far beyond the boards, carbon beyond burning coal.
"""

from dataclasses import dataclass
from decimal import Decimal

from farthing.planner.accounts import account_of
from farthing.planner.check import Check, short, spoken
from farthing.planner.claim import Claim
from farthing.planner.hardware import Device, catalogue
from farthing.planner.interval import Interval, exactly
from farthing.planner.money_checks import device_hours

HIGHEST_MFU = 0.75
"""Training runs report at most about 0.65 (farthing's collection), benchmark entries up to 0.8; above this we ask how."""
LOWEST_MFU = 0.06
"""Of a training run in 16 bits. Below it most of the hours went elsewhere, or the tokens are not all of the work."""
POWER = (Decimal("0.15"), Decimal("2.2"))
"""Mean power of a device with its share of server and cooling, as a share of its board power: idle to all included."""
KG_PER_KWH = Interval(Decimal("0.003"), Decimal("1.1"))
"""From hydropower to coal."""
_SECONDS = 3600


@dataclass(frozen=True)
class Work:
    """The training arithmetic of a claim, and how it is known."""

    flops: Interval
    how: str


def training_work(claim: Claim) -> Work | None:
    """FLOPs as stated, else 6 N D; N and D of a model whose maker published them, if the claim is of training it."""
    if claim.flops is not None:
        return Work(claim.flops, "stated")
    account = account_of(claim) if claim.work in ("training", "unknown") and len(claim.models) == 1 else None
    params, tokens, how = claim.active_params or (None if claim.is_moe else claim.params), claim.tokens, []
    if account is not None and account.tokens:
        same_size = claim.params is None or claim.params.widened(0.1).meets(exactly(account.params))
        if claim.active_params is None and same_size:
            params = exactly(account.active_params or account.params)
            how.append(f"{short(params.middle)} active parameters ({account.source})")
        if tokens is None and same_size:
            tokens = exactly(account.tokens)
            how.append(f"{short(tokens.middle)} tokens ({account.source})")
    if params is None or tokens is None:
        return None
    factor = 4 if claim.is_lora else 6  # low-rank adapters: no gradients of the frozen weights
    return Work(
        (params * tokens).scaled(factor),
        f"{factor} x {spoken(params)} parameters x {spoken(tokens)} tokens" + "".join(f"; {h}" for h in how),
    )


def compute_checks(claim: Claim) -> list[Check]:
    """FLOPs against what the devices could do in the time."""
    checks = _rates(claim)
    work, hours = training_work(claim), device_hours(claim)
    if work is None:
        if claim.tokens is not None and (claim.params is not None or claim.is_moe):
            checks.append(
                Check(
                    "compute",
                    "open",
                    "FLOPs of a mixture of experts are 6 x active parameters x tokens.",
                    "the active parameters",
                )
            )
        return checks
    if hours is None or hours.value.high == 0:
        missing = "the devices and the time" if claim.num_devices is None else "the time"
        return [*checks, Check("compute", "open", f"{spoken(work.flops, 'FLOP')} ({work.how}).", missing)]
    kinds = _kinds(claim)
    if not kinds or any(device.peak_flops() is None for device in kinds):
        named = ", ".join(sorted({d.key for d in kinds if d.peak_flops() is None}))
        missing = f"the peak FLOP/s of {named}" if named else "the kind of the devices"
        return [*checks, *_any_device(work, hours.value, missing)]
    return [*checks, *_utilisation(claim, work, hours.value, kinds)]


def _kinds(claim: Claim) -> list[Device]:
    known = catalogue()
    return [known[group.key] for group in claim.devices if group.key in known]


def _any_device(work: Work, hours: Interval, missing: str) -> list[Check]:
    """Without a kind: still impossible if the fastest device in the catalogue could not do it."""
    fastest = max(d.largest_peak_flops() or 0 for d in catalogue().values())
    share = work.flops / (hours.scaled(_SECONDS) * exactly(fastest))
    if share.low > 1:
        says = f"{spoken(work.flops, 'FLOP')} in {spoken(hours)} device-hours: no device is that fast."
        return [Check("compute", "fail", says)]
    return [Check("compute", "open", f"{spoken(work.flops, 'FLOP')} ({work.how}) in {spoken(hours)} device-hours.", missing)]


def _peak(claim: Claim, kinds: list[Device], precision: str) -> float:
    """Per device; of several kinds the mean by count, where counts are known."""

    def peak(device: Device) -> float:
        return (device.largest_peak_flops() if precision == "largest" else device.peak_flops(precision)) or 0.0

    counts = {g.key: float(g.count.middle) if g.count else 1.0 for g in claim.devices if g.key}
    return sum(peak(d) * counts[d.key] for d in kinds) / sum(counts[d.key] for d in kinds)


def _utilisation(claim: Claim, work: Work, hours: Interval, kinds: list[Device]) -> list[Check]:
    seconds = hours.scaled(_SECONDS)
    share = work.flops / (seconds * exactly(_peak(claim, kinds, "bf16")))
    best = work.flops / (seconds * exactly(_peak(claim, kinds, "largest")))
    name = "/".join(d.key for d in kinds)
    did = f"{spoken(work.flops, 'FLOP')} ({work.how}) in {spoken(hours)} {name}-hours"
    says = f"{did}: {_percent(share)} of the dense 16-bit peak.".replace("times of", "times")
    if best.low > 1:
        needed = work.flops / exactly(_peak(claim, kinds, "bf16") * _SECONDS * 0.4)
        readings = [f"{spoken(needed)} {name}-hours, at 40% of the peak"]
        if claim.tokens is not None and claim.flops is None:
            readings.append(f"{spoken(claim.tokens / share.scaled(Decimal('2.5')))} tokens, at 40% of the peak")
        return [Check("compute", "fail", f"{says} Physically impossible.", readings=tuple(readings))]
    if share.low > 1 and claim.precision != "fp8":
        return [Check("compute", "needs", says, "it trained in 8-bit arithmetic")]
    if (best if claim.precision == "fp8" else share).low > HIGHEST_MFU:
        return [
            Check(
                "compute",
                "needs",
                says,
                f"{_percent(share)} of the peak was reached, which training runs outside benchmarks do not report",
            )
        ]
    checks = [_low(claim, share, says)]
    if claim.mfu is not None:
        checks.append(_stated_mfu(claim, claim.mfu, [share, best], says))
    return checks


def _low(claim: Claim, share: Interval, says: str) -> Check:
    if share.high < LOWEST_MFU and claim.work in ("training", "unknown"):
        return Check(
            "compute",
            "needs",
            says,
            "most of the hours went into other work than 6 N D counts (a teacher, long context, restarts, evaluation)",
        )
    return Check("compute", "pass", says)


def _stated_mfu(claim: Claim, stated: Interval, implied: list[Interval], says: str) -> Check:
    said = f"Stated utilisation {_percent(stated)}; implied by 6 N D and the hours {_percent(implied[0])}."
    tolerance = 0.15
    if any(value.widened(tolerance).meets(stated) for value in implied):
        return Check("utilisation", "pass", said)
    if implied[0].high < stated.low and implied[0].high > stated.low / 3:
        return Check(
            "utilisation", "pass", f"{said} The hours hold more than the steps (restarts, evaluation): a wider scope, no error."
        )
    need = (
        "the utilisation is of a part of the run" if implied[0].high < stated.low else "the hours leave out a part of the run"
    )
    return Check("utilisation", "needs", said, need)


def _rates(claim: Claim) -> list[Check]:
    """FLOP/s and tokens/s of one device against its peak, and against the stated utilisation."""
    kinds = _kinds(claim)
    if len(kinds) != 1 or kinds[0].peak_flops() is None:
        return []
    device, rate, checks = kinds[0], claim.flops_per_s_per_device, []
    largest = device.largest_peak_flops() or 0.0
    if claim.mfu is not None and claim.mfu.low > 1:
        checks.append(Check("utilisation", "fail", f"Stated utilisation {_percent(claim.mfu)}: above 100%."))
    if rate is not None:
        says = f"{spoken(rate, 'FLOP/s')} per {device.key}; its dense 8-bit peak or best: {short(largest)}."
        if rate.low > largest * 1.02 if claim.precision != "fp4" else False:
            checks.append(Check("rate", "fail", f"{says} Physically impossible."))
        elif claim.mfu is not None:
            checks.append(_rate_and_mfu(claim, device, rate, claim.mfu))
    params = claim.active_params or (None if claim.is_moe else claim.params)
    if claim.tokens_per_s_per_device is not None and params is not None and claim.work != "serving":
        checks += _throughput(claim, device, params, claim.tokens_per_s_per_device, rate)
    return checks


def _rate_and_mfu(claim: Claim, device: Device, rate: Interval, mfu: Interval) -> Check:
    formats = (claim.precision, "bf16", "fp8", "fp4") if claim.precision in ("", "fp8", "fp4") else (claim.precision,)
    peaks = [p for p in (device.peak_flops(f) for f in formats) if p]
    says = f"{spoken(rate, 'FLOP/s')} and {_percent(mfu)} utilisation of {device.key} ({short(peaks[0])} FLOP/s)."
    if any((mfu * exactly(peak)).widened(0.05).meets(rate) for peak in peaks):
        return Check("rate", "pass", says)
    return Check("rate", "fail", f"{says} Together they would mean a peak of {spoken(rate / mfu, 'FLOP/s')}.")


def _throughput(claim: Claim, device: Device, params: Interval, tokens_per_s: Interval, rate: Interval | None) -> list[Check]:
    needed = (params * tokens_per_s).scaled(6)
    says = f"6 x {spoken(params)} parameters x {spoken(tokens_per_s)} tokens/s = {spoken(needed, 'FLOP/s')} per {device.key}."
    trained = claim.work != "post-training"  # LoRA needs 4 N a token, and rollouts are no training steps
    if needed.low > (device.largest_peak_flops() or 0) and trained and claim.precision != "fp4":
        return [
            Check("throughput", "fail", f"{says} Its peak is {short(device.largest_peak_flops() or 0)}: physically impossible.")
        ]
    if rate is None:
        return []
    if trained and not claim.is_lora and rate.high < needed.low * Decimal("0.88"):
        return [Check("throughput", "fail", f"{says} Stated: {spoken(rate, 'FLOP/s')}, fewer than the weights alone take.")]
    return [Check("throughput", "pass", f"{says} Stated: {spoken(rate, 'FLOP/s')}, with attention.")]


def energy_checks(claim: Claim) -> list[Check]:
    """kWh against the boards' power, tonnes of CO2 against the kWh."""
    hours, kinds, checks = device_hours(claim), _kinds(claim), []
    watts = kinds[0].power_w if len(kinds) == 1 else None
    if claim.kwh is not None:
        if hours is None or watts is None or hours.value.high == 0:
            missing = "the device-hours" if hours is None else "the power of the device"
            checks.append(
                Check("energy", "open", f"{spoken(claim.kwh, 'kWh')} cannot be held against power and time.", missing)
            )
        else:
            checks.append(_power(claim.kwh, hours.value, watts, kinds[0].key))
    if claim.tco2 is not None:
        checks.append(_carbon(claim, hours.value if hours else None, watts))
    return checks


def _power(kwh: Interval, hours: Interval, watts: float, name: str) -> Check:
    each = (kwh / hours).scaled(1000)
    board = exactly(watts)
    mean = f"{spoken(kwh, 'kWh')} / {spoken(hours)} device-hours = {spoken(each, 'W')}"
    says = f"{mean} per {name}, whose board power is {watts:g} W."
    if Interval(board.low * POWER[0], board.low * POWER[1]).meets(each):
        return Check("energy", "pass", says)
    if Interval(board.low * POWER[0] / 3, board.low * POWER[1] * 2).meets(each):
        return Check("energy", "needs", says, "the energy covers more or less than these device-hours")
    reading = f"{spoken(hours * board.scaled(Decimal('0.0011')), 'kWh')}, at board power and 1.1 for cooling"
    return Check("energy", "fail", says, readings=(reading,))


def _carbon(claim: Claim, hours: Interval | None, watts: float | None) -> Check:
    assert claim.tco2 is not None
    kwh, how = claim.kwh, ""
    if kwh is None and hours is not None and watts is not None and hours.high > 0:
        kwh, how = hours.scaled(Decimal(str(watts)) / 1000), " at board power"
    if kwh is None:
        return Check(
            "emissions",
            "open",
            f"{spoken(claim.tco2, 'tCO2')} cannot be held against energy.",
            "the energy, or devices and hours",
        )
    each = claim.tco2.scaled(1000) / kwh
    says = f"{spoken(claim.tco2, 'tCO2')} / {spoken(kwh, 'kWh')}{how} = {spoken(each, 'kg/kWh')}."
    if each.meets(KG_PER_KWH):
        return Check("emissions", "pass", says)
    if each.low > KG_PER_KWH.high:
        return Check("emissions", "fail", f"{says} Coal is at about 1.")
    return Check("emissions", "needs", says, "the emissions are net of purchased clean power")


def _percent(share: Interval) -> str:
    low, high = float(share.low) * 100, float(share.high) * 100
    if high == float("inf"):
        return f"at least {low:.3g}%"
    if low > 300:
        return f"{float(share.middle):,.4g} times"
    if low == 0:
        return f"at most {high:.3g}%"
    if high <= low * 1.02 or (share.nominal is not None and high <= low * 1.7):
        return f"{float(share.middle) * 100:.4g}%"
    return f"{low:,.4g}% to {high:,.4g}%"
