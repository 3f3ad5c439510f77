"""The whole R1 recipe over several seeds -> its table of checkpoints, language mixing, and what it took."""

import argparse
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.learning import run_dir_of, run_once
from bench.results import Figure, origin_of, write

FALLS = 10


@dataclass(frozen=True)
class Target:
    """What a recipe is held to."""

    minutes: float
    seeds: tuple[int, ...]
    mixes: bool
    """Whether its R1-Zero mixes languages, so that there is something to fall."""


RECIPES = {
    "r1-tiny": Target(20, (0, 1, 2), mixes=True),
    "r1-smollm2": Target(100, (0,), mixes=False),
}


def add_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=list(RECIPES[recipe].seeds))
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"), help="where the runs go; finished ones are reused")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="as of `farthing run`")
    parser.set_defaults(measure=lambda args: measure(recipe, args))


def measure(recipe: str, args: argparse.Namespace) -> Path:
    figures = []
    for seed in args.seeds:
        summary = run_once(recipe, seed, args.runs, args.set)
        path = run_dir_of(recipe, seed, args.runs) / "stages" / "table" / "table.json"
        rows = {row["model"]: row for row in json.loads(path.read_text())["rows"]}
        figures += [figure for model, row in rows.items() for figure in of_model(model, row, seed)]
        figures += [*claims(rows, seed, RECIPES[recipe]), *of_run(summary, rows, seed, RECIPES[recipe])]
    words = ["python -m bench", recipe, "--seeds", *map(str, args.seeds)]
    command = " ".join([*words, *(f"--set {shlex.quote(override)}" for override in args.set)])
    note = "pass@1 on held-out problems of each suite, 2 samples each, at temperature 1; mixed: chains with any foreign word."
    origin = origin_of([run_dir_of(recipe, seed, args.runs) for seed in args.seeds])
    return write(recipe, command, figures, note, origin=origin)


def of_model(model: str, row: dict[str, Any], seed: int) -> list[Figure]:
    """Its pass@1 on every suite, and how its reasoning chains read."""
    found = [
        Figure(f"{model}, {suite}", r["pass_at_1"], "", r["n"], ci95=tuple(r["ci95"]), seeds=[seed])
        for suite, r in row["suites"].items()
    ]
    reasoning = row["suites"]["reasoning"]
    mixed = Figure(f"{model}, mixed", reasoning["mixed"], "share", reasoning["n"], seeds=[seed])
    return [*found, mixed, Figure(f"{model}, readable", reasoning["readable"], "share", reasoning["n"], seeds=[seed])]


def claims(rows: dict[str, dict[str, Any]], seed: int, target: Target) -> list[Figure]:
    """What the paper says of R1 beside R1-Zero, at this scale."""
    zero, final = (rows[model]["suites"] for model in ("r1_zero", "r1"))
    n = final["reasoning"]["n"]
    # no mixing at all in n problems is taken as one completion of them
    falls = zero["reasoning"]["mixed"] / max(final["reasoning"]["mixed"], 1 / (n * final["reasoning"]["samples"]))
    gain = final["reasoning"]["pass_at_1"] - zero["reasoning"]["pass_at_1"]
    general = final["general"]["pass_at_1"] - zero["general"]["pass_at_1"]
    mixing = Figure("R1-Zero to R1: mixing falls by", falls, "x", n, f"at least {FALLS}x", falls >= FALLS, seeds=[seed])
    return [
        *([mixing] if target.mixes else []),
        Figure("R1-Zero to R1: reasoning", gain, "", n, "not below 0", gain >= 0, seeds=[seed]),
        Figure("R1-Zero to R1: general", general, "", final["general"]["n"], "far above 0", general >= 0.1, seeds=[seed]),
    ]


def of_run(summary: dict[str, Any], rows: dict[str, dict[str, Any]], seed: int, target: Target) -> list[Figure]:
    """Time, money, and what the last training stage and the table would cost to run again."""
    minutes, usd = summary["held_s"] / 60, float(summary["total_usd"])
    again = sum(float(s["usd"]) for s in summary["stages"] if s["name"] in ("student_on_policy", "table")) / usd
    accuracy = fmean(rows["r1"]["suites"][suite]["pass_at_1"] for suite in ("reasoning", "general"))
    return [
        Figure("time", minutes, "min", 1, f"at most {target.minutes:g} min", minutes <= target.minutes, seeds=[seed]),
        Figure("cost", usd, "USD", 1, seeds=[seed]),
        Figure("R1, mean of reasoning and general", accuracy, "", 2, seeds=[seed]),
        Figure("the last stage and the table again", again * 100, "% of the cost", 1, "below 15%", again < 0.15, seeds=[seed]),
    ]  # fmt: skip
