"""A student distilled from a teacher against its twin trained by RL alone for as many device-hours: the paper's comparison.

DeepSeek-R1 (arXiv:2501.12948, section 6): distilled small models beat the same models trained by large-scale RL. Both students
start from one base. RL alone gets, first, the hours that distilling took; then, going on, also all hours that the teacher took.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.moe import interval
from bench.results import Figure, origin_of, write

RECIPE = "distill-tiny"
TEACHER = ("base", "r1_zero", "rejection")
"""All that the student needs of others: the teacher's own base, its RL, its answers."""
BEFORE = (*TEACHER, "student_base", "distilled")
ALONE, ALONE_LONGER = "RL alone", "RL alone, with the teacher's hours"
BUDGET_REACHED = 7
LATE, LATE_H = 1.1, 5 / 3600
"""How far over its budget RL alone may be and still count as equal: its last step ends, and a checkpoint is written."""
SMALL_EVAL = "{num_problems=16, samples=1}"
SETTINGS = (
    *(f"{stage}.eval={SMALL_EVAL}" for stage in ("r1_zero", "distilled", "student_zero")),
    "student_zero.num_steps=100000",
)
"""Held-out accuracy is measured outside of the run: a full evaluation would weigh more than distilling does."""
EASY = "[{ spec = 'toy:running_total', config = { min_terms = 2, max_terms = 2 } }]"
QUICK = (
    "threads=1", "model.shape.width=64", "model.shape.num_layers=2", "model.shape.num_heads=2", "model.shape.num_kv_heads=2",
    "base.num_steps=250", "student_base.num_steps=60", "r1_zero.num_steps=3", "rejection.num_steps=1", "distilled.epochs=1",
    *(f"{stage}.tasks={EASY}" for stage in (*BEFORE, "student_zero")),
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Of one seed: held-out evaluations, and what the stages took."""

    evals: Mapping[str, Mapping[str, Any]]
    """Model -> what `farthing eval --json` says of it; for RL alone its hours too."""
    hours: Mapping[str, float]
    usd: Mapping[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num", type=int, default=512, help="held-out problems")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-distill"), help="where they go; what is done is reused")
    parser.add_argument("--quick", action="store_true", help="one seed of everything in small: a trial, not for the report")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    if args.quick:
        args.seeds, args.num, args.samples, args.runs = args.seeds[:1], 64, 2, args.runs / "quick"
    found = {seed: measure_seed(seed, args) for seed in args.seeds}
    figures = [figure for seed, measured in found.items() for figure in of_seed(seed, measured)]
    figures += between(found)
    command = f"python -m bench distill --seeds {' '.join(map(str, args.seeds))} --num {args.num} --samples {args.samples}"
    note = (
        f"{RECIPE}: pass@1 on {args.num} held-out problems, {args.samples} samples each, temperature 1. RL alone starts from "
        "the distilled student's base and stops at a budget of device-hours. The teacher's hours are those of its base, its RL "
        "and its answers; in-run evaluations are cut to a minimum on both sides."
    )
    origin = origin_of([run_dir_of(seed, args) for seed in args.seeds])
    return write("distill", command, figures, note, origin=origin, path=args.runs / "distill.json" if args.quick else None)


# one seed -------------------------------------------------------------------------------------------------------------------


def run_dir_of(seed: int, args: argparse.Namespace) -> Path:
    return Path(args.runs) / f"{RECIPE}-s{seed}"


def measure_seed(seed: int, args: argparse.Namespace) -> Measured:
    run_dir = run_dir_of(seed, args)
    for stage in BEFORE:
        if not (run_dir / "stages" / stage / "result.json").is_file():
            run_stage(stage, seed, args)
    hours, usd = held(run_dir)
    taught = hours["distilled"] + sum(hours[stage] for stage in TEACHER)
    models = {"teacher": "r1_zero", "student's base": "student_base", "distilled": "distilled"}
    evals = {model: evaluated(run_dir, stage, args) for model, stage in models.items()}
    for label, budget in ((ALONE, hours["distilled"]), (ALONE_LONGER, taught)):
        evals[label] = rl_alone(run_dir, seed, budget, args)
    return Measured(evals, hours, usd)


def run_stage(stage: str, seed: int, args: argparse.Namespace, *more: str) -> None:
    """One stage of the recipe in a process of its own, up to its end or to its budget."""
    command = [sys.executable, "-m", "farthing", "run", RECIPE, "--seed", str(seed), "--run-dir", str(run_dir_of(seed, args))]
    for setting in (*SETTINGS, *(QUICK if args.quick else ()), *more):
        command += ["--set", setting]
    code = subprocess.run([*command, "--only", stage, "--plain"], stdout=sys.stderr, check=False).returncode
    if code not in (0, BUDGET_REACHED):
        raise SystemExit(f"{stage} of seed {seed} left with exit code {code}")


def rl_alone(run_dir: Path, seed: int, budget_hours: float, args: argparse.Namespace) -> Mapping[str, Any]:
    """Trains the student's twin up to a budget, from where it is -> its evaluation, and the hours it has come to."""
    kept = run_dir.with_name(f"{run_dir.name}-rl-{budget_hours * 3600:.0f}s.json")
    if not kept.is_file():
        run_stage("student_zero", seed, args, f"student_zero.budget_hours={budget_hours!r}")
        hours = held(run_dir)[0]["student_zero"]
        if hours > LATE * budget_hours + LATE_H:
            raise SystemExit(f"{run_dir} has {hours:.4f} h of RL alone already, of {budget_hours:.4f} h allowed; remove it")
        newest = max((run_dir / "checkpoints" / "student_zero").glob("step-*"))
        kept.write_text(json.dumps(farthing_eval(newest, args) | {"hours": hours}))
    return dict(json.loads(kept.read_text()))


def evaluated(run_dir: Path, stage: str, args: argparse.Namespace) -> Mapping[str, Any]:
    """What the model that `stage` left comes to, measured once."""
    kept = run_dir.with_name(f"{run_dir.name}-{stage}.json")
    if not kept.is_file():
        kept.write_text(json.dumps(farthing_eval(run_dir / "stages" / stage / "model", args)))
    return dict(json.loads(kept.read_text()))


def farthing_eval(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    return dict(_json("eval", model, "--num", str(args.num), "--samples", str(args.samples)))


def held(run_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """(device-hours, dollars) of every stage so far."""
    stages = _json("show", run_dir)["stages"]
    return {s["name"]: s["seconds"] / 3600 for s in stages}, {s["name"]: float(s["usd"]) for s in stages}


def _json(verb: str, path: Path, *args: str) -> Any:
    command = [sys.executable, "-m", "farthing", verb, str(path), *args, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


# figures --------------------------------------------------------------------------------------------------------------------


def of_seed(seed: int, measured: Measured) -> list[Figure]:
    hours, usd = measured.hours, measured.usd
    accuracies = [
        Figure(f"pass@1, {model}", e["pass_at_1"], "", e["n"], ci95=tuple(e["ci95"]), seeds=[seed])
        for model, e in measured.evals.items()
    ]
    return [
        *accuracies,
        Figure("device-hours, distilling", hours["distilled"], "h", 1, seeds=[seed]),
        Figure("device-hours, RL alone", measured.evals[ALONE]["hours"], "h", 1, seeds=[seed]),
        Figure(f"device-hours, {ALONE_LONGER}", measured.evals[ALONE_LONGER]["hours"], "h", 1, seeds=[seed]),
        Figure("device-hours, the teacher", sum(hours[stage] for stage in TEACHER), "h", 1, seeds=[seed]),
        Figure("cost of the teacher", sum(usd[stage] for stage in TEACHER), "USD", 1, seeds=[seed]),
        Figure("cost of distilling", usd["distilled"], "USD", 1, seeds=[seed]),
    ]


def between(found: Mapping[int, Measured]) -> list[Figure]:
    """Distilled minus RL alone over the seeds: the claim, and what is left of it where the teacher is counted too."""
    seeds, figures = list(found), []
    for label, name, target in (
        (ALONE, "distilled minus RL alone, equal device-hours", "above 0, the interval too"),
        (ALONE_LONGER, "distilled minus RL alone that has the teacher's hours too", ""),
    ):
        gains = [m.evals["distilled"]["pass_at_1"] - m.evals[label]["pass_at_1"] for m in found.values()]
        ci95 = interval(gains) if len(gains) > 1 else None
        reached = ci95[0] > 0 if ci95 and target else None
        figures.append(Figure(name, fmean(gains), "", len(gains), target, reached, ci95, seeds))
    return figures
