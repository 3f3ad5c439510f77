"""The rows of a stage that leaves samples -> findings: how much of what it sampled it kept, and what stood in the way."""

from farthing.rewards.readability import REASONS
from farthing.symptoms.curves import Finding, StageCurves

HARDLY_ANY = 0.05
DROPPED, ENOUGH = "dropped_", "enough"
"""What was not kept, and why, is logged as dropped_REASON; good ones that nobody wanted any more as dropped_enough."""
ADVICE = {
    "duplicate": "more problems, or a higher temperature",
    "language": "first train the model with reward.language, or lower reward.readability.min_language",
    "judge": "ask the judge in other words (judge.prompt), or start from a better model",
    "unclear": "have the judge say yes or no (judge.prompt), and leave it room to (judge.max_tokens)",
    "rewrite": 'ask the teacher in other words (teacher.prompt), or set teacher.otherwise = "original"',
}
UNREADABLE = "loosen reward.readability, or start from a model whose chains are readable"


def collected(c: StageCurves) -> list[Finding]:
    """One finding: `ok`, or why nearly nothing was left."""
    sampled, kept, spare = (sum(c.values(name)) for name in ("sampled", "kept", DROPPED + ENOUGH))
    if not sampled:
        return []
    share = f"{kept:,.0f} of {sampled:,.0f} completions kept ({kept / sampled:.1%})"
    if kept + spare > HARDLY_ANY * sampled:
        return [Finding("ok", f"{c.name} collected its samples", share)]
    reasons = {name.removeprefix(DROPPED): sum(c.values(name)) for name in c.metrics() if name.startswith(DROPPED)}
    worst = max(reasons, key=lambda reason: reasons[reason], default="")
    why = f"; most were dropped as {worst.replace('_', ' ')} ({reasons[worst]:,.0f})" if worst else ""
    what = f"{c.name} keeps almost nothing of what it samples"
    return [Finding("problem" if kept == 0 else "warning", what, share + why, _knob(c, worst))]


def _knob(c: StageCurves, worst: str) -> str:
    """What gives more samples; where answers are wrong, more tries at each problem."""
    limit, tries = (getattr(c.config, key, 0) for key in ("max_completion_tokens", "group_size"))
    if limit and worst == "truncated":
        return c.set("max_completion_tokens", 2 * limit)
    if advice := ADVICE.get(worst) or (UNREADABLE if worst in REASONS else ""):
        return advice
    return c.set("group_size", 4 * tries) if tries else "more completions of each problem, or easier problems"
