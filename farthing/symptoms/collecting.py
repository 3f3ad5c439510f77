"""The rows of a stage that leaves samples -> findings: how much of what it sampled it kept, and what stood in the way."""

from farthing.symptoms.curves import Finding, StageCurves

HARDLY_ANY = 0.05
DROPPED = "dropped_"
"""What was not kept, and why, is logged as dropped_REASON."""


def collected(c: StageCurves) -> list[Finding]:
    """One finding: `ok`, or why nearly nothing was left."""
    sampled, kept = (sum(c.values(name)) for name in ("sampled", "kept"))
    if not sampled:
        return []
    share = f"{kept:,.0f} of {sampled:,.0f} completions kept ({kept / sampled:.1%})"
    if kept > HARDLY_ANY * sampled:
        return [Finding("ok", f"{c.name} collected its samples", share)]
    reasons = {name.removeprefix(DROPPED): sum(c.values(name)) for name in c.metrics() if name.startswith(DROPPED)}
    worst = max(reasons, key=lambda reason: reasons[reason], default="")
    why = f"; most were dropped as {worst.replace('_', ' ')} ({reasons[worst]:,.0f})" if worst else ""
    what = f"{c.name} keeps almost nothing of what it samples"
    return [Finding("problem" if kept == 0 else "warning", what, share + why, _knob(c, worst))]


def _knob(c: StageCurves, worst: str) -> str:
    """More tries at each problem, unless it is a limit of length that stands in the way."""
    limit, tries = (getattr(c.config, key, 0) for key in ("max_completion_tokens", "group_size"))
    if limit and worst in ("truncated", "too_long", "unfinished"):
        return c.set("max_completion_tokens", 2 * limit)
    return c.set("group_size", 4 * tries) if tries else "more completions of each problem, or easier problems"
