"""The page of a bill -> one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from typing import Any

from farthing.ledger.statement import (
    correction_line,
    not_refreshed,
    price_line,
    superseded_line,
    thrown_away_lines,
    usd_short,
)  # fmt: skip

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#4a6fa5;height:.7rem}
.in::before{content:"+\\00a0"}.out::before{content:"\\2212\\00a0"}ul{list-style:none;padding-left:.5rem}small{color:#666}
@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}th,td{border-color:#444}}
"""


_TEXTS = {"", "stage", "part", "means", "no.", "outcome", "run", "role", "status"}
"""Heads of columns that are no figures."""


def bill_html(page: dict[str, Any], name: str) -> str:
    """`page` is `Bill.to_json()`."""
    title = f"<h1>Bill of {escape(name)}: {usd_short(page['total_usd'])}</h1>"
    head = f"<meta charset=utf-8><title>Bill of {escape(name)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{title}{bill_body(page, 2)}</body></html>\n"


def bill_body(page: dict[str, Any], level: int) -> str:
    """All but the title, to stand in another page too; its headings are `<h{level}>` and the one below."""
    parts = [
        f"<p>Exactly ${page['total_usd']}. Boundary: {escape(page['boundary'])}.</p>",
        *(f"<p>Thrown away, {escape(what)}: {usd_short(usd)}.</p>" for what, usd in thrown_away_lines(page)),
        _heading("By stage", level),
        _stages(page),
        _heading("Under three boundaries", level),
        _boundaries(page["boundaries"], level + 1),
        _heading("Where it taught nothing", level),
        _table(
            ("part", "means", "share", "dollars"),
            (
                (p["what"].replace("_", " "), p["means"], f"{p['share']:.1%}", usd_short(p["usd"]))
                for p in page["waste"]
                if Decimal(p["usd"])
            ),
        ),
        *_gains(page, level),
        _heading("Phases", level),
        _phases(page),
        *_attempts(page, level),
        *_runs(page, level),
        *_more(page, level),
        _heading("Energy", level),
        "<p>{kwh:.4g} kWh, give or take {error_kwh:.4g} ({method}).</p>".format(**page["energy"]),
        _heading("Prices", level),
        _list((price_line(price) for price in page["prices"]), ""),
        _heading("Not in this bill", level),
        _list(page["excluded"], "out"),
        f"<p><small>{page['entries']} ledger entries, chain head {escape(page['head_hash'])}</small></p>",
    ]
    return "".join(parts)


def _heading(text: str, level: int) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def _boundaries(boundaries: Sequence[dict[str, Any]], level: int) -> str:
    names = dict.fromkeys(line["name"] for boundary in boundaries for line in boundary["lines"])
    by_name = [{line["name"]: usd_short(line["usd"]) for line in boundary["lines"]} for boundary in boundaries]
    rows = [(name, *(lines.get(name, "-") for lines in by_name)) for name in names]
    totals = ("not known" if b["usd"] is None else usd_short(b["usd"]) for b in boundaries)
    table = _table(("", *(b["name"] for b in boundaries)), [*rows, ("total", *totals)])
    notes = (f"{_heading(b['name'], level)}{_list(b['included'], 'in')}{_list(b['excluded'], 'out')}" for b in boundaries)
    return table + "".join(notes)


def _gains(page: dict[str, Any], level: int) -> list[str]:
    says = [gain["says"] for gain in page.get("gains", [])] + ([page["marginal"]["says"]] if page.get("marginal") else [])
    return [_heading("What it bought", level), _list(says, "")] if says else []


def _stages(page: dict[str, Any]) -> str:
    total = Decimal(page["total_usd"])
    rows = [
        (
            stage["name"],
            f"{stage['device_hours']:,.4g}",
            f"{stage['tokens_out']:,}",
            f"{stage['tokens_trained']:,}",
            f"{Decimal(stage['usd']) / total:.1%}" if total else "-",
            usd_short(stage["usd"]),
        )
        for stage in [*page["stages"], page | {"name": "total", "usd": page["total_usd"]}]
    ]
    return _table(("stage", "device-hours", "sampled tokens", "trained tokens", "share", "dollars"), rows)


def _attempts(page: dict[str, Any], level: int) -> list[str]:
    rows = [
        (str(a["attempt"]), a["outcome"], f"{a['seconds']:,.1f} s", usd_short(a["usd"]), usd_short(a["wasted_usd"]))
        for a in page["attempts"]
    ]
    return [_heading("Attempts", level), _table(("no.", "outcome", "held", "dollars", "thrown away"), rows)] if rows else []


def _runs(page: dict[str, Any], level: int) -> list[str]:
    rows = [
        (run["name"] + ("" if run["exists"] else " (directory gone)"), run["role"], run["status"], usd_short(run["usd"]))
        for run in page.get("runs", [])
    ]
    troubles = [f"<p>{escape(not_refreshed(trouble))}</p>" for trouble in page.get("not_refreshed", [])]
    table = _table(("run", "role", "status", "dollars"), rows)
    return [_heading("Runs on this account", level), *troubles, table] if rows else []


def _more(page: dict[str, Any], level: int) -> list[str]:
    parts = {
        "Corrections": [correction_line(line) for line in page["corrections"]],
        "Stages run again": [superseded_line(line) for line in page["superseded"]],
    }
    return [_heading(title, level) + _list(lines, "") for title, lines in parts.items() if lines]


def _phases(page: dict[str, Any]) -> str:
    held_s = page["held_s"] or 1.0
    rows = sorted(page["phases_s"].items(), key=lambda item: -item[1])
    cells = (
        f'<tr><td>{escape(phase)}</td><td style="width:60%"><div class=bar style="width:{100 * s / held_s:.2f}%"></div></td>'
        f"<td class=n>{s:,.2f} s</td><td class=n>{s / held_s:.1%}</td></tr>"
        for phase, s in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = ("" if head in _TEXTS else " class=n" for head in heads)
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(c)}</{tag}>" for kind, c in zip(kinds, cells, strict=True)) + "</tr>"

    return f"<table>{line('th', heads)}{''.join(line('td', row) for row in rows)}</table>"


def _list(lines: Iterable[str], kind: str) -> str:
    return "<ul>" + "".join(f'<li class="{kind}">{escape(line)}</li>' for line in lines) + "</ul>"
