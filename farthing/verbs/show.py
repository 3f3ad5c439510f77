"""`farthing runs` and `farthing show`: run directories -> what they did."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from farthing.verbs.terminal import RUNS, JsonFlag, RunArg, console, print_json


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
        print_json(found)
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


def show(run: RunArg, as_json: JsonFlag = False) -> None:
    """What a run did: stages, evaluations before and after, weights' digest.

    [bold]Examples[/bold]

      farthing show runs/r1-zero-tiny-s0
      farthing show runs/r1-zero-tiny-s0 --json | jq '.stages[1].eval.after.pass_at_1'
    """
    from farthing.summary import open_run

    print_summary(open_run(run), as_json)


def print_summary(run_dir: Path, as_json: bool) -> None:
    """What `show` prints, and `run` at its end."""
    from farthing.summary import summarise_run

    summary = summarise_run(run_dir)
    if as_json:
        print_json(summary)
        return
    console.print(f"[bold]{summary['name']}[/bold]  {summary['status']}  seed {summary['seed']}")
    stages = Table("stage", "kind", "status", "steps", "time", "dollars", box=None)
    evals = Table("held out", "pass@1", "95% CI", "pass@8", "format", "length", "n", box=None)
    for stage in summary["stages"]:
        steps, time = f"{stage['steps_done']}/{stage['num_steps']}", f"{stage['seconds']:.0f} s"
        stages.add_row(stage["name"], stage["kind"], stage["status"], steps, time, f"${float(stage['usd']):.4f}")
        for label, result in stage.get("eval", {}).items():
            if "pass_at_1" in result:
                evals.add_row(f"{label} {stage['name']}", *_eval_cells(result))
    console.print(stages)
    if evals.row_count:
        console.print(evals)
    for stage in summary["stages"]:
        if "num_samples" in stage:
            line = f"{stage['name']} kept {stage['num_samples']:,} samples: {stage['file']}"
            console.print(line, markup=False, soft_wrap=True)
        if stage.get("table"):
            console.print(_table_of_models(stage["table"]))
    if reward_models := [s for s in summary["stages"] if "preferences" in s]:
        console.print(_reward_models(reward_models))
    console.print(f"weights sha256 {summary['weights_sha256'] or '(none yet)'}", soft_wrap=True)
    console.print(
        f"cost ${float(summary['total_usd']):.6f} for {summary['held_s']:.0f} s of this machine in "
        f"{summary['num_attempts']} attempt(s); the bill: [bold]farthing bill {run_dir}[/bold]",
        soft_wrap=True,
    )


def _reward_models(stages: list[dict[str, Any]]) -> Table:
    """Held-out accuracy of reward models, of pairs whose longer and whose shorter reply is chosen, and score against length."""
    table = Table("reward model", "held out", "95% CI", "if longer", "if shorter", "length r", "n", box=None)
    for stage in stages:
        found = stage["preferences"]
        low, high = found["ci95"]
        sides = [f"{found[key]:.1%}" if key in found else "" for key in ("accuracy_longer_chosen", "accuracy_shorter_chosen")]
        cells = (f"{found['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", *sides, f"{found['length_correlation']:+.2f}")
        table.add_row(stage["name"], *cells, str(found["n"]))
    return table


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


def _table_of_models(rows: list[dict[str, Any]]) -> Table:
    """The table of an `evaluate` stage: a row a model, pass@1 with its interval for every suite, and dollars."""
    suites = list(rows[0]["suites"])
    table = Table("model", *(f"{suite}, 95% CI" for suite in suites), "length", "dollars", "with inputs", box=None)
    for row in rows:
        results = [row["suites"][suite] for suite in suites]
        shares = [f"{r['pass_at_1']:.1%} ({r['ci95'][0]:.1%} to {r['ci95'][1]:.1%})" for r in results]
        length = f"{results[0]['mean_completion_tokens']:.1f}"
        table.add_row(row["model"], *shares, length, f"${float(row['usd']):.4f}", f"${float(row['usd_cumulative']):.4f}")
    return table
