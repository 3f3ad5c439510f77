"""A bill -> the page a person reads, from 80 columns up, after R1's cost table: stage, hours, share, dollars."""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from farthing.ledger.bill import Bill

_BAR_CELLS = 30


def render_bill(bill: "Bill", console: Console) -> None:
    """Prints the bill. Names and sources go through Text, so that square brackets in them stay what they are."""
    page = bill.to_json()
    console.print(_stages(page))
    console.print(Text(f"total, exactly: ${page['total_usd']}"))
    console.print(Text(f"boundary: {page['boundary']}"))
    if Decimal(page["wasted_usd"]):
        console.print(Text(f"thrown away, in attempts that broke off: {_usd(page['wasted_usd'])}", style="yellow"))
    energy = page["energy"]
    console.print(Text(f"energy: {_short(energy['kwh'])} kWh ({energy['method']})"))
    _section(console, "Phases", _phases(page, ascii_only=console.options.ascii_only))
    _section(console, "Attempts", _attempts(page))
    _section(console, "Prices", _lines(_price_line(price) for price in page["prices"]))
    _section(console, "Not in this bill", _lines(page["excluded"]))
    console.print(Text(f"{page['entries']} ledger entries, chain head {page['head_hash'][:16]}", style="dim"))


def _section(console: Console, title: str, body: Table) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    console.print(Padding(body, (0, 0, 0, 2)))


def _stages(page: dict[str, Any]) -> Table:
    table = Table(title=Text(f"Bill, {page['currency']}", style="bold"), title_justify="left", show_footer=True)
    tokens = {"sampled": page["tokens_out"], "trained": page["tokens_trained"]}
    table.add_column("stage", Text("total"), ratio=1, overflow="fold")
    table.add_column("device-h", _short(page["device_hours"]), justify="right", no_wrap=True)
    for name, count in tokens.items():
        table.add_column(name, _count(count), justify="right", no_wrap=True)
    table.add_column("share", "100%" if Decimal(page["total_usd"]) else "-", justify="right", no_wrap=True)
    table.add_column("dollars", _usd(page["total_usd"]), justify="right", no_wrap=True)
    for stage in page["stages"]:
        table.add_row(
            Text(stage["name"]),
            _short(stage["device_hours"]),
            _count(stage["tokens_out"]),
            _count(stage["tokens_trained"]),
            _share(Decimal(stage["usd"]), Decimal(page["total_usd"])),
            _usd(stage["usd"]),
        )
    return table


def _phases(page: dict[str, Any], ascii_only: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    held_s = page["held_s"]
    for phase, seconds in sorted(page["phases_s"].items(), key=lambda item: -item[1]):
        cells = round(_BAR_CELLS * seconds / held_s) if held_s else 0
        table.add_row(phase, ("#" if ascii_only else "█") * cells, _share(seconds, held_s), _duration(seconds))
    return table


def _attempts(page: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("no.", "outcome", "resumed from", "held", "dollars", "thrown away"):
        table.add_column(name, justify="right" if name in ("no.", "held", "dollars", "thrown away") else "left")
    for attempt in page["attempts"]:
        table.add_row(
            str(attempt["attempt"]),
            Text(attempt["outcome"]),
            Text(_resumed(attempt["resumed_from"])),
            _duration(attempt["seconds"]),
            _usd(attempt["usd"]),
            _usd(attempt["wasted_usd"]) if Decimal(attempt["wasted_usd"]) else "-",
        )
    return table


def _lines(lines: Any) -> Table:
    table = Table.grid(padding=(0, 1))
    for line in lines:
        table.add_row("-", Text(line))
    return table


def _price_line(price: dict[str, Any]) -> str:
    hourly = _plain(price["usd_per_device_hour"])
    line = f"{price['device']}: ${hourly} per device-hour, {price['date']}. {price['source']}"
    if price["components"]:
        parts = (f"{name} {_plain(c['value'])} ({c['method']})" for name, c in price["components"].items())
        line += " Made of " + ", ".join(parts) + "."
    return line


def _plain(number: str) -> str:
    """2.00 and 45 stay as they are; 0.132650000000 loses the zeros at its end."""
    shortest = f"{Decimal(number).normalize():f}"
    return f"{Decimal(number):.2f}" if "." in number and len(shortest.partition(".")[2]) < 2 else shortest


def _resumed(resumed_from: dict[str, Any] | None) -> str:
    if resumed_from is None:
        return "the start"
    step = resumed_from["step"]
    return f"{resumed_from['stage']}, " + ("its start" if step < 0 else f"step {step}")


def _usd(amount: str) -> str:
    """Two decimals from a dollar up, four significant digits below: $0.004812 must not read $0.00."""
    usd = Decimal(amount)
    if usd == 0 or usd >= 1:
        return f"${usd:,.2f}"
    return f"${usd:.{max(2, 3 - usd.adjusted())}f}"


def _share(part: Decimal | float, whole: Decimal | float) -> str:
    return f"{float(part) / float(whole):.0%}" if whole else "-"


def _short(number: float) -> str:
    if number == 0 or number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}" if number >= 0.0001 else f"{number:.2e}"


def _count(number: int) -> str:
    value = float(number)
    for suffix in ("", "K", "M", "B"):
        if value < 999.5:
            return f"{value:.3g}{suffix}"
        value /= 1000
    return f"{value:.3g}T"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.1f} min" if minutes < 60 else f"{hours:,.1f} h"
