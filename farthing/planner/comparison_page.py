"""Comparison rows -> a terminal table, or one HTML page that needs no other file."""

import base64
import html
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from farthing.planner.check import spoken
from farthing.planner.comparison import ALIGNED, ALL_ATTEMPTS, BOUNDARIES, NOT_SAID, QUANTITIES, Row
from farthing.planner.interval import Interval

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1100px;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{padding:.35rem .6rem;text-align:right;"
    "border-bottom:1px solid #ddd;vertical-align:top}th:first-child,td:first-child,td.t,th.t{text-align:left}"
    "tr.own{background:#eef6fb;font-weight:600}tr.apart td{color:#777}small{color:#777}img{max-width:100%}"
)


_MARKS = {ALIGNED: "=", ALL_ATTEMPTS: "+", NOT_SAID: "x"}
_SHORT = {"device_hours": "device-h", "usd": "dollars", "flops": "FLOP", "kwh": "kWh"}


def cells(row: Row) -> list[str]:
    """The four quantities as text; a dash where nothing was published."""
    return [_cell(getattr(row, name), name) for name in QUANTITIES]


def _cell(value: Interval | None, name: str) -> str:
    if value is None:
        return "-"
    if name == "usd" and value.low == value.high and 0 < value.low < 100:
        return f"${value.low:,.4f}" if value.low < 1 else f"${value.low:,.2f}"
    return spoken(value, money=name == "usd")


def boundary_cell(row: Row) -> str:
    return f"{_MARKS[row.boundary]} {row.boundary}"


def render_comparison(rows: Sequence[Row], console: Console) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("run", ratio=1, overflow="fold")
    table.add_column("device", no_wrap=True)
    for name in QUANTITIES:
        table.add_column(_SHORT[name], justify="right", overflow="fold", max_width=10)
    for row in rows:
        style = "bold" if row.is_own else "" if row.is_aligned else "dim"
        figures = [Text(cell) for cell in cells(row)]
        if row.kwh_method in ("modelled", "assumed"):
            figures[-1].append(" *")
        table.add_row(_MARKS[row.boundary], Text(row.name), row.device, *figures, style=style)
    console.print(table)
    for boundary, meaning in BOUNDARIES.items():
        if any(row.boundary == boundary for row in rows):
            console.print(Text(f"{_MARKS[boundary]} {boundary}: {meaning}", style="dim"))
    console.print(Text("* energy at board power (modelled) or assumed; FLOP are 6 N D unless published", style="dim"))


def html_page(rows: Sequence[Row], title: str, plot_png: bytes | None) -> str:
    """Self-contained: style and plot are inside; every text from outside is escaped."""
    head = "".join(f"<th>{html.escape(t)}</th>" for t in QUANTITIES.values())
    body = "".join(_html_row(row) for row in rows)
    picture = ""
    if plot_png is not None:
        data = base64.b64encode(plot_png).decode("ascii")
        picture = f'<img alt="the same quantities as a plot" src="data:image/png;base64,{data}">'
    legend = "".join(f"<li><b>{html.escape(b)}</b>: {html.escape(m)}</li>" for b, m in BOUNDARIES.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{picture}<table><thead><tr><th>run</th>"
        f"<th class=t>device</th>{head}<th class=t>boundary</th>"
        f"</tr></thead><tbody>{body}</tbody></table><h2>Boundaries</h2><ul>{legend}</ul>"
        "<p>Energy is at board power unless published or measured; FLOP are 6 N D unless published.</p></body></html>\n"
    )


def _html_row(row: Row) -> str:
    kind = "own" if row.is_own else "" if row.is_aligned else "apart"
    figures = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row))
    about = html.escape("; ".join(part for part in (row.source, row.note) if part))
    return (
        f'<tr class="{kind}"><td>{html.escape(row.name)}<br><small>{about}</small></td>'
        f"<td class=t>{html.escape(row.device)}</td>"
        f"{figures}<td class=t>{html.escape(boundary_cell(row))}</td></tr>"
    )
