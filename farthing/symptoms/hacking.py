"""The curves of a stage with a reward model -> findings: the score is tricked, or it never was one.

Reward hacking as DeepSeek-R1 shows it (arXiv:2501.12948v2, B.5): the reward model's score rises while the rule's falls.
"""

from collections.abc import Callable

from farthing.symptoms.corpus import gradient_spikes
from farthing.symptoms.curves import Finding, StageCurves, number

SCORE = "_score"
"""A reward model's score of one kind of prompts is logged as KIND_score; the rule's judgement of the same as KIND_accuracy,
their length as KIND_tokens. `accuracy` is that of reasoning."""
SCORE_RISE = 0.5
"""Standard deviations of the first scores."""
ACCURACY_FALL = 0.05
TIMES_LONGER = 2.0
NO_GAIN = 0.02
CHANCE = 0.55
"""Of pairs, right by guessing: a half."""
LENGTH_CORRELATION = 0.5


def reward_hacking(c: StageCurves) -> Finding | None:
    """For every score that rose: what fell, or swelled, meanwhile; and the alarms of the stage's own watch."""
    evidence = [text for name in c.metrics() if name.endswith(SCORE) and (text := _traded(c, name.removesuffix(SCORE)))]
    alarms = [(step, count) for step, count in c.points("hacking") if count > 0]
    if alarms:
        evidence.append(f"the watch raised {sum(int(n) for _, n in alarms)} alarm(s), first at step {alarms[0][0]}")
    if not evidence:
        return None
    what = f"{c.name} tricks its reward model: the score rises and the rules do not agree"
    start = getattr(c.config, "preference_from", None)
    knob = "fewer steps with the reward model's score, or a smaller weight for it"
    return Finding("problem", what, "; ".join(evidence), knob if start is None else c.set("preference_from", (1 + start) / 2))


def _traded(c: StageCurves, kind: str) -> str:
    """What the score of `kind` was bought with; empty where it is honest, or has not risen."""
    scored = c.having(kind + SCORE)
    if not scored.is_long_enough() or scored.gain(kind + SCORE) < SCORE_RISE:
        return ""
    for accuracy in (f"{kind}_accuracy", "accuracy"):
        if scored.values(accuracy) and scored.gain(accuracy) <= -ACCURACY_FALL and not c.is_curriculum():
            return scored.show(kind + SCORE, accuracy)
    early, late = scored.ends(f"{kind}_tokens")
    if early and late / early >= TIMES_LONGER and scored.gain(f"{kind}_accuracy") < NO_GAIN:
        return scored.show(kind + SCORE, f"{kind}_tokens")
    return ""


def at_chance(c: StageCurves) -> Finding | None:
    """By held-out pairs where they were asked."""
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
    matched = getattr(c.config, "match_lengths", True)
    knob = "add pairs whose better completion is the shorter one" if matched else c.set("match_lengths", "true")
    return Finding("warning", what, evidence, knob)


REWARD_MODEL_CHECKS: tuple[Callable[[StageCurves], Finding | None], ...] = (at_chance, length_bias, gradient_spikes)
