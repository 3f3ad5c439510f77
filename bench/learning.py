"""A shipped recipe over several seeds -> held-out accuracy before and after, length, format, time."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.results import Figure, origin_of, write


@dataclass(frozen=True)
class Target:
    """What a recipe's figures are held against."""

    minutes: float
    after: float = 0.0
    before: float = 1.0
    gain: float = 0.0
    length_ratio: float = 0.0


TARGETS = {
    "r1-zero-tiny": Target(minutes=10, before=0.40, after=0.85, length_ratio=1.5),
    "r1-zero-smollm2": Target(minutes=30, gain=0.25),
}


def add_arguments(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"), help="where the runs go; finished ones are reused")
    parser.set_defaults(measure=measure, recipe=recipe)


def measure(args: argparse.Namespace) -> Path:
    runs = [run_once(args.recipe, seed, args.runs) for seed in args.seeds]
    stages = [run["stages"][-1]["eval"] for run in runs]
    target = TARGETS[args.recipe]
    command = f"python -m bench {args.recipe} --seeds {' '.join(map(str, args.seeds))}"
    figures = [
        *_per_seed(args.seeds, stages, target),
        *_times(args.seeds, runs, target),
    ]
    return write(
        args.recipe,
        command,
        figures,
        note=f"pass@1 on {stages[0]['after']['n']} held-out problems, "
        f"{stages[0]['after']['samples']} samples each, at temperature {stages[0]['after']['temperature']:g}.",
        origin=origin_of([run_dir_of(args.recipe, seed, args.runs) for seed in args.seeds]),
    )


def run_dir_of(recipe: str, seed: int, root: Path) -> Path:
    return root / f"{recipe}-s{seed}"


def run_once(recipe: str, seed: int, root: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    run_dir = run_dir_of(recipe, seed, root)
    changed = [argument for override in overrides for argument in ("--set", override)]
    words = ["run", recipe, "--seed", str(seed), "--run-dir", str(run_dir), "--plain", *changed]
    command = [sys.executable, "-m", "farthing", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return dict(_json("show", run_dir))


def _json(verb: str, run_dir: Path) -> Any:
    command = [sys.executable, "-m", "farthing", verb, str(run_dir), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _per_seed(seeds: list[int], stages: list[dict[str, Any]], target: Target) -> list[Figure]:
    figures = []
    for seed, evals in zip(seeds, stages, strict=True):
        for label in ("before", "after"):
            e = evals[label]
            bound = f"at most {target.before:.0%}" if label == "before" and target.before < 1 else ""
            if label == "after" and target.after:
                bound = f"at least {target.after:.0%}"
            reached = None
            if bound:
                reached = e["pass_at_1"] <= target.before if label == "before" else e["pass_at_1"] >= target.after
            figures.append(Figure(f"pass@1 {label}", e["pass_at_1"], "", e["n"], bound, reached, tuple(e["ci95"]), [seed]))
            figures.append(Figure(f"pass@8 {label}", e["pass_at_8"], "", e["n"], seeds=[seed]))
            figures.append(Figure(f"format {label}", e["format_only"], "", e["n"], seeds=[seed]))
            figures.append(Figure(f"length {label}", e["mean_completion_tokens"], "tokens", e["n"], seeds=[seed]))
        figures += _changes(seed, evals, target)
    return figures


def _changes(seed: int, evals: dict[str, Any], target: Target) -> list[Figure]:
    before, after = evals["before"], evals["after"]
    ratio = after["mean_completion_tokens"] / before["mean_completion_tokens"]
    gain = after["pass_at_1"] - before["pass_at_1"]
    figures = [
        Figure(
            "length ratio", ratio, "x", after["n"], f"at least {target.length_ratio:g}x" if target.length_ratio else "",
            ratio >= target.length_ratio if target.length_ratio else None, seeds=[seed],
        )
    ]  # fmt: skip
    if target.gain:
        figures.append(
            Figure("pass@1 gain", gain, "", after["n"], f"at least {target.gain:g}", gain >= target.gain, seeds=[seed])
        )
        kept = after["pass_at_8"] >= before["pass_at_8"]
        change = after["pass_at_8"] - before["pass_at_8"]
        figures.append(Figure("pass@8 change", change, "", after["n"], "not below 0", kept, seeds=[seed]))
    return figures


def _times(seeds: list[int], runs: list[dict[str, Any]], target: Target) -> list[Figure]:
    minutes = [run["held_s"] / 60 for run in runs]
    bound = f"at most {target.minutes:g} min"
    figures = [Figure("time", m, "min", 1, bound, m <= target.minutes, seeds=[s]) for s, m in zip(seeds, minutes, strict=True)]
    usd: Callable[[dict[str, Any]], float] = lambda run: float(run["total_usd"])  # noqa: E731
    return [*figures, Figure("cost, mean", fmean(map(usd, runs)), "USD", len(runs), seeds=seeds)]
