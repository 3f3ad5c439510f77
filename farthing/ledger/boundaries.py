"""The same rows -> what they come to under three boundaries, each with what is in it and what is not.

After Epoch AI (arXiv:2405.21015): rental of the final run, and full development with staff; between them, what was
really spent. A figure that would need what the user has not given is None, never 0.
"""

from decimal import Decimal, localcontext
from typing import Any

from farthing.ledger.account import Row, stage_name
from farthing.ledger.entry import MONEY, to_picousd, usd_text
from farthing.ledger.overhead import Overhead
from farthing.ledger.price_record import NS_PER_HOUR
from farthing.ledger.prices import cost

_MJ_PER_KWH = 3_600_000_000

_RENTAL_IN = [
    "Device time of the work that reached the end, set-up included, at the price records below.",
    "Making training data on the run's own devices.",
]
_RENTAL_OUT = [
    "Work of attempts that broke off and was done again, and of stages that were run again with a changed recipe.",
    "Evaluation, idle time, experiments, storage, bought tokens.",
    "Everything that the second and third boundary add.",
]
_ALL_IN = [
    "Every attempt, whatever became of it, from the start of its process.",
    "Evaluation, idle time, experiments, data, storage, bought tokens and stated expenses, as entered in the ledger.",
]
_ALL_OUT = [
    "Staff, overhead, and hardware or energy beyond the price records.",
    "Whatever is not in this ledger: see the list at the end.",
]
_FULL_OUT = [
    "The base model, other people's research and earlier failures, unless they are entries or lines of the overhead file."
]


def boundaries(
    rows: list[Row],
    prices: dict[str, dict[str, Any]],
    overhead: Overhead | None,
    is_final: bool = True,
    status: str = "ok",
) -> list[dict[str, Any]]:
    """(a) rental of the final runs, (b) all attempts, (c) full development; lines add up to `usd` exactly.

    `is_final` says whether the rows are of a final run; a project says it row by row with purpose "experiment". `status` is
    the outcome of the run's last attempt.
    """
    names = list(dict.fromkeys(stage_name(row) for row in rows if row.sums["picousd"]))
    final = [row for row in rows if is_final and row.kept and row.group.phase and row.group.purpose in ("train", "data")]
    out = _RENTAL_OUT if is_final else [*_RENTAL_OUT, "This run: it is not marked as a final one."]
    return [
        _boundary("rental", "rental of the successful final runs", _lines(names, final), [*_so_far(status), *_RENTAL_IN], out),
        _boundary("all", "all attempts, experiments, data, evaluation, storage, idle", _lines(names, rows), _ALL_IN, _ALL_OUT),
        _full(names, rows, prices, overhead),
    ]


def _so_far(status: str) -> list[str]:
    if status == "ok":
        return []
    now = "the run is still going on" if status == "running" else f"the last attempt was {status}"
    return [f"So far: {now}; what is kept counts, though the run has not come to its end."]


def _full(names: list[str], rows: list[Row], prices: dict[str, dict[str, Any]], overhead: Overhead | None) -> dict[str, Any]:
    title = "full development: hardware, energy, staff and overhead"
    if overhead is None:
        missing = ["Nothing yet: staff, overhead and your own hardware terms are not known. Give them with --overhead FILE."]
        return {"key": "full", "name": title, "usd": None, "lines": [], "included": [], "excluded": missing}
    lines = _lines(names, rows, overhead.hardware.usd_per_device_hour if overhead.hardware else None)
    lines += [_extra(f"staff: {s.role}", s.hours * s.usd_per_hour) for s in overhead.staff]
    included = [
        _hardware_in(overhead, prices),
        *(f"Staff: {s.role}, {s.hours} h at ${s.usd_per_hour} ({s.source})." for s in overhead.staff),
    ]
    if overhead.energy:
        kwh = Decimal(sum(row.sums["energy_mj"] for row in rows)) / _MJ_PER_KWH
        lines.append(_extra("energy", kwh * overhead.energy.pue * overhead.energy.usd_per_kwh))
        included.append(
            f"Energy at ${overhead.energy.usd_per_kwh} a kWh, PUE {overhead.energy.pue} ({overhead.energy.source})."
        )
    fixed = [(o.what, o.usd, o.source) for o in overhead.overhead if o.usd is not None]
    lines += [_extra(what, usd) for what, usd, _ in fixed]
    base = sum((Decimal(line["usd"]) for line in lines), Decimal(0))
    for other in overhead.overhead:
        if other.percent is not None:
            lines.append(_extra(f"{other.what}, {other.percent}%", base * other.percent / 100))
        included.append(f"{other.what} ({other.source}).")
    missing = [*([] if overhead.staff else ["Staff: none given in the overhead file."]), *_FULL_OUT]
    return _boundary("full", title, lines, ["Everything of the second boundary.", *included], missing)


def _hardware_in(overhead: Overhead, prices: dict[str, dict[str, Any]]) -> str:
    if overhead.hardware:
        return f"Hardware at ${overhead.hardware.usd_per_device_hour} a device-hour ({overhead.hardware.source})."
    owned = any(price.get("components") for price in prices.values())
    return (
        "Hardware amortised, with its electricity, by the price record."
        if owned
        else "Hardware rented at the price records below."
    )


def _boundary(key: str, name: str, lines: list[dict[str, Any]], included: list[str], excluded: list[str]) -> dict[str, Any]:
    with localcontext(MONEY):
        usd = sum((Decimal(line["usd"]) for line in lines), Decimal("0e-12"))
    return {"key": key, "name": name, "usd": f"{usd:f}", "lines": lines, "included": included, "excluded": excluded}


def _lines(names: list[str], rows: list[Row], usd_per_device_hour: Decimal | None = None) -> list[dict[str, Any]]:
    return [_line(name, [row for row in rows if stage_name(row) == name], usd_per_device_hour) for name in names]


def _line(name: str, rows: list[Row], usd_per_device_hour: Decimal | None) -> dict[str, Any]:
    device_ns = sum(row.sums["device_ns"] for row in rows)
    if usd_per_device_hour is None:
        usd = usd_text(sum(row.sums["picousd"] for row in rows))
    else:
        other = sum(row.sums["picousd"] for row in rows if not row.group.phase)
        usd = f"{cost(device_ns, 1, usd_per_device_hour) + Decimal(usd_text(other)):f}"
    return {
        "name": name,
        "device_hours": device_ns / NS_PER_HOUR,
        "model_flops": sum(row.sums["model_flops"] for row in rows),
        "energy_kwh": sum(row.sums["energy_mj"] for row in rows) / _MJ_PER_KWH,
        "usd": usd,
    }


def _extra(name: str, usd: Decimal) -> dict[str, Any]:
    return {"name": name, "device_hours": 0.0, "model_flops": 0, "energy_kwh": 0.0, "usd": f"{to_picousd(usd):f}"}
