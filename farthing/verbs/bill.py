"""`farthing bill`: a run or a project -> what it cost, on the screen, as JSON, HTML, CSV, Parquet or beancount text."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from farthing.errors import RunError


def bill(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|PROJECT", help="A run directory, or a folder made by `farthing project`.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
    overhead: Annotated[
        Path | None, typer.Option(help="TOML with staff, overhead, energy and hardware terms; see below.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one HTML file that needs nothing else.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write rows in FOCUS columns, ours with x_ in front.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="The same as Parquet; needs farthing\\[data].")] = None,
    beancount: Annotated[Path | None, typer.Option(help="Write a beancount file with a balance assertion.")] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Sign the ledger's head with this Ed25519 key; made if it is not there.")
    ] = None,
    signatures: Annotated[bool, typer.Option("--signatures", help="Prove the signed checkpoints beside the ledger.")] = False,
) -> None:
    """What a run or a project cost, under three boundaries, with what is in each figure and what is not.

    The ledger's hash chain is checked first; a changed entry is named and nothing is billed.

    [bold]Examples[/bold]

      farthing bill runs/r1-zero-tiny-s0
      farthing bill runs/r1-zero-tiny-s0 --json | jq -r .total_usd
      farthing bill runs/r1-zero-tiny-s0 --overhead costs.toml --html bill.html --csv bill.csv
      farthing bill projects/r1 --beancount r1.beancount
      farthing bill runs/r1-zero-tiny-s0 --sign ~/.farthing-key.pem

    [bold]costs.toml[/bold]   every table is optional, `source` never is

      \\[hardware] usd_per_device_hour = "1.10"      source = "leasing contract"
      \\[energy] usd_per_kwh = "0.12" pue = "1.3"    source = "utility invoice"
      \\[\\[staff]] role = "engineer" hours = 320 usd_per_hour = 100    source = "payroll"
      \\[\\[overhead]] what = "office" percent = 15    source = "accounting"
    """
    import json
    import sys

    from farthing.billing import bill_at
    from farthing.ledger.double_entry import beancount_text
    from farthing.ledger.focus import focus_rows, write_csv, write_parquet
    from farthing.ledger.html import bill_html
    from farthing.ledger.overhead import load_overhead
    from farthing.ledger.statement import render_bill

    result, book = bill_at(path, load_overhead(overhead) if overhead else None)
    name = path.resolve().name
    written: list[Path] = []

    def keep(target: Path | None, text: str) -> None:
        if target is not None:
            target.write_text(text, encoding="utf-8")
            written.append(target)

    if html is not None:
        keep(html, bill_html(result.to_json(), name))
    if beancount is not None:
        keep(beancount, beancount_text(result.account, name))
    for target, write in ((csv, write_csv), (parquet, write_parquet)):
        if target is not None:
            write(focus_rows(result.account, name), target)
            written.append(target)
    page: dict[str, Any] = {}
    if sign is not None:
        from farthing.ledger.sign import sign_ledger

        page["signed"] = sign_ledger(book, sign)
    if signatures:
        from farthing.ledger.sign import check_signatures

        page["signatures"] = check_signatures(book)
    if as_json:
        sys.stdout.write(json.dumps(result.to_json() | page, indent=2) + "\n")
        return
    console = Console()
    render_bill(result, console)
    for checkpoint in page.get("signatures", []):
        line = (
            f"signed on {checkpoint['at'][:10]} up to entry {checkpoint['head_seq']}: holds, by key {checkpoint['public_key']}"
        )
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if "signed" in page:
        console.print(f"signed entry {page['signed']['head_seq']} into {book.with_suffix('.signed.jsonl')}", highlight=False)
    for target in written:
        console.print(f"wrote {target}", markup=False, highlight=False)


def correct(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that no process is working on.")],
    seq: Annotated[int, typer.Argument(help="Number of the entry that is wrong.")],
    usd: Annotated[str, typer.Option(help="What to add to the bill, such as -0.25; the wrong entry itself stays.")],
    reason: Annotated[str, typer.Option(help="What was wrong.")],
) -> None:
    """Enter a correction: a new entry that changes the sums; the wrong one stays.

    [bold]Example[/bold]   farthing correct runs/r1-zero-tiny-s0 17 --usd=-0.0002 --reason 'spot price refunded'
    """
    from decimal import Decimal, InvalidOperation

    from farthing.ledger.charges import correct as enter
    from farthing.ledger.entries import Ledger

    try:
        amount = Decimal(usd)
    except InvalidOperation as error:
        raise RunError(f"--usd takes an amount such as -0.25, got {usd!r}") from error
    book = run / "ledger.sqlite"
    if not book.is_file():
        raise RunError(f"{run} is no run directory: it has no ledger. See yours with `farthing runs`")
    with Ledger.open(book) as ledger:
        entry = enter(ledger, seq, reason, amount)
    typer.echo(f"entry {entry.seq} corrects {seq} by {entry.usd:f} USD")
