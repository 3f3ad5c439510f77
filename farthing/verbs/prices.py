"""`farthing prices`: the dated price book -> a list, one record, what changed, or a snapshot of a public catalogue."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


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
    import datetime
    import json
    import sys

    from farthing.errors import PriceError
    from farthing.ledger import price_list
    from farthing.ledger.prices import load_price_book

    def day_of(text: str | None) -> datetime.date:
        try:
            return datetime.date.fromisoformat(text) if text else datetime.datetime.now(datetime.UTC).date()
        except ValueError as error:
            raise PriceError(f"--on takes a day such as 2026-10-05, got {text!r}") from error

    console, day, book = Console(), day_of(on), load_price_book()
    if snapshot is not None:
        snapshot.write_text(price_list.snapshot(gpu or ["H100", "H200", "A100", "L4", "MI300X"], day), encoding="utf-8")
        console.print(f"wrote {snapshot}; to use it: export FARTHING_PRICES={snapshot}", markup=False, highlight=False)
        return
    if diff is not None:
        changes = price_list.differences(*(price_list.side_of(side, book) for side in diff))
        if as_json:
            sys.stdout.write(json.dumps(changes, indent=2) + "\n")
            return
        table = Table("price", diff[0], diff[1], "change", box=None)
        for line in changes:
            change = "" if line["change"] is None else f"{line['change']:+.1%}"
            table.add_row(Text(line["key"]), *(line[side] or "-" for side in ("old_usd", "new_usd")), change)
        console.print(table if changes else "nothing changed")
        return
    found = price_list.in_force([*book.records, *book.rates], day)
    if key is not None:
        record = book.rate(key, day) if "/" in key and key in {r.key for r in book.rates} else book.price(key, day)
        found = {key: record}
    if as_json:
        sys.stdout.write(json.dumps([price_list.as_json(record) for record in found.values()], indent=2) + "\n")
        return
    table = Table("key", "dollars", "per", "from", "source", box=None)
    for name, record in found.items():
        usd, unit = price_list.unit_price(record)
        stated = record.source + (" (assumed)" if record.method == "assumed" and "ssumed" not in record.source else "")
        table.add_row(Text(name), f"{usd.normalize():f}", unit, str(record.date), Text(stated))
    console.print(table)
    console.print(f"your own prices: {book.user_file}", markup=False, highlight=False, soft_wrap=True)
