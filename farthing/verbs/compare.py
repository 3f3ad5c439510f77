"""`farthing compare`: a run beside published ones, with boundaries aligned or said not to be."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def compare(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run directory; without it the published runs alone.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one HTML page that needs no other file.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write the plot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Device-hours, dollars, FLOP and energy of a run beside R1, V3, GPT-3, Llama, OLMo, nanochat and others.

    [bold]Examples[/bold]

      farthing compare runs/r1-zero-tiny-s0
      farthing compare runs/r1-zero-tiny-s0 --html compare.html --png compare.png
      farthing compare --json | jq '.[] | select(.is_aligned) | .name'
    """
    from farthing.planner.comparison import own_rows, peers
    from farthing.planner.comparison_page import html_page, render_comparison

    rows, title = list(peers()), "Published runs"
    if run is not None:
        from farthing.kept import run_info
        from farthing.summary import bill_of, open_run

        info = run_info(open_run(run))
        bill = bill_of(run).to_json()
        device = ", ".join(price["device"] for price in bill["prices"] if price["unit"] == "device-hour")
        rows, title = [*rows, *own_rows(info["name"], device, bill)], f"{info['name']} beside published runs"
    picture = None
    if png or html:
        from farthing.planner.figure import comparison_png

        picture = comparison_png(rows)
    if png and picture:
        png.write_bytes(picture)
    if html:
        html.write_text(html_page(rows, title, picture), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps([row.to_json() for row in rows], indent=2) + "\n")
        return
    console = Console()
    render_comparison(rows, console)
    for path in (png, html):
        if path:
            console.print(f"wrote {path}", highlight=False)
