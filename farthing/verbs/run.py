"""`farthing run`: a recipe -> a run, live; or what it would take."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.errors import RecipeError
from farthing.verbs.show import print_summary
from farthing.verbs.terminal import RUNS, JsonFlag, console, print_json

if TYPE_CHECKING:
    from farthing.config import Recipe


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name, a TOML file, or a run directory.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where the run lives; default runs/NAME-sSEED.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, as often as needed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default the recipe's.")] = None,
    only: Annotated[str, typer.Option(metavar="STAGE", help="Run this stage alone; what it reads must be done.")] = "",
    again_from: Annotated[str, typer.Option("--from", metavar="STAGE", help="Run it and all that depend on it again.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and what it would take.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live table, for logs.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write curves for tensorboard.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train by a recipe; a run directory that exists is resumed.

    [bold]Examples[/bold]

      farthing run r1-zero-tiny
      farthing run r1-zero-tiny --seed 1 --set r1_zero.num_steps=30
      farthing run my.toml --run-dir runs/mine --plain > log.txt
      farthing run r1-zero-smollm2 --dry-run
      farthing run r1-zero-tiny --set r1_zero.group_size=16    (only r1_zero runs again)

    Where the recipe of a stage has changed, that stage and those that depend on it run again, and nothing else; --dry-run says
    which. Ctrl-C stops after the step with a checkpoint, twice stops at once; the same command goes on either way.
    """
    resolved, directory = resolve(recipe, run_dir, overrides or [], seed)
    if dry_run:
        from farthing.forecast import dry_run as forecast_run

        forecast = forecast_run(resolved, directory, only, again_from)
        print_json(forecast.to_json()) if as_json else forecast.render(console)
        return
    from farthing.live import LiveTable, PlainLines, TensorBoard
    from farthing.pipeline import run_recipe

    watchers: list[Any] = [TensorBoard(directory / "tensorboard")] if tensorboard else []
    if plain or as_json or not console.is_terminal:
        # unbuffered: a log must be readable while the run goes on
        out = sys.stderr if as_json else sys.stdout
        lines = PlainLines(lambda text: print(text, file=out, flush=True))
        run_recipe(resolved, directory, [lines, *watchers], only, again_from)
    else:
        with LiveTable(console) as table:
            run_recipe(resolved, directory, [table, *watchers], only, again_from)
    print_summary(directory, as_json)


def resolve(recipe: str, run_dir: Path | None, overrides: list[str], seed: int | None) -> tuple["Recipe", Path]:
    """(recipe, run directory) of a name, a file or a run directory. RecipeError where it is none of them."""
    from farthing.config import load_recipe, parse_recipe

    path = Path(recipe)
    if (path / "run.json").is_file():
        if overrides or seed is not None or run_dir is not None:
            raise RecipeError(f"{path} is a run directory: it resumes as it began, without --set, --seed or --run-dir")
        from farthing.files import read_json

        return parse_recipe(read_json(path / "recipe.json"), where=str(path / "recipe.json")), path
    resolved = load_recipe(recipe, overrides, seed)
    return resolved, run_dir or RUNS / f"{resolved.name}-s{resolved.seed}"
