"""The curves of pretrain, sft or any stage with a loss -> findings; and what any stage can suffer from."""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from farthing.symptoms.curves import MIN_STEPS, TREND_STEPS, Finding, StageCurves, number, unit

SPIKE, MIN_SPIKES = 10.0, 3
"""Times the median gradient norm, and how many steps of it."""
LOSS_RATIO = 0.95
LOSS_REBOUND = 1.2
BLOW_UP, BLOW_UP_NATS = 1.5, 0.5
"""Times where it began, and by so much at least: no healthy loss rises so far."""
HELD_OUT_LOSSES = ("held_out_loss", "held_out_bits_per_byte")
EVAL_LOSS_RISE = 1.05
"""Times its least value: held-out loss then rises."""
EVAL_FALL, MIN_EVALS = 0.15, 4
"""Of held-out accuracy, pairs of quick evaluations apart: more than their noise."""


def not_finite(c: StageCurves) -> Finding | None:
    names = c.metrics()
    bad = [(r["step"], name) for r in c.rows for name in names if not math.isfinite(r.get(name, 0.0))]
    if not bad:
        return None
    step, name = bad[0]
    what = f"{c.name} has logged NaN or infinity: training has diverged"
    return Finding("problem", what, f"{name} first, at step {step}; {len(bad)} values in all", c.slower())


def gradient_spikes(c: StageCurves) -> Finding | None:
    points = [(step, value) for step, value in c.points("grad_norm") if value > 0]
    points = points[len(points) // 10 :]  # the first steps from random weights are always steep
    if len(points) < MIN_STEPS:
        return None
    middle = median(value for _, value in points)
    spikes = [(step, value) for step, value in points if value > SPIKE * middle]
    if len(spikes) < MIN_SPIKES:
        return None
    step, worst = max(spikes, key=lambda p: p[1])
    what = f"The gradient norm of {c.name} spikes: the learning rate is near its limit"
    evidence = f"{len(spikes)} steps above {SPIKE:g} times the median {number(middle)}; {number(worst)} at step {step}"
    return Finding("warning", what, evidence, c.slower())


def loss_not_falling(c: StageCurves) -> Finding | None:
    early, late = c.ends("loss")
    if len(c.rows) < TREND_STEPS or late <= LOSS_RATIO * early:
        return None
    what = f"The loss of {c.name} does not fall"
    return Finding("problem", what, c.show("loss", "grad_norm"), c.faster() if late <= early else c.slower())


def loss_rebound(c: StageCurves) -> Finding | None:
    means = c.stretches("loss")
    if len(c.rows) < TREND_STEPS or loss_not_falling(c) is not None:
        return None
    (best, at), (late, _) = min(means), means[-1]
    if late <= LOSS_REBOUND * best:
        return None
    evidence = f"{number(best)} nats from step {at}, {number(late)} nats at the end"
    return Finding("warning", f"The loss of {c.name} fell and then rose again", evidence, c.slower())


def loss_blew_up(c: StageCurves) -> Finding | None:
    """It fell again, or the checks above would speak: but what the model knew at the start was lost."""
    points, means = c.points("loss"), c.stretches("loss")
    if not means or any(check(c) is not None for check in (loss_not_falling, loss_rebound)):
        return None
    (_, begin), (worst, at) = points[0], max(means)
    if worst <= BLOW_UP * begin or worst - begin < BLOW_UP_NATS:
        return None
    evidence = f"{number(begin)} nats at step {points[0][0]}, {number(worst)} from step {at}, {number(means[-1][0])} at the end"
    return Finding("warning", f"The loss of {c.name} first rose far above where it began", evidence, c.slower())


def overfitting(c: StageCurves) -> Finding | None:
    """The training loss goes on falling; held-out loss has turned, or held-out answers get worse."""
    early, late = c.ends("loss")
    if late >= early:
        return None
    turned = (_loss_turned(c, metric) for metric in HELD_OUT_LOSSES)
    found = next((t for t in turned if t is not None), None) or _accuracy_turned(c.points("eval_accuracy"))
    if found is None:
        return None
    best, evidence = found
    what = f"{c.name} overfits: it learns its documents by heart"
    return Finding("warning", what, f"{evidence}; {c.show('loss')}", c.set("num_steps", best + 1))


def _loss_turned(c: StageCurves, metric: str) -> tuple[int, str] | None:
    """(step of the best, evidence)."""
    points = c.points(metric)
    if len(points) < MIN_EVALS:
        return None
    (best, least), last = min(points, key=lambda p: p[1]), points[-1][1]
    evidence = f"held-out loss {number(least)}{unit(metric)} at step {best}, {number(last)} at step {points[-1][0]}"
    return (best, evidence) if last > EVAL_LOSS_RISE * least else None


def _accuracy_turned(points: list[tuple[int, float]]) -> tuple[int, str] | None:
    if len(points) < MIN_EVALS:
        return None
    pairs = [(step, (before + value) / 2) for (_, before), (step, value) in pairwise(points)]
    (best, most), (end, last) = max(pairs, key=lambda p: p[1]), pairs[-1]
    evidence = f"held-out accuracy {number(most)} about step {best}, {number(last)} about step {end}"
    return (best, evidence) if most - last >= EVAL_FALL else None


CORPUS_CHECKS: tuple[Callable[[StageCurves], Finding | None], ...] = (
    loss_not_falling, loss_rebound, loss_blew_up, gradient_spikes, overfitting,
)  # fmt: skip
