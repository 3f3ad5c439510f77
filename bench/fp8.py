"""FP8 pretraining against the same without: relative error of the loss; and what a short accumulator does to one product."""

import argparse
import json
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from bench import text
from bench.moe import interval
from bench.results import Figure, origin_of, write
from farthing.artefact import open_artefact
from farthing.models.fp8 import round_blocks
from farthing.placement import CPU
from farthing.precision import Precision, best_precision, set_precision

TARGET = 0.0025
"""What DeepSeek-V3 reports, arXiv:2412.19437, section 3.3."""
LAST_PART = 0.2
"""Of the steps, whose mean loss is compared."""
CONTROL = "1.01 x learning rate"
"""A change that nobody would call one: how far apart it lets two runs land is what fp8's error must be seen against."""
DOCUMENTS = 64
STEP_CHANNELS = 32
"""Channels that one tensor-core instruction adds up before its sum goes into the accumulator (V3, section 3.3.2: N_C = 128 is
four of them)."""
ACCUMULATOR_BITS = 14


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-fp8"), help="where the runs go; finished ones are reused")
    parser.add_argument("--quick", action="store_true", help="one seed, 10 steps, to see that it works; no report")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    if args.quick:
        args.seeds, args.steps = args.seeds[:1], 10
    kinds = variants()
    runs = text.run_all(kinds, args.seeds, args.steps, args.runs)
    curves = {key: losses(run_dir) for key, run_dir in runs.items()}
    without, *others = kinds
    figures = []
    for kind in others:
        errors = [relative_error(curves[kind, seed], curves[without, seed]) for seed in args.seeds]
        each = zip(args.seeds, errors, strict=True)
        figures += [Figure(f"loss, {kind}", error, "relative", 1, seeds=[seed]) for seed, error in each]
        figures.append(mean_figure(kind, errors, args.seeds))
    for kind in kinds:
        mean = fmean(end(curves[kind, seed]) for seed in args.seeds)
        figures.append(Figure(f"mean loss, {kind}", mean, "nats/token", len(args.seeds), seeds=args.seeds))
    changes = [reread(runs[without, seed]) for seed in args.seeds]
    figures.append(mean_figure(f"held-out, {without}'s weights in fp8", changes, args.seeds))
    figures += accumulator_figures()
    command = f"python -m bench fp8 --seeds {' '.join(map(str, args.seeds))} --steps {args.steps}"
    note = (
        f"{text.NOTE} {args.steps} steps. Loss: next-token cross-entropy in training, mean over the last {LAST_PART:.0%}, "
        f"against {without} with the same seed: equal weights at the start, equal documents in equal order. "
        f"'{CONTROL}' is {without} so changed: any two runs that differ a little part, and this is how far. Held-out loss: "
        f"{without}'s final weights on {DOCUMENTS:,} documents, multiplied in fp8 against {without}. FP8 is emulated. "
        "Accumulator: one product of two matrices, uniform in 0 to 1, over 4,096 channels; sums cut to "
        f"{ACCUMULATOR_BITS} bits every {STEP_CHANNELS}."
    )
    path = Path("runs/bench/fp8-quick.json") if args.quick else None
    return write("fp8", command, figures, note, origin=origin_of([*runs.values()]), path=path)


def variants() -> dict[str, list[str]]:
    """Name -> overrides; the first is what the others are held against."""
    compute, optim = best_precision(CPU), text.recipe_without_text().stages["base"].optim
    without = f"precision={compute}"
    return {
        compute: [without],
        "fp8": ["precision=fp8"],
        CONTROL: [without, f"base.optim.learning_rate={1.01 * optim.learning_rate:.6g}"],
    }


def losses(run_dir: Path) -> list[float]:
    """Of every step; a step that a killed attempt did before counts as the attempt that went on did it."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return list({row["step"]: float(row["loss"]) for row in rows}.values())


def reread(run_dir: Path) -> float:
    """Relative change of the held-out loss when the same weights multiply in fp8."""
    artefact = open_artefact(run_dir, "cpu")
    bits = {}
    choices: tuple[Precision, ...] = (best_precision(CPU), "fp8")
    for precision in choices:
        set_precision(artefact.model, precision)
        bits[precision] = text.bits_per_byte(run_dir, artefact, DOCUMENTS)
    return bits["fp8"] / bits[best_precision(CPU)] - 1


def end(curve: list[float]) -> float:
    return fmean(curve[-max(1, round(LAST_PART * len(curve))) :])


def relative_error(curve: list[float], reference: list[float]) -> float:
    return end(curve) / end(reference) - 1


def mean_figure(kind: str, errors: list[float], seeds: list[int]) -> Figure:
    """The target is fp8's alone: that the mean stays within it, and its interval too. One seed has no interval."""
    ci = interval(errors) if len(errors) > 1 else None
    bound, reached = "", None
    if kind == "fp8":
        bound = f"within {TARGET:.2%} either way, the interval too"
        reached = None if ci is None else max(map(abs, ci)) < TARGET
    return Figure(f"loss, {kind}, mean", fmean(errors), "relative", len(errors), bound, reached, ci, seeds)


# the accumulator -----------------------------------------------------------------------------------------------------------


def accumulator_figures() -> list[Figure]:
    """Largest error of one fp8 product against the same sums in fp64, for sums kept in different ways."""
    generator = torch.Generator().manual_seed(0)
    a, b = (round_blocks(torch.rand(64, 4096, generator=generator), (1, 128)) for _ in range(2))
    exact = a.double() @ b.double().T
    sums = {
        "fp32": a @ b.T,
        "14 bits": short_sum(a, b, promote_every=4096),
        "14 bits, promoted every 128": short_sum(a, b, promote_every=128),
    }
    errors = {name: float(((got.double() - exact) / exact).abs().max()) for name, got in sums.items()}
    notes = {"14 bits": "V3 saw nearly 2% on H800"}
    return [
        Figure(f"accumulator, {name}", e, "relative", exact.numel(), note=notes.get(name, "")) for name, e in errors.items()
    ]


def short_sum(a_MK: Tensor, b_NK: Tensor, promote_every: int) -> Tensor:
    """a b^T whose running sum keeps `ACCUMULATOR_BITS`, and is added to an fp32 one every `promote_every` channels."""
    total = running = torch.zeros(len(a_MK), len(b_NK))
    for start in range(0, a_MK.shape[1], STEP_CHANNELS):
        channels = slice(start, start + STEP_CHANNELS)
        running = cut(running + a_MK[:, channels] @ b_NK[:, channels].T)
        if (start + STEP_CHANNELS) % promote_every == 0:
            total, running = total + running, torch.zeros_like(running)
    return total + running


def cut(x: Tensor) -> Tensor:
    """fp32 with its first `ACCUMULATOR_BITS` significant bits, the rest cut off."""
    return (x.view(torch.int32) & -(1 << (24 - ACCUMULATOR_BITS))).view(torch.float32)
