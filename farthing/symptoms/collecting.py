"""The rows of a stage that leaves samples -> findings: how much of what it sampled was good, and what stood in the way."""

from farthing.symptoms.curves import Finding, StageCurves

HARDLY_ANY = 0.05
DROPPED = "dropped_"
"""What was not kept, and why, is logged as dropped_REASON."""
GOOD_ALL_THE_SAME = ("enough", "duplicate")
"""Reasons that say nothing against the completion: its problem had enough, or the same, already."""


def collected(c: StageCurves) -> list[Finding]:
    """One finding: `ok`, or why nearly nothing was good."""
    sampled, kept = (sum(c.values(name)) for name in ("sampled", "kept"))
    if not sampled:
        return []
    reasons = {name.removeprefix(DROPPED): sum(c.values(name)) for name in c.metrics() if name.startswith(DROPPED)}
    good = kept + sum(reasons.pop(name, 0.0) for name in GOOD_ALL_THE_SAME)
    share = f"{sampled:,.0f} completions, {good / sampled:.1%} of them good, {kept:,.0f} kept"
    if good > HARDLY_ANY * sampled:
        return [Finding("ok", f"{c.name} collected its samples", share)]
    worst = max(reasons, key=lambda reason: reasons[reason], default="")
    why = f"; most were dropped as {worst} ({reasons[worst]:,.0f})" if worst else ""
    what = f"{c.name} keeps almost nothing of what it samples"
    return [Finding("problem" if kept == 0 else "warning", what, share + why, _knob(c, worst))]


def _knob(c: StageCurves, worst: str) -> str:
    """By what stands in the way: the limit of length, the language of the model sampled from, a rule, or too few tries."""
    limit, tries = (getattr(c.config, key, 0) for key in ("max_completion_tokens", "group_size"))
    if worst == "truncated":
        return c.set("max_completion_tokens", 2 * limit)
    if worst == "language":
        return "sample from a model trained with reward.language, or lower reward.readability.min_language"
    if worst in ("wrong", "judge", "unclear", ""):
        return c.set("group_size", 4 * tries) if tries else "more completions of each problem, or easier problems"
    return f"loosen the rule for {worst} in {c.name}.reward.readability, or sample from a model that writes readably"
