"""Mixture of experts against dense with equal active parameters and tokens: held-out bits per byte, balance, tokens/s."""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from bench import text
from bench.results import Figure, origin_of, write
from farthing.artefact import open_artefact
from farthing.models.shape import ModelShape

WARM_UP = 0.1
"""Share of the steps before which balance is not looked at."""
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""97.5% quantile for n - 1 degrees of freedom, by n."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--documents", type=int, default=64, help="held-out documents")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-moe"), help="where the runs go; finished ones are reused")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    kinds = variants()
    # kinds in turn, seed by seed: a machine that drifts meets all of them
    runs = text.run_all(kinds, args.seeds, args.steps, args.runs)
    bits = {key: text.bits_per_byte(run_dir, open_artefact(run_dir), args.documents) for key, run_dir in runs.items()}
    figures = []
    for kind in kinds:
        for seed in args.seeds:
            figures.append(Figure(f"held-out, {kind}", bits[kind, seed], "bits/byte", args.documents, seeds=[seed]))
    differences = [bits["moe", seed] - bits["dense", seed] for seed in args.seeds]
    low, high = interval(differences)
    target = "below 0, the interval too"
    figures.append(
        Figure("MoE minus dense", fmean(differences), "bits/byte", len(differences), target, high < 0, (low, high), args.seeds)
    )
    for kind, bound in (("moe", "below 0.5"), ("moe, bias off", "")):
        for name, metric in (("mean of layers", "max_violation_mean"), ("worst layer", "max_violation")):
            worst = max(violation(runs[kind, seed], metric) for seed in args.seeds)
            reached = worst < 0.5 if bound else None
            figures.append(Figure(f"MaxVio, {kind}, {name}", worst, "", len(args.seeds), bound, reached, seeds=args.seeds))
    ratios = [speed(runs["moe", seed]) / speed(runs["dense", seed]) for seed in args.seeds]
    ratio = median(ratios)
    figures.append(Figure("tokens/s, MoE over dense", ratio, "x", len(ratios), "at least 0.6x", ratio >= 0.6, seeds=args.seeds))
    command = f"python -m bench moe --seeds {' '.join(map(str, args.seeds))} --steps {args.steps} --documents {args.documents}"
    note = (
        f"{text.NOTE} Dense: the same with every layer dense, as many active parameters. Held out: bits per byte of "
        f"{args.documents} modules. MaxVio: mean of the steps from {WARM_UP:.0%} on, worst seed. Tokens/s: ratio within each "
        f"seed ({', '.join(f'{r:.2f}' for r in ratios)}), their median."
    )
    return write("moe", command, figures, note=note, origin=origin_of(list(runs.values())))


def variants() -> dict[str, list[str]]:
    """Name -> overrides; the dense model's width makes its parameters at least the MoE's active ones."""
    shape = text.recipe_without_text().model.shape
    assert shape is not None, "the recipe starts from scratch"
    moe = shape.shape(vocab_size=1024)
    dense_at = {"moe": moe.moe and moe.moe.model_copy(update={"first_k_dense": moe.num_layers})}
    width = next(w for w in range(8, 1 << 14, 4) if _active(moe, dense_at | {"ffn_width": w}) >= moe.num_params(active=True))
    dense = [f"model.shape.moe.first_k_dense={moe.num_layers}", f"model.shape.ffn_width={width}"]
    return {"moe": [], "moe, bias off": ["base.experts.balance_speed=0"], "dense": dense}


def _active(shape: ModelShape, changes: dict[str, Any]) -> int:
    return shape.model_copy(update=changes).num_params(active=True)


def violation(run_dir: Path, metric: str) -> float:
    rows = _metrics(run_dir)
    return fmean(row[metric] for row in rows[round(WARM_UP * len(rows)) :])


def speed(run_dir: Path) -> float:
    return median(row["train_tokens_per_s"] for row in _metrics(run_dir))


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def interval(values: list[float]) -> tuple[float, float]:
    """95% of the mean, Student's t; one value has none."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = STUDENT_T.get(len(values), 2.365) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
