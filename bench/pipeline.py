"""The whole R1 recipe over several seeds -> its table of checkpoints, language mixing, and what it took."""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.learning import run_dir_of, run_once
from bench.results import Figure, origin_of, write

RECIPE = "r1-tiny"
MINUTES = 20
FALLS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"), help="where the runs go; finished ones are reused")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    figures = []
    for seed in args.seeds:
        summary = run_once(RECIPE, seed, args.runs)
        path = run_dir_of(RECIPE, seed, args.runs) / "stages" / "table" / "table.json"
        rows = {row["model"]: row for row in json.loads(path.read_text())["rows"]}
        figures += [figure for model, row in rows.items() for figure in of_model(model, row, seed)]
        figures += [*claims(rows, seed), *of_run(summary, rows, seed)]
    command = f"python -m bench {RECIPE} --seeds {' '.join(map(str, args.seeds))}"
    note = "pass@1 on held-out problems of each suite, 2 samples each, at temperature 1; mixed: chains with any foreign word."
    origin = origin_of([run_dir_of(RECIPE, seed, args.runs) for seed in args.seeds])
    return write(RECIPE, command, figures, note, origin=origin)


def of_model(model: str, row: dict[str, Any], seed: int) -> list[Figure]:
    """Its pass@1 on every suite, and how its reasoning chains read."""
    found = [
        Figure(f"{model}, {suite}", r["pass_at_1"], "", r["n"], ci95=tuple(r["ci95"]), seeds=[seed])
        for suite, r in row["suites"].items()
    ]
    reasoning = row["suites"]["reasoning"]
    mixed = Figure(f"{model}, mixed", reasoning["mixed"], "share", reasoning["n"], seeds=[seed])
    return [*found, mixed, Figure(f"{model}, readable", reasoning["readable"], "share", reasoning["n"], seeds=[seed])]


def claims(rows: dict[str, dict[str, Any]], seed: int) -> list[Figure]:
    """What the paper says of R1 beside R1-Zero, at this scale."""
    zero, final = (rows[model]["suites"] for model in ("r1_zero", "r1"))
    n = final["reasoning"]["n"]
    # no mixing at all in n problems is taken as one completion of them
    falls = zero["reasoning"]["mixed"] / max(final["reasoning"]["mixed"], 1 / (n * final["reasoning"]["samples"]))
    gain = final["reasoning"]["pass_at_1"] - zero["reasoning"]["pass_at_1"]
    general = final["general"]["pass_at_1"] - zero["general"]["pass_at_1"]
    return [
        Figure("R1-Zero to R1: mixing falls by", falls, "x", n, f"at least {FALLS}x", falls >= FALLS, seeds=[seed]),
        Figure("R1-Zero to R1: reasoning", gain, "", n, "not below 0", gain >= 0, seeds=[seed]),
        Figure("R1-Zero to R1: general", general, "", final["general"]["n"], "far above 0", general >= 0.1, seeds=[seed]),
    ]


def of_run(summary: dict[str, Any], rows: dict[str, dict[str, Any]], seed: int) -> list[Figure]:
    """Time, money, and what the last training stage and the table would cost to run again."""
    minutes, usd = summary["held_s"] / 60, float(summary["total_usd"])
    again = sum(float(s["usd"]) for s in summary["stages"] if s["name"] in ("student_on_policy", "table")) / usd
    accuracy = fmean(rows["r1"]["suites"][suite]["pass_at_1"] for suite in ("reasoning", "general"))
    return [
        Figure("time", minutes, "min", 1, f"at most {MINUTES} min", minutes <= MINUTES, seeds=[seed]),
        Figure("cost", usd, "USD", 1, seeds=[seed]),
        Figure("R1, mean of reasoning and general", accuracy, "", 2, seeds=[seed]),
        Figure("the last stage and the table again", again * 100, "% of the cost", 1, "below 15%", again < 0.15, seeds=[seed]),
    ]  # fmt: skip
