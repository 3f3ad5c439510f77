"""`farthing claim`: what somebody says a run took -> does it agree with arithmetic, prices and physics?"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from farthing.errors import DataError

if TYPE_CHECKING:
    from farthing.planner.claim import Claim


def claim(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Claims as TOML, or CSV with a row a run.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="One sentence in English; - reads it from standard input.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The library of published claims that ships with farthing.")] = False,
    model: Annotated[str | None, typer.Option(help="Name of the model, if its maker's account is to be compared.")] = None,
    devices: Annotated[str | None, typer.Option(help="How many devices.")] = None,
    device: Annotated[str | None, typer.Option(help="Kind of device: h100, a100, h800, tpu-v4, ...")] = None,
    hours: Annotated[str | None, typer.Option(help="How long they were held, in hours.")] = None,
    days: Annotated[str | None, typer.Option(help="The same in days.")] = None,
    device_hours: Annotated[str | None, typer.Option(help="Device-hours.")] = None,
    usd: Annotated[str | None, typer.Option(help="Dollars.")] = None,
    usd_per_device_hour: Annotated[str | None, typer.Option(help="Dollars for one device-hour.")] = None,
    params: Annotated[str | None, typer.Option(help="Parameters.")] = None,
    active_params: Annotated[str | None, typer.Option(help="Parameters active for a token, of a mixture of experts.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Tokens trained on.")] = None,
    flops: Annotated[str | None, typer.Option(help="Training FLOP.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp16, fp8 or fp4.")] = None,
    mfu: Annotated[str | None, typer.Option(help="Model FLOPs utilisation as a share: 0.4.")] = None,
    kwh: Annotated[str | None, typer.Option(help="Energy in kWh.")] = None,
    tco2: Annotated[str | None, typer.Option(help="Emissions in tonnes of CO2.")] = None,
    boundary: Annotated[str | None, typer.Option(help="final runs, all attempts, full development or hardware.")] = None,
    rate: Annotated[list[str] | None, typer.Option("--rate", help="CODE=dollars for one unit: CNY=0.14; repeat it.")] = None,
    prices: Annotated[Path | None, typer.Option(help="A price file to use besides the shipped one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Hold a published claim against arithmetic, dated prices and physics.

    Verdicts: consistent; consistent only if ...; inconsistent; not checkable (with what is missing).

    [bold]Examples[/bold]

      farthing claim --text "trained on 512 H800 GPUs for 80 hours at a cost of $294,000"
      farthing claim --device-hours 2.788M --device h800 --usd 5.576M --model deepseek-v3
      farthing claim --params 7B --tokens 2T --devices 64 --device a100 --days 3
      farthing claim claims.toml --json | jq -r '.[].verdict'
      farthing claim --all
    """
    figures = {
        "model": model, "devices": devices, "device": device, "hours": hours, "days": days, "device_hours": device_hours,
        "usd": usd, "usd_per_device_hour": usd_per_device_hour, "params": params, "active_params": active_params,
        "tokens": tokens, "flops": flops, "precision": precision, "mfu": mfu, "kwh": kwh, "tco2": tco2, "boundary": boundary,
    }  # fmt: skip
    given = {name: value for name, value in figures.items() if value is not None}
    if text is not None:
        given["text"] = sys.stdin.read() if text == "-" else text
    found = _claims(file, every, given, rate or [])
    from farthing.ledger.prices import load_price_book
    from farthing.planner.claims_page import render_judgement, render_library
    from farthing.planner.verdict import judge

    book = load_price_book(prices)
    judgements = [judge(one, book) for one in found]
    if as_json:
        pages = [judgement.to_json() for judgement in judgements]
        sys.stdout.write(json.dumps(pages[0] if given else pages, indent=2) + "\n")
    elif given:
        render_judgement(judgements[0], Console())
    else:
        render_library(judgements, Console())


def _claims(file: Path | None, every: bool, given: dict[str, Any], rates: list[str]) -> "list[Claim]":
    ways = [name for name, used in (("FILE", file), ("--all", every), ("--text or figures", given)) if used]
    if len(ways) != 1:
        got = f"got {' and '.join(ways)}" if ways else "got none"
        raise DataError(
            f"give one of: a FILE, --text with a sentence, figures such as --devices, or --all; {got}. "
            f"See farthing claim --help."
        )
    from farthing.planner.library import library
    from farthing.planner.records import claim_from, claims_in_file, exchange_rates

    if every:
        return list(library())
    if file is not None:
        return claims_in_file(file, exchange_rates(rates))
    return [claim_from(given, "the command line", exchange_rates(rates))]
