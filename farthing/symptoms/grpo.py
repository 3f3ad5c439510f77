"""The curves of a grpo stage -> findings.

What to watch is common knowledge: flat groups and entropy (DAPO, arXiv:2503.14476), length without accuracy (Dr. GRPO,
arXiv:2503.20783), engine against trainer (TIS, fengyao.notion.site/off-policy-rl). The thresholds are ours,
set so that a healthy run is quiet: read a finding as "look here", not as proof.
"""

import math
from collections.abc import Callable
from statistics import fmean, median, stdev

from farthing.config import GrpoConfig
from farthing.symptoms.corpus import gradient_spikes
from farthing.symptoms.curves import MIN_STEPS, TREND_STEPS, Finding, StageCurves, number
from farthing.symptoms.hacking import reward_hacking
from farthing.symptoms.language import language_mixing
from farthing.symptoms.mixture import lopsided_tasks, stuck_level

GAIN = 0.1
"""Of a share between early and late: a rise."""
STANDSTILL = 0.02
"""Of a share between early and late: none."""
FLAT_SHARE = 0.7
ALL_FLAT_STEPS = 0.5
"""Share of the steps in which not one group carried signal."""
TOO_EASY = 0.5
"""Accuracy from which flat groups are all right rather than all wrong."""
MASTERED = 0.9
TRUNCATED = 0.2
NEVER_ENDS = 0.97
ENTROPY_NATS, ENTROPY_RATIO = 0.02, 0.2
"""Late entropy below the first, and below this share of the early one."""
KL_NATS = 0.5
GAP_NATS = {"fp32": 1e-3, "bf16": 5e-2, "fp8": 0.15}
"""Median logprob gap that rounding explains; fp8 from 30 layers (docs/decisions/2026-11-24-fp8.md)."""
HELD_OUT_RATIO = 0.25
"""Held-out gain as a share of the training gain."""
MIN_EVALS = 4
LONGER, SHORTER = 2.0, 0.4
COLLAPSE, COLLAPSE_RATIO = 0.2, 0.6
"""Accuracy lost since its best stretch, and what is left of that."""
RISE_T = 3.0
"""Rise of the last sixth of the steps over the one before, in standard errors."""

GrpoCheck = Callable[[StageCurves, GrpoConfig], Finding | None]


def no_gradient(c: StageCurves, config: GrpoConfig) -> Finding | None:
    """The zero loss that nothing explains: where every advantage is zero, nothing is learned."""
    flat = [r for r in c.rows if r.get("flat_groups", 0.0) >= 1]
    share = len(flat) / len(c.rows)
    if share < ALL_FLAT_STEPS:
        return None
    accuracy = fmean(r.get("accuracy", 0.0) for r in flat)
    loss = f"The loss of {c.name} is " + ("its KL term only" if config.kl_coef > 0 else "zero")
    what = f"{loss} because every advantage is zero: all rewards of each group are equal"
    steps = f"{len(flat)} of {len(c.rows)} steps, first at step {flat[0]['step']}"
    evidence = f"every group flat in {steps}; accuracy there {number(accuracy)}"
    return Finding("problem", f"{what}, {_why_flat(accuracy)}", evidence, _mix(c, config, accuracy))


def flat_groups(c: StageCurves, config: GrpoConfig) -> Finding | None:
    _, late = c.ends("flat_groups")
    accuracy = c.ends("accuracy")[1]
    if late <= FLAT_SHARE or no_gradient(c, config) is not None:
        return None
    if accuracy >= MASTERED:
        what = f"{c.name} has mastered its problems: most groups are all right and teach nothing more"
        return Finding("note", what, c.show("flat_groups", "accuracy"), c.set("dynamic_sampling", 3))
    what = f"Most groups of {c.name} carry no signal, {_why_flat(accuracy)}"
    return Finding("warning", what, c.show("flat_groups", "accuracy"), _mix(c, config, accuracy))


def _why_flat(accuracy: float) -> str:
    return "all right (problems too easy)" if accuracy >= TOO_EASY else "all wrong (problems too hard)"


def _mix(c: StageCurves, config: GrpoConfig, accuracy: float) -> str:
    """Too easy: skip what is mastered. Too hard: more tries at each problem, so that one of them may be right."""
    if accuracy >= TOO_EASY:
        return c.set("dynamic_sampling", max(3, 2 * config.dynamic_sampling))
    return c.set("group_size", 4 * config.group_size)


def _hold_back(c: StageCurves, config: GrpoConfig) -> str:
    return c.set("kl_coef", max(0.01, 3 * config.kl_coef))


def never_ends(c: StageCurves, config: GrpoConfig) -> Finding | None:
    if min(c.ends("truncated")) < NEVER_ENDS:
        return None
    what = f"Completions of {c.name} never end: the model does not write its end-of-text token"
    return Finding("problem", what, c.show("truncated", "completion_tokens"), f"--set '{c.name}.stop=[\"</answer>\"]'")


def truncation(c: StageCurves, config: GrpoConfig) -> Finding | None:
    late = c.ends("truncated")[1]
    if late <= TRUNCATED or never_ends(c, config) is not None:
        return None
    what = f"{late:.0%} of the completions of {c.name} are cut at the limit, and cannot be right"
    longer = c.set("max_completion_tokens", 2 * config.max_completion_tokens)
    return Finding("warning", what, c.show("truncated", "accuracy"), longer)


def format_only(c: StageCurves, config: GrpoConfig) -> Finding | None:
    is_better = c.gain("accuracy") > STANDSTILL or c.ends("accuracy")[1] >= TOO_EASY or c.is_curriculum()
    if config.reward.format == 0 or c.gain("format") < GAIN or is_better:
        return None
    what = f"{c.name} learned the format and not the answers: the reward's rise is format only"
    less = c.set("reward.format", config.reward.format / 4)
    return Finding("warning", what, c.show("reward", "format", "accuracy"), less)


def entropy_collapse(c: StageCurves, config: GrpoConfig) -> Finding | None:
    trained = c.trained_on()
    if len(trained.rows) < MIN_STEPS:
        return None
    early, late = trained.ends("entropy")
    if late > ENTROPY_NATS or late > ENTROPY_RATIO * early or c.ends("accuracy")[1] >= MASTERED:
        return None
    # with one minibatch the ratio is 1 and nothing is clipped, so a wider clip would change nothing
    knob = c.set("clip_eps_high", 0.28) if config.num_minibatches > 1 else _hold_back(c, config)
    what = f"The entropy of {c.name} has collapsed: it repeats itself and no longer explores"
    return Finding("warning", what, trained.show("entropy", "accuracy"), knob)


def kl_blow_up(c: StageCurves, config: GrpoConfig) -> Finding | None:
    late = c.ends("kl")[1]
    if config.kl_coef == 0 or late <= KL_NATS:
        return None
    what = f"The policy of {c.name} has run away from its reference"
    return Finding("warning", what, c.show("kl", "accuracy"), c.set("kl_coef", 10 * config.kl_coef))


def logprob_gap(c: StageCurves, config: GrpoConfig) -> Finding | None:
    trained = c.trained_on()
    limit, gaps = GAP_NATS[c.precision], trained.points("logprob_gap")
    if len(gaps) < MIN_STEPS or (middle := median(v for _, v in gaps)) <= limit:
        return None
    step, worst = max(gaps, key=lambda p: p[1])
    what = f"Engine and trainer disagree in {c.name} by more than {c.precision} explains: gradients are off-policy"
    evidence = f"median gap {number(middle)} nats, limit {limit:g}; {number(worst)} at step {step}"
    knob = "--set precision=fp32" if c.precision != "fp32" else c.set("tis_cap", 2.0)
    return Finding("problem", what, evidence, knob)


def held_out_behind(c: StageCurves, config: GrpoConfig) -> Finding | None:
    """Overfitting or a tricked verifier: training problems get better, the ones held out do not."""
    quick, trained = c.points("eval_accuracy"), c.gain("accuracy")
    if "before" in c.evals and "after" in c.evals:
        first, last = c.evals["before"]["pass_at_1"], c.evals["after"]["pass_at_1"]
    elif len(quick) >= MIN_EVALS:
        half = len(quick) // 2
        first, last = fmean(v for _, v in quick[:half]), fmean(v for _, v in quick[-half:])
    else:
        return None
    if trained < GAIN or c.is_curriculum() or last - first > HELD_OUT_RATIO * trained:
        return None
    what = f"{c.name} gets better at its training problems only: held-out accuracy does not follow"
    evidence = f"{c.show('accuracy')}; held-out {number(first)} -> {number(last)}"
    best = max(quick, key=lambda p: p[1])[0] + 1 if quick else 0
    stop = c.set("num_steps", best) if 0 < best < config.num_steps else _hold_back(c, config)
    return Finding("problem" if last < first else "warning", what, evidence, stop)


def length(c: StageCurves, config: GrpoConfig) -> Finding | None:
    """Length may well grow or shrink where accuracy rises; without that it is drift."""
    early, late = c.ends("completion_tokens")
    if early == 0 or SHORTER < late / early < LONGER or c.gain("accuracy") > STANDSTILL:
        return None
    if min(c.ends("accuracy")) >= MASTERED or c.is_curriculum():
        return None
    evidence = c.show("completion_tokens", "accuracy")
    if late > early:
        buffer = c.set("overlong_buffer", max(1, config.max_completion_tokens // 4))
        knob = c.set("normalizer", "token") if config.normalizer == "sequence" else buffer
        return Finding("warning", f"Completions of {c.name} grow longer and no better", evidence, knob)
    what = f"Completions of {c.name} shrink and get no better: it stops thinking"
    return Finding("warning", what, evidence, c.slower())


def collapse(c: StageCurves, config: GrpoConfig) -> Finding | None:
    means = c.stretches("accuracy")
    (best, at), (late, last) = max(means), means[-1]
    if best - late < COLLAPSE or late > COLLAPSE_RATIO * best or c.is_curriculum():
        return None
    evidence = f"accuracy {number(best)} from step {at}, {number(late)} from step {last}; {c.show('grad_norm')}"
    what = f"The accuracy of {c.name} broke down: the learning rate is too high"
    return Finding("problem", what, evidence, c.slower())


def still_rising(c: StageCurves, config: GrpoConfig) -> Finding | None:
    values = c.values("accuracy")
    width = len(values) // 6
    if len(values) < max(TREND_STEPS, config.num_steps) or c.is_curriculum():
        return None
    before, last = values[-2 * width : -width], values[-width:]
    gain = fmean(last) - fmean(before)
    noise = math.sqrt((stdev(before) ** 2 + stdev(last) ** 2) / width)
    if gain < STANDSTILL or gain < RISE_T * noise:
        return None
    evidence = f"accuracy {number(fmean(before))} -> {number(fmean(last))} between the last two sixths of the steps"
    longer = c.set("num_steps", 2 * config.num_steps)
    return Finding("note", f"{c.name} was still getting better when it ended", evidence, longer)


def standstill(c: StageCurves, config: GrpoConfig) -> Finding | None:
    """For a run in which nothing else is wrong."""
    late = c.ends("accuracy")[1]
    if len(c.rows) < TREND_STEPS or abs(c.gain("accuracy")) > STANDSTILL or late >= MASTERED or c.is_curriculum():
        return None
    evidence = c.show("accuracy", "reward", "grad_norm")
    return Finding("warning", f"The accuracy of {c.name} has not moved", evidence, c.faster())


def of_curves(check: Callable[[StageCurves], Finding | None]) -> GrpoCheck:
    """A check that needs no more of the recipe than every stage has."""
    return lambda c, config: check(c)


GRPO_CHECKS: tuple[GrpoCheck, ...] = (
    no_gradient, flat_groups, never_ends, truncation, format_only, entropy_collapse, kl_blow_up, logprob_gap,
    held_out_behind, length, collapse, still_rising,
    *map(of_curves, (gradient_spikes, reward_hacking, language_mixing, lopsided_tasks, stuck_level)),
)  # fmt: skip
