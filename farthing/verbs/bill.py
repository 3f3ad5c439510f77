"""`farthing bill`: a run or a project -> what it cost, on the screen, as JSON, HTML, CSV, Parquet or beancount text."""

from collections.abc import Callable, Mapping
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
    from farthing.ledger.overhead import load_overhead
    from farthing.ledger.statement import render_bill

    result, book = bill_at(path, load_overhead(overhead) if overhead else None)
    written = _written(result, path.resolve().name, {"html": html, "beancount": beancount, "csv": csv, "parquet": parquet})
    proofs = _proofs(book, sign, signatures)
    if as_json:
        sys.stdout.write(json.dumps(result.to_json() | proofs, indent=2) + "\n")
        return
    console = Console()
    render_bill(result, console)
    for checkpoint in proofs.get("signatures", []):
        line = (
            f"signed on {checkpoint['at'][:10]} up to entry {checkpoint['head_seq']}: holds, by key {checkpoint['public_key']}"
        )
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if "signed" in proofs:
        console.print(f"signed entry {proofs['signed']['head_seq']} into {book.with_suffix('.signed.jsonl')}", highlight=False)
    for target in written:
        console.print(f"wrote {target}", markup=False, highlight=False)


def _written(result: Any, name: str, targets: Mapping[str, Path | None]) -> list[Path]:
    """The bill in every form that has a target; the files, in order."""
    from farthing.errors import disk_error
    from farthing.ledger.double_entry import beancount_text
    from farthing.ledger.focus import focus_rows, write_csv, write_parquet
    from farthing.ledger.html import bill_html

    forms: dict[str, Callable[[Path], object]] = {
        "html": lambda target: target.write_text(bill_html(result.to_json(), name), encoding="utf-8"),
        "beancount": lambda target: target.write_text(beancount_text(result.account, name), encoding="utf-8"),
        "csv": lambda target: write_csv(focus_rows(result.account, name), target),
        "parquet": lambda target: write_parquet(focus_rows(result.account, name), target),
    }
    wanted = {form: target for form, target in targets.items() if target is not None}
    for form, target in wanted.items():
        try:
            forms[form](target)
        except OSError as error:
            raise disk_error(target, error) from error
    return list(wanted.values())


def _proofs(book: Path, sign: Path | None, signatures: bool) -> dict[str, Any]:
    """A new signature of the ledger's head, and those that are there, checked: each where it was asked for."""
    from farthing.ledger.sign import check_signatures, sign_ledger

    proofs: dict[str, Any] = {"signed": sign_ledger(book, sign)} if sign is not None else {}
    return proofs | ({"signatures": check_signatures(book)} if signatures else {})


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
    from farthing.summary import is_running

    try:
        amount = Decimal(usd)
    except InvalidOperation as error:
        raise RunError(f"--usd takes an amount such as -0.25, got {usd!r}") from error
    book = run / "ledger.sqlite"
    if not book.is_file():
        raise RunError(f"{run} is no run directory: it has no ledger. See yours with `farthing runs`")
    if is_running(run):
        raise RunError(f"a process is working on {run}; correct its ledger when it has ended")
    with Ledger.open(book) as ledger:
        entry = enter(ledger, seq, reason, amount)
    typer.echo(f"entry {entry.seq} corrects {seq} by {entry.usd:f} USD")
