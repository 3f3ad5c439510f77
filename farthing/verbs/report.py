"""`farthing report`: a run -> one HTML page about it."""

from pathlib import Path
from typing import Annotated

import typer

from farthing.verbs.terminal import RunArg, console


def report(
    run: RunArg,
    out: Annotated[Path | None, typer.Option(help="The file to write; default RUN/report.html.")] = None,
) -> None:
    """Write one HTML page about a run that needs nothing else: curves, chains, the table of models, findings, the bill.

    [bold]Examples[/bold]

      farthing report runs/r1-zero-tiny-s0
      farthing report runs/r1-zero-tiny-s0 --out r1-zero.html
    """
    from farthing.errors import RunError
    from farthing.report.page import report as page_of

    text, path = page_of(run), out or run / "report.html"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}. Give --out a file in a folder that exists") from error
    console.print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)", markup=False, highlight=False)
