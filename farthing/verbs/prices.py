"""`farthing prices`: the dated price book -> a list, one record, what changed, or a snapshot of a public catalogue."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farthing.errors import PriceError


def prices(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="One device or item, such as h800 or storage/local-disk.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="The day, YYYY-MM-DD; default today.")] = None,
    diff: Annotated[tuple[str, str] | None, typer.Option(help="Two days or two price files.", metavar="OLD NEW")] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="Write a price file from gpuhunt's catalogue (online, farthing\\[prices]).")
    ] = None,
    gpu: Annotated[list[str] | None, typer.Option(help="GPUs of the snapshot, by gpuhunt's names.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """What things cost, by which record, from which day, and who says so.

    Your own prices go into the file that this prints at its end; a record there takes the place of all shipped ones of its key.

    [bold]Examples[/bold]

      farthing prices
      farthing prices h100-80gb+spot --on 2026-10-05
      farthing prices --diff 2025-03-07 2026-10-05
      farthing prices --snapshot today.toml --gpu H100 --gpu A100
    """
    import json
    import sys

    from farthing.files import write_text
    from farthing.ledger import price_list
    from farthing.ledger.prices import load_price_book

    console, day, book = Console(), _day_of(on), load_price_book()
    if snapshot is not None:
        write_text(snapshot, price_list.snapshot(gpu or ["H100", "H200", "A100", "L4", "MI300X"], day))
        console.print(f"wrote {snapshot}; to use it: export FARTHING_PRICES={snapshot}", markup=False, highlight=False)
        return
    if diff is not None:
        changes = price_list.differences(*(price_list.side_of(side, book) for side in diff))
        if as_json:
            sys.stdout.write(json.dumps(changes, indent=2) + "\n")
        else:
            console.print(_table_of_changes(changes, *diff) if changes else "nothing changed")
        return
    found = price_list.in_force([*book.records, *book.rates], day)
    if key is not None:
        record = book.rate(key, day) if "/" in key and key in {r.key for r in book.rates} else book.price(key, day)
        found = {key: record}
    if as_json:
        sys.stdout.write(json.dumps([price_list.as_json(record) for record in found.values()], indent=2) + "\n")
        return
    console.print(_table_of_records(found))
    console.print(f"your own prices: {book.user_file}", markup=False, highlight=False, soft_wrap=True)


def _day_of(text: str | None) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text) if text else datetime.datetime.now(datetime.UTC).date()
    except ValueError as error:
        raise PriceError(f"--on takes a day such as 2026-10-05, got {text!r}") from error


def _table_of_changes(changes: list[dict[str, Any]], old: str, new: str) -> Table:
    table = Table("price", old, new, "change", box=None)
    for line in changes:
        change = "" if line["change"] is None else f"{line['change']:+.1%}"
        table.add_row(Text(line["key"]), *(line[side] or "-" for side in ("old_usd", "new_usd")), change)
    return table


def _table_of_records(found: Mapping[str, Any]) -> Table:
    from farthing.ledger.price_list import unit_price

    table = Table("key", "dollars", "per", "from", "source", box=None)
    for name, record in found.items():
        usd, unit = unit_price(record)
        stated = record.source + (" (assumed)" if record.method == "assumed" and "ssumed" not in record.source else "")
        table.add_row(Text(name), f"{usd.normalize():f}", unit, str(record.date), Text(stated))
    return table
