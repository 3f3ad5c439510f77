"""The curves of a stage with a reward model -> findings: the score is tricked, or it never was one."""

from collections.abc import Callable

from farthing.config import AlignConfig, RewardModelConfig
from farthing.stages.hacking import find_hacking
from farthing.symptoms.corpus import gradient_spikes
from farthing.symptoms.curves import Finding, StageCurves, number

CHANCE = 0.55
"""Of pairs, right by guessing: a half."""
LENGTH_CORRELATION = 0.5


def reward_hacking(c: StageCurves) -> Finding | None:
    """What the stage's own watch saw while it ran, and what it sees in the finished curves."""
    if not isinstance(c.config, AlignConfig):
        return None
    evidence = [f"{alarm.sign}: {alarm.evidence}" for alarm in find_hacking(c.rows, c.config.hacking)]
    seen = [step for step, signs in c.points("hacking") if signs > 0]
    if seen:
        evidence.append(f"the watch saw it at {len(seen)} step(s), first at step {seen[0]}")
    if not evidence:
        return None
    what = f"{c.name} tricks its reward model: the score rises and the rules do not agree"
    return Finding("problem", what, "; ".join(evidence), c.set("preference_from", (1 + c.config.preference_from) / 2))


def at_chance(c: StageCurves) -> Finding | None:
    """By held-out examples where they were asked."""
    held_out = c.values("eval_preference_accuracy")
    metric = "eval_preference_accuracy" if held_out else "preference_accuracy"
    late = held_out[-1] if held_out else c.ends(metric)[1]
    if late >= CHANCE:
        return None
    what = f"The reward model {c.name} is at chance: it does not tell the better completion from the worse"
    evidence = f"{metric} {number(late)} at the end, a guess is right half of the time; {c.show('loss')}"
    return Finding("problem", what, evidence, c.faster())


def length_bias(c: StageCurves) -> Finding | None:
    correlations = c.points("eval_length_correlation")
    if not correlations or correlations[-1][1] < LENGTH_CORRELATION:
        return None
    what = f"The reward model {c.name} measures length: RL against it will make completions longer, not better"
    evidence = f"correlation of score and length {number(correlations[-1][1])} on held-out examples"
    matched = isinstance(c.config, RewardModelConfig) and c.config.match_lengths
    knob = "add pairs whose better completion is the shorter one" if matched else c.set("match_lengths", "true")
    return Finding("warning", what, evidence, knob)


REWARD_MODEL_CHECKS: tuple[Callable[[StageCurves], Finding | None], ...] = (at_chance, length_bias, gradient_spikes)
