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
_LEAST = Decimal("0.000001")
"""Below it dollars are shown with an exponent."""


def render_bill(bill: "Bill", console: Console) -> None:
    """Prints the bill. Names and sources go through Text, so that square brackets in them stay what they are."""
    page = bill.to_json()
    console.print(_stages(page))
    console.print(Text(f"total, exactly: ${page['total_usd']}"))
    console.print(Text(f"boundary: {page['boundary']}"))
    for what, usd in thrown_away_lines(page):
        console.print(Text(f"thrown away, {what}: {usd_short(usd)}", style="yellow"))
    energy = page["energy"]
    console.print(Text(f"energy: {_short(energy['kwh'])} kWh, give or take {_short(energy['error_kwh'])} ({energy['method']})"))
    for boundary in page["boundaries"]:
        _section(console, f"{boundary['name']}: {_usd_or(boundary['usd'])}", _in_and_out(boundary))
    _section(console, "By boundary", _side_by_side(page["boundaries"]))
    _section(console, "Where it taught nothing", _waste(page["waste"]))
    for title, lines in _gains(page):
        _section(console, title, _lines(lines))
    _section(console, "Phases", _phases(page, ascii_only=console.options.ascii_only))
    if page["attempts"]:
        _section(console, "Attempts", _attempts(page))
    if page.get("runs"):
        _section(console, "Runs on this account", _runs(page["runs"]))
        for trouble in page["not_refreshed"]:
            console.print(Text(not_refreshed(trouble), style="yellow"))
    if page["corrections"]:
        _section(console, "Corrections", _lines(correction_line(line) for line in page["corrections"]))
    if page["superseded"]:
        _section(console, "Stages run again", _lines(superseded_line(line) for line in page["superseded"]))
    _section(console, "Prices", _lines(price_line(price) for price in page["prices"]))
    _section(console, "Not in this bill", _lines(page["excluded"]))
    console.print(Text(f"{page['entries']} ledger entries, chain head {page['head_hash'][:16]}, {_checked(page)}", style="dim"))


def thrown_away_lines(page: dict[str, Any]) -> list[tuple[str, str]]:
    """(why, dollars) of work that does not count."""
    superseded = Decimal(page["superseded_usd"])
    parts = {
        "in attempts that broke off": Decimal(page["wasted_usd"]) - superseded,
        "because a stage was run again": superseded,
    }
    return [(what, f"{usd:f}") for what, usd in parts.items() if usd]


def not_refreshed(trouble: str) -> str:
    """Of a run whose own ledger could not be read."""
    return f"as it was last entered, because its ledger cannot be read now: {trouble}"


def correction_line(line: dict[str, Any]) -> str:
    """What was corrected, by how much and why."""
    return f"entry {line['seq']} corrects {line['corrects']} by {line['usd']} USD: {line['reason']}"


def superseded_line(line: dict[str, Any]) -> str:
    """Which stage's earlier work no longer counts, since when and why."""
    since = f"since entry {line['seq']} on {line['at'][:10]}, attempt {line['attempt']}"
    return f"{line['stage']}: {usd_short(line['usd'])} of earlier work superseded {since}: {line['reason']}"


def _checked(page: dict[str, Any]) -> str:
    return "chain checked" if page["chain_checked"] == "whole" else "end of chain checked; the rest: farthing audit"


def _usd_or(usd: str | None) -> str:
    return "not known" if usd is None else usd_short(usd)


def _in_and_out(boundary: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 1))
    for sign, lines in (("+", boundary["included"]), ("-", boundary["excluded"])):
        for line in lines:
            table.add_row(sign, Text(line))
    return table


def _side_by_side(boundaries: list[dict[str, Any]]) -> Table:
    """The same rows under the three boundaries."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    for title in ("final runs", "all attempts", "full"):
        table.add_column(title, justify="right", no_wrap=True)
    names = dict.fromkeys(line["name"] for boundary in boundaries for line in boundary["lines"])
    by_name = [{line["name"]: line["usd"] for line in boundary["lines"]} for boundary in boundaries]
    for name in names:
        table.add_row(Text(name), *(usd_short(lines[name]) if name in lines else "-" for lines in by_name))
    table.add_row(Text("total", style="bold"), *(_usd_or(boundary["usd"]) for boundary in boundaries))
    return table


def _waste(parts: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for part in parts:
        if Decimal(part["usd"]):
            table.add_row(
                Text(part["what"].replace("_", " ")), usd_short(part["usd"]), f"{part['share']:.1%}", Text(part["means"])
            )
    if not table.row_count:
        table.add_row("nowhere")
    return table


def _gains(page: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What the money bought, where there are evaluations."""
    sections = []
    if page.get("gains"):
        sections.append(("What it bought", [gain["says"] for gain in page["gains"]]))
    if page.get("marginal"):
        sections.append(("Is more worth it", [page["marginal"]["says"]]))
    return sections


def _runs(runs: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("run", "role", "status", "dollars"):
        table.add_column(name, justify="right" if name == "dollars" else "left")
    for run in runs:
        gone = "" if run["exists"] else " (directory gone)"
        table.add_row(Text(run["name"] + gone), run["role"], run["status"], usd_short(run["usd"]))
    return table


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
    table.add_column("dollars", usd_short(page["total_usd"]), justify="right", no_wrap=True)
    for stage in page["stages"]:
        table.add_row(
            Text(stage["name"]),
            _short(stage["device_hours"]),
            _count(stage["tokens_out"]),
            _count(stage["tokens_trained"]),
            _share(Decimal(stage["usd"]), Decimal(page["total_usd"])),
            usd_short(stage["usd"]),
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
            usd_short(attempt["usd"]),
            usd_short(attempt["wasted_usd"]) if Decimal(attempt["wasted_usd"]) else "-",
        )
    return table


def _lines(lines: Any) -> Table:
    table = Table.grid(padding=(0, 1))
    for line in lines:
        table.add_row("-", Text(line))
    return table


def price_line(price: dict[str, Any]) -> str:
    """A record with its date, source and parts."""
    line = f"{price['device']}: ${_plain(price['usd_per_unit'])} per {price['unit']}, {price['date']}. {price['source']}"
    if price["method"] == "assumed" and "ssumed" not in price["source"]:
        line += " (assumed)"
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


def usd_short(amount: str) -> str:
    """Two decimals from a dollar up, four significant digits below: $0.004812 must not read $0.00."""
    usd = abs(Decimal(amount))
    sign = "-" if Decimal(amount) < 0 else ""
    if usd == 0 or usd >= 1:
        return f"{sign}${usd:,.2f}"
    if usd < _LEAST:
        return f"{sign}${usd:.2e}"
    return f"{sign}${usd:.{max(2, 3 - usd.adjusted())}f}"


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
