"""`farthing project`: runs that belong together -> one account, on which sweeps, failures and deleted runs stay."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Group runs into one account.\n\n[bold]Example[/bold]   farthing project add projects/r1 runs/* --as experiment",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
ProjectArg = Annotated[Path, typer.Argument(metavar="PROJECT", help="The project's folder; `add` makes it.")]


@app.command()
def add(
    project: ProjectArg,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    role: Annotated[str | None, typer.Option("--as", help="final, experiment, data or evaluation; new runs are final.")] = None,
) -> None:
    """Put runs on the project's account, or bring what it knows of them up to date.

    A run whose recipe says project = "PROJECT" enters itself whenever an attempt of it ends.

    [bold]Examples[/bold]

      farthing project add projects/r1 runs/r1-zero-tiny-s0
      farthing project add projects/r1 runs/sweep-* --as experiment
    """
    from farthing.ledger.projects import enter_run, open_project

    with open_project(project, create=True) as book:
        for run in runs:
            entered = enter_run(book, run, role)
            typer.echo(f"{run}: {'entered' if entered else 'unchanged'}")


@app.command()
def show(
    project: ProjectArg,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """The runs of a project with role, status and dollars; `farthing bill PROJECT` is the whole bill.

    [bold]Example[/bold]   farthing project show projects/r1
    """
    import json
    import sys

    from farthing.billing import bill_at
    from farthing.ledger.projects import open_project

    open_project(project).close()
    page = bill_at(project)[0].to_json()
    if as_json:
        sys.stdout.write(json.dumps({"total_usd": page["total_usd"], "runs": page["runs"]}, indent=2) + "\n")
        return
    for run in page["runs"]:
        gone = "" if run["exists"] else "   (directory gone; its figures stay)"
        typer.echo(f"{run['name']}   {run['role']}   {run['status']}   ${float(run['usd']):.6f}{gone}")
    typer.echo(f"total ${page['total_usd']}")


@app.command()
def expense(
    project: ProjectArg,
    usd: Annotated[str, typer.Option(help="The amount, such as 120.50.")],
    what: Annotated[str, typer.Option(help="What it was for.")],
    source: Annotated[str, typer.Option(help="Where the amount is from, such as an invoice number.")],
    purpose: Annotated[str, typer.Option(help="data, evaluation, experiment, train, ...; empty for staff and the like.")] = "",
) -> None:
    """Enter an amount that no meter sees: labelling, a data set, an invoice.

    [bold]Example[/bold]

      farthing project expense projects/r1 --usd 1200 --what labelling --source 'invoice 17' --purpose data
    """
    from decimal import Decimal, InvalidOperation

    from farthing.errors import RecipeError
    from farthing.ledger.charges import charge_expense
    from farthing.ledger.projects import open_project

    try:
        amount = Decimal(usd)
    except InvalidOperation as error:
        raise RecipeError(f"--usd takes an amount such as 120.50, got {usd!r}") from error
    with open_project(project, create=True) as book:
        entry = charge_expense(book, amount, what=what, source=source, purpose=purpose)
    typer.echo(f"entry {entry.seq}: {entry.usd:f} USD for {what}")
