"""The page of a bill -> one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from typing import Any

from farthing.ledger.statement import superseded_line, usd_short

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#4a6fa5;height:.7rem}
.in::before{content:"+ "}.out::before{content:"\\2212 "}ul{list-style:none;padding-left:.5rem}small{color:#666}
@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}th,td{border-color:#444}}
"""


def bill_html(page: dict[str, Any], name: str) -> str:
    """`page` is `Bill.to_json()`."""
    title = f"<h1>Bill of {escape(name)}: {usd_short(page['total_usd'])}</h1>"
    head = f"<meta charset=utf-8><title>Bill of {escape(name)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{title}{bill_body(page, 2)}</body></html>\n"


def bill_body(page: dict[str, Any], level: int) -> str:
    """All but the title, to stand in another page too; its headings are `<h{level}>` and the one below."""
    parts = [
        f"<p>Exactly ${page['total_usd']}. Boundary: {escape(page['boundary'])}.</p>",
        _heading("By stage", level),
        _table(
            ("stage", "device-hours", "dollars"),
            ((s["name"], f"{s['device_hours']:,.4g}", usd_short(s["usd"])) for s in page["stages"]),
        ),
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
        _heading("Attempts", level),
        _table(
            ("no.", "outcome", "held", "dollars", "thrown away"),
            (
                (str(a["attempt"]), a["outcome"], f"{a['seconds']:,.1f} s", usd_short(a["usd"]), usd_short(a["wasted_usd"]))
                for a in page["attempts"]
            ),
        ),
        *_superseded(page, level),
        _heading("Energy", level),
        "<p>{kwh:.4g} kWh, give or take {error_kwh:.4g} ({method}).</p>".format(**page["energy"]),
        _heading("Prices", level),
        _list((f"{p['device']}: ${p['usd_per_unit']} per {p['unit']}, {p['date']}. {p['source']}" for p in page["prices"]), ""),
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


def _superseded(page: dict[str, Any], level: int) -> list[str]:
    lines = [superseded_line(line) for line in page["superseded"]]
    return [_heading("Stages run again", level), _list(lines, "")] if lines else []


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
        return "<tr>" + "".join(f"<{tag}{' class=n' if i else ''}>{escape(c)}</{tag}>" for i, c in enumerate(cells)) + "</tr>"

    return f"<table>{line('th', heads)}{''.join(line('td', row) for row in rows)}</table>"


def _list(lines: Iterable[str], kind: str) -> str:
    return "<ul>" + "".join(f'<li class="{kind}">{escape(line)}</li>' for line in lines) + "</ul>"
