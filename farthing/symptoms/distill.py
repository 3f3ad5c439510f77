"""The curves of a distill stage -> findings: the student comes no nearer to its teacher, or does and is no better for it."""

from collections.abc import Callable

from farthing.symptoms.corpus import gradient_spikes, loss_rebound
from farthing.symptoms.curves import TREND_STEPS, Finding, StageCurves

MOVED = 0.95
"""Of the early distance, late; above it nothing has moved."""
SETTLED_NATS = 0.01
"""A student that begins this near to its teacher has nothing left to learn."""
NO_GAIN, GOOD = 0.02, 0.9
"""Of held-out accuracy: no gain below the first, nothing to gain above the second."""
MIN_PROBLEMS = 32


def not_moving(c: StageCurves) -> Finding | None:
    """By the divergence from the teacher where the method has one, else by the loss on its answers."""
    metric = "distill_kl" if c.values("distill_kl") else "loss"
    early, late = c.ends(metric)
    if len(c.rows) < TREND_STEPS or late <= MOVED * early or (metric == "distill_kl" and early <= SETTLED_NATS):
        return None
    what = f"The student of {c.name} does not come nearer to its teacher"
    return Finding("problem", what, c.show(metric, "grad_norm"), c.faster() if late <= 1 / MOVED * early else c.slower())


def no_better(c: StageCurves) -> Finding | None:
    """It learned to write like the teacher and not to be right."""
    before, after = c.evals.get("before", {}), c.evals.get("after", {})
    if not_moving(c) is not None or not before or not after or after["n"] < MIN_PROBLEMS:
        return None
    first, last = before["pass_at_1"], after["pass_at_1"]
    if last - first > NO_GAIN or last >= GOOD:
        return None
    what = f"{c.name} comes nearer to its teacher and answers no better"
    evidence = f"held-out {first:.1%} -> {last:.1%}; {c.show('loss')}"
    return Finding("warning", what, evidence, "more of the teacher's answers, more passes over them, or a larger student")


DISTILL_CHECKS: tuple[Callable[[StageCurves], Finding | None], ...] = (not_moving, no_better, loss_rebound, gradient_spikes)
