"""`farthing profile`: a recipe -> where the time and memory of its steps go."""

from pathlib import Path
from typing import Annotated

import typer

from farthing.errors import RecipeError
from farthing.verbs.run import resolve
from farthing.verbs.terminal import JsonFlag, console, print_json


def profile(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name, a TOML file, or a run directory.")],
    stage: Annotated[str | None, typer.Option(help="Default the recipe's last.")] = None,
    steps: Annotated[int, typer.Option(help="Steps to take the time of.", min=1)] = 3,
    trace: Annotated[Path | None, typer.Option(help="Write one step's trace here, for ui.perfetto.dev.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, as often as needed.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Where a step's time and memory go: phases, operators, share of the machine's limits.

    Real steps of the stage run in a scratch directory. A run directory starts from the model that the stage before left,
    a recipe from its own source: an untrained model completes at greatest length.

    [bold]Examples[/bold]

      farthing profile r1-zero-tiny
      farthing profile runs/r1-zero-tiny-s0 --trace trace.json
      farthing profile r1-zero-smollm2 --steps 1 --set r1_zero.num_prompts=2
    """
    from farthing import profiling

    is_run = (Path(recipe) / "run.json").is_file()
    if is_run and overrides:
        raise RecipeError(f"{recipe} is a run directory: it is profiled as it ran, without --set")
    resolved, run_dir = resolve(recipe, None, overrides or [], None)
    base = profiling.model_before(resolved, stage, run_dir) if is_run else None
    found = profiling.profile_recipe(resolved, stage, steps, base, trace, run_dir if is_run else None)
    print_json(found.to_json()) if as_json else profiling.render(found, console)
    if trace is not None and not as_json:
        console.print(f"trace of one step: {trace}; open it in https://ui.perfetto.dev", highlight=False)
