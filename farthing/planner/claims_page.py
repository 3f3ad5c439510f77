"""Judgements -> what a person reads: one claim with its checks, or the library as a table."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from farthing.planner.check import spoken
from farthing.planner.interval import Interval
from farthing.planner.money_checks import device_hours
from farthing.planner.verdict import Judgement, Verdict

COLOURS: dict[Verdict, str] = {
    "consistent": "green", "consistent only if": "yellow", "inconsistent": "bold red", "not checkable": "cyan",
}  # fmt: skip
_SIGNS = {
    "pass": ("ok", "green"),
    "needs": ("only if", "yellow"),
    "fail": ("no", "red"),
    "open": ("?", "cyan"),
    "note": ("-", "dim"),
}
_FIGURES = (
    ("devices", "num_devices", "", False), ("time", "hours", "h", False), ("device-hours", "device_hours", "", False),
    ("dollars", "usd", "", True), ("per device-hour", "usd_per_device_hour", "", True),
    ("per device", "usd_per_device", "", True),
    ("parameters", "params", "", False), ("active parameters", "active_params", "", False), ("tokens", "tokens", "", False),
    ("training FLOP", "flops", "", False), ("energy", "kwh", "kWh", False), ("emissions", "tco2", "tCO2", False),
)  # fmt: skip


def render_judgement(judgement: Judgement, console: Console) -> None:
    """The claim, how it was read, the verdict, every check, what would agree, and what is not included."""
    claim = judgement.claim
    console.print(Text(f'"{claim.text}"' if claim.text else "(no text)", style="italic"))
    if claim.source:
        console.print(Text(f"source: {claim.source}", style="dim"))
    console.print(Text(f"read as: {_read(judgement)}"))
    for line in (*claim.assumed, *claim.ambiguous):
        console.print(Text(f"  {line}", style="dim"))
    console.print()
    console.print(Text(judgement.verdict.upper(), style=COLOURS[judgement.verdict]))
    _list(console, "", judgement.conditions if judgement.verdict == "consistent only if" else [])
    _list(console, "missing", judgement.missing if judgement.verdict == "not checkable" else [])
    console.print()
    console.print(Padding(_checks(judgement), (0, 0, 0, 2)))
    _list(console, "it would agree as", judgement.readings)
    boundary = claim.boundary or "none named"
    _list(console, f"boundary: {boundary}; not included, or not said to be", judgement.not_included)


def _read(judgement: Judgement) -> str:
    claim = judgement.claim
    parts = [
        f"{name} {spoken(value, unit, money)}"
        for name, field, unit, money in _FIGURES
        if isinstance(value := getattr(claim, field), Interval)
    ]
    kinds = ", ".join(group.key or "unknown kind" for group in claim.devices)
    return "; ".join((*([kinds] if kinds else []), *parts, *claim.foreign)) or "no quantities"


def _checks(judgement: Judgement) -> Table:
    table = Table.grid(padding=(0, 2))
    for check in judgement.checks:
        sign, colour = _SIGNS[check.outcome]
        table.add_row(Text(sign, style=colour), Text(check.name), Text(check.says))
    return table


def _list(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    if title:
        console.print()
        console.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 1))
    for line in lines:
        table.add_row("  -", Text(line))
    console.print(table)


def render_library(judgements: Sequence[Judgement], console: Console) -> None:
    """A row a claim: verdict, device-hours, dollars, why."""
    table = Table(box=None, padding=(0, 1), title=None)
    table.add_column("claim", ratio=3, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("device-h", justify="right", no_wrap=True)
    table.add_column("dollars", justify="right", no_wrap=True)
    table.add_column("because", ratio=5, overflow="fold")
    for judgement in judgements:
        hours, usd = device_hours(judgement.claim), judgement.claim.usd
        table.add_row(
            Text(judgement.claim.text),
            Text(judgement.verdict, style=COLOURS[judgement.verdict]),
            spoken(hours.value) if hours else "",
            spoken(usd, money=True) if usd else "",
            Text(because(judgement)),
        )
    console.print(table)
    counts = {verdict: sum(j.verdict == verdict for j in judgements) for verdict in COLOURS}
    console.print(Text(f"{len(judgements)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items())))


def because(judgement: Judgement) -> str:
    """The reason in a line: the failed check, the condition, what is missing, or what agreed."""
    if judgement.verdict == "consistent":
        return ", ".join(dict.fromkeys(check.name for check in judgement.checks if check.outcome == "pass"))
    reason = judgement.summary.removeprefix(judgement.verdict).lstrip(": ")
    return reason if len(reason) <= 240 else f"{reason[:237]}..."
