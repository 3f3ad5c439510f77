"""`farthing audit`: a run's ledger in -> checks with evidence, damage with its place, and the questions that stay open."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from farthing.errors import LedgerError


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run or project directory, or a ledger's SQLite file.")],
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="A head_hash noted elsewhere: it must still be an entry of the book.")
    ] = None,
    project: Annotated[
        bool, typer.Option("--project", help="RUN is a project, or part of one: audit all its runs too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Audit a run's ledger: chain, sums, hours, prices, physics, files; what an auditor would ask.

    Reads only, and shares no code with what wrote the books. Any single changed byte is found and located.

    [bold]Examples[/bold]

      farthing audit runs/r1-zero-tiny-s0
      farthing audit runs/r1-zero-tiny-s0 --head 5d41...      # the head_hash that an older bill printed
      farthing audit my-project --project --json | jq '.checks[] | select(.status == "fail")'

    Exit code 0: nothing failed; 4: a check failed, or there is no ledger to read.
    """
    from farthing.ledger.audit.auditor import audit as audit_ledger
    from farthing.ledger.audit.auditor import project_of

    if head is not None and (len(head) != 64 or not set(head.lower()) <= set("0123456789abcdef")):
        raise LedgerError(
            f"--head is {head!r}; it must be the 64 hexadecimal digits of an entry's hash, as `farthing bill` prints them."
        )
    report = audit_ledger(project_of(run) if project else run, head, project)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        from rich.console import Console

        from farthing.ledger.audit.render import render

        render(report, Console())
    if not report.passed:
        raise typer.Exit(LedgerError.exit_code)
