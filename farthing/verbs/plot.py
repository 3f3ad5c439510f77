"""`farthing plot`: a run -> its curves as pictures."""

from pathlib import Path
from typing import Annotated

import typer

from farthing.verbs.terminal import RunArg, console


def plot(
    run: RunArg,
    out: Annotated[Path | None, typer.Option(help="Folder for the files; default RUN/plots.")] = None,
) -> None:
    """Draw a run's curves as PNG and SVG.

    [bold]Example[/bold]   farthing plot runs/r1-zero-tiny-s0
    """
    from farthing.plot import plot_run
    from farthing.summary import open_run

    for path in plot_run(open_run(run), out or run / "plots"):
        console.print(str(path), highlight=False)
