"""The curves of pretrain or sft -> findings; and what any stage can suffer from."""

import math
from collections.abc import Callable
from statistics import median

from farthing.metrics import METRICS
from farthing.symptoms.curves import MIN_STEPS, TREND_STEPS, Finding, StageCurves, number

SPIKE, MIN_SPIKES = 10.0, 3
"""Times the median gradient norm, and how many steps of it."""
LOSS_RATIO = 0.95
LOSS_REBOUND = 1.2


def not_finite(c: StageCurves) -> Finding | None:
    bad = [(r["step"], name) for r in c.rows for name in METRICS if not math.isfinite(r.get(name, 0.0))]
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
    faster = c.set("optim.learning_rate", c.config.optim.learning_rate * 3)
    what = f"The loss of {c.name} does not fall"
    return Finding("problem", what, c.show("loss", "grad_norm"), faster if late <= early else c.slower())


def loss_rebound(c: StageCurves) -> Finding | None:
    means = c.stretches("loss")
    if len(c.rows) < TREND_STEPS or loss_not_falling(c) is not None:
        return None
    (best, at), (late, _) = min(means), means[-1]
    if late <= LOSS_REBOUND * best:
        return None
    evidence = f"{number(best)} nats from step {at}, {number(late)} nats at the end"
    return Finding("warning", f"The loss of {c.name} fell and then rose again", evidence, c.slower())


CORPUS_CHECKS: tuple[Callable[[StageCurves], Finding | None], ...] = (loss_not_falling, loss_rebound, gradient_spikes)
