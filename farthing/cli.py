"""The command line: one verb a function; each parses, calls, and prints where the result is and what it cost.

Exit codes: 0 done, 1 unexpected, 2 wrong input, 3 run directory, 4 ledger, 5 diverged, 6 disk full, 130 interrupted.
torch is imported only by the verbs that need it, so that help, bills and summaries are instant.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from farthing.config import Recipe, TaskConfig, load_recipe, parse_recipe, shipped_recipes
from farthing.errors import FarthingError, RecipeError, RunError
from farthing.verbs.data import data

app = typer.Typer(
    name="farthing",
    help="Train reasoning models the way DeepSeek-R1 was trained, and account for every farthing of it.\n\n"
    "Start with:  farthing run r1-zero-tiny",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console()
errors = Console(stderr=True)

RUNS = Path("runs")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory; see `farthing runs`.")]
ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help="A run directory, a checkpoint, or a Hugging Face folder.")]


def main() -> None:
    """Entry point: a user's mistake is a message and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except FarthingError as error:
        errors.print(f"[bold red]error:[/bold red] {type(error).__name__}: ", end="", highlight=False)
        errors.print(str(error), markup=False, highlight=False)
        sys.exit(error.exit_code)
    except OSError as error:
        # the path is in the error: no permission, not a folder, name too long
        errors.print(f"error: {error}", markup=False, highlight=False)
        sys.exit(1)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped name, a TOML file, or a run directory.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where the run lives; default runs/NAME-sSEED.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, as often as needed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default the recipe's.")] = None,
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

    Ctrl-C stops after the step with a checkpoint, twice stops at once; the same command goes on either way.
    """
    resolved, directory = _resolve(recipe, run_dir, overrides or [], seed)
    if dry_run:
        from farthing.forecast import dry_run as forecast_run

        forecast = forecast_run(resolved)
        _print_json(forecast.to_json()) if as_json else forecast.render(console)
        return
    from farthing.live import LiveTable, PlainLines, TensorBoard
    from farthing.pipeline import run_recipe

    watchers: list[Any] = [TensorBoard(directory / "tensorboard")] if tensorboard else []
    if plain or as_json or not console.is_terminal:
        # unbuffered: a log must be readable while the run goes on
        out = sys.stderr if as_json else sys.stdout
        lines = PlainLines(lambda text: print(text, file=out, flush=True))
        run_recipe(resolved, directory, [lines, *watchers])
    else:
        with LiveTable(console) as table:
            run_recipe(resolved, directory, [table, *watchers])
    _print_summary(directory, as_json)


def _resolve(recipe: str, run_dir: Path | None, overrides: list[str], seed: int | None) -> tuple[Recipe, Path]:
    path = Path(recipe)
    if (path / "run.json").is_file():
        if overrides or seed is not None or run_dir is not None:
            raise RecipeError(f"{path} is a run directory: it resumes as it began, without --set, --seed or --run-dir")
        from farthing.run import read_json

        return parse_recipe(read_json(path / "recipe.json"), where=str(path / "recipe.json")), path
    resolved = load_recipe(recipe, overrides, seed)
    return resolved, run_dir or RUNS / f"{resolved.name}-s{resolved.seed}"


@app.command()
def runs(
    root: Annotated[Path, typer.Argument(help="Folder to look in.")] = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """List the runs below a folder: status, cost, and where the weights are.

    [bold]Example[/bold]   farthing runs
    """
    from farthing.summary import find_runs, summarise_or_say

    found = [summarise_or_say(path) for path in find_runs(root)]
    if as_json:
        _print_json(found)
        return
    if not found:
        console.print(f"no runs below {root}; start one with [bold]farthing run r1-zero-tiny[/bold]")
        return
    table = Table("run", "status", "stages done", "attempts", "hours", "dollars", box=None)
    for s in found:
        done = sum(stage["status"] == "complete" for stage in s["stages"])
        hours, dollars = f"{s['held_s'] / 3600:.3f}", f"${float(s['total_usd']):.4f}"
        table.add_row(s["run_dir"], s["status"], f"{done}/{len(s['stages'])}", str(s["num_attempts"]), hours, dollars)
    console.print(table)


@app.command()
def show(run: RunArg, as_json: JsonFlag = False) -> None:
    """What a run did: stages, evaluations before and after, weights' digest.

    [bold]Examples[/bold]

      farthing show runs/r1-zero-tiny-s0
      farthing show runs/r1-zero-tiny-s0 --json | jq '.stages[1].eval.after.pass_at_1'
    """
    from farthing.summary import open_run

    _print_summary(open_run(run), as_json)


def _print_summary(run_dir: Path, as_json: bool) -> None:
    from farthing.summary import summarise_run

    summary = summarise_run(run_dir)
    if as_json:
        _print_json(summary)
        return
    console.print(f"[bold]{summary['name']}[/bold]  {summary['status']}  seed {summary['seed']}")
    stages = Table("stage", "kind", "status", "steps", "time", "dollars", box=None)
    evals = Table("held out", "pass@1", "95% CI", "pass@8", "format", "length", "n", box=None)
    for stage in summary["stages"]:
        steps, time = f"{stage['steps_done']}/{stage['num_steps']}", f"{stage['seconds']:.0f} s"
        stages.add_row(stage["name"], stage["kind"], stage["status"], steps, time, f"${float(stage['usd']):.4f}")
        for label, result in stage.get("eval", {}).items():
            evals.add_row(f"{label} {stage['name']}", *_eval_cells(result))
    console.print(stages)
    if evals.row_count:
        console.print(evals)
    console.print(f"weights sha256 {summary['weights_sha256'] or '(none yet)'}", soft_wrap=True)
    console.print(
        f"cost ${float(summary['total_usd']):.6f} for {summary['held_s']:.0f} s of this machine in "
        f"{summary['num_attempts']} attempt(s); the bill: [bold]farthing bill {run_dir}[/bold]",
        soft_wrap=True,
    )


def _eval_cells(result: dict[str, Any]) -> tuple[str, ...]:
    low, high = result["ci95"]
    return (
        f"{result['pass_at_1']:.1%}",
        f"{low:.1%} to {high:.1%}",
        "" if result["pass_at_8"] is None else f"{result['pass_at_8']:.1%}",
        f"{result['format_only']:.1%}",
        f"{result['mean_completion_tokens']:.1f}",
        str(result["n"]),
    )


@app.command()
def bill(run: RunArg, as_json: JsonFlag = False) -> None:
    """What a run cost: by stage, by attempt, what was wasted, and what is not included.

    The ledger's hash chain is checked first; a changed entry is named and nothing is billed.

    [bold]Examples[/bold]

      farthing bill runs/r1-zero-tiny-s0
      farthing bill runs/r1-zero-tiny-s0 --json | jq -r .total_usd
    """
    from farthing.ledger.bill import render_bill
    from farthing.summary import bill_of, open_run

    result = bill_of(open_run(run))
    _print_json(result.to_json()) if as_json else render_bill(result, console)


@app.command(name="eval")
def evaluate_(
    model: ModelArg,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="SOURCE:NAME?key=value; several are mixed. Default: the run's own tasks."),
    ] = None,
    num: Annotated[int, typer.Option(help="Held-out problems.", min=1)] = 256,
    samples: Annotated[int, typer.Option(help="Completions of each; pass@8 needs 8.", min=1)] = 8,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling; 1 is off.")] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(help="Longest completion; default the run's.", min=1)] = None,
    extract: Annotated[str | None, typer.Option(help="tags, boxed, last_number or text; default the run's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Accuracy on held-out problems, with its confidence interval.

    [bold]Examples[/bold]

      farthing eval runs/r1-zero-tiny-s0 --num 512
      farthing eval runs/r1-zero-tiny-s0 --task 'toy:running_total?min_terms=9&max_terms=9'
      farthing eval ./SmolLM2 --task 'gym:chain_sum?min_terms=2&max_terms=2' --extract last_number --max-tokens 64
    """
    from farthing.evaluation import evaluate_model

    result = evaluate_model(
        model, [TaskConfig(spec=t) for t in task or []], num, samples, temperature, top_p, max_tokens, extract, seed
    )
    if as_json:
        _print_json(result.to_json())
        return
    low, high = result.ci95
    console.print(f"pass@1 {result.pass_at_1:.1%} (95% CI {low:.1%} to {high:.1%}; n={result.n}, {samples} samples)")
    if result.pass_at_8 is not None:
        console.print(f"pass@8 {result.pass_at_8:.1%}")
    console.print(f"format {result.format_only:.1%}   mean length {result.mean_completion_tokens:.1f} tokens")
    for name, share in result.per_task.items():
        console.print(f"  {name}: {share:.1%}", markup=False, highlight=False)


@app.command()
def generate(
    model: ModelArg,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="A question; `-` reads standard input.")],
    samples: Annotated[int, typer.Option(help="Completions.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Complete a prompt with a model.

    [bold]Examples[/bold]

      farthing generate runs/r1-zero-tiny-s0 'a47b5c8?' --samples 4
      echo 'What is 2 + 2?' | farthing generate ./SmolLM2 - --temperature 0
    """
    from farthing.inference import complete

    text = sys.stdin.read().strip() if prompt == "-" else prompt
    completions = complete(model, text, samples, temperature, top_p, max_tokens, seed)
    if as_json:
        _print_json({"prompt": text, "completions": completions})
        return
    for completion in completions:
        console.print(completion["text"], markup=False, highlight=False)


@app.command()
def chat(
    model: ModelArg,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
) -> None:
    """Talk to a model; an empty line or Ctrl-D ends it.

    [bold]Example[/bold]   farthing chat runs/r1-zero-smollm2-s0
    """
    from farthing.inference import chat_loop

    chat_loop(model, temperature, max_tokens, console)


@app.command()
def doctor(run: RunArg, as_json: JsonFlag = False) -> None:
    """Say in words what is wrong with a run, with the evidence and the knob to turn.

    [bold]Example[/bold]   farthing doctor runs/r1-zero-tiny-s0
    """
    from farthing import doctor as diagnosis
    from farthing.summary import open_run

    findings = diagnosis.diagnose(open_run(run))
    _print_json(diagnosis.to_json(findings)) if as_json else diagnosis.render(findings, console)


@app.command()
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


@app.command()
def recipes(as_json: JsonFlag = False) -> None:
    """The recipes that ship, with what to expect of each.

    [bold]Example[/bold]   farthing recipes
    """
    loaded = {name: load_recipe(name) for name in shipped_recipes()}
    if as_json:
        keys = {"description", "expect", "runnable"}
        _print_json([{"name": n, **r.model_dump(mode="json", include=keys)} for n, r in loaded.items()])
        return
    for name, recipe in loaded.items():
        console.print(f"[bold]{name}[/bold]  {recipe.description}")
        console.print(f"  stages: {', '.join(recipe.stages)}", highlight=False)
        console.print(f"  expect: {recipe.expect}", highlight=False)


@app.command(name="import-gguf")
def import_gguf(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Llama- or Qwen-family GGUF.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Hugging Face folder to write.")],
) -> None:
    """Turn a GGUF file into a Hugging Face folder (fp32 safetensors, config, tokenizer).

    [bold]Example[/bold]   farthing import-gguf SmolLM2-135M-Instruct.Q4_1.gguf ./SmolLM2
    """
    from farthing.models.gguf import import_gguf as convert

    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; name a new folder")
    convert(file, folder)
    console.print(f"wrote {folder}; try: farthing generate {folder} 'What is 2 + 2?'", highlight=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


app.add_typer(data, name="data")
