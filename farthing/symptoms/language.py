"""The curves of a stage that measures the language of its chains -> findings: it mixes languages, more and more or still.

R1-Zero does so on its own; R1's later stages have a reward against it (arXiv:2501.12948, section 2.3.2).
"""

from farthing.symptoms.curves import Finding, Severity, StageCurves

RISE = 0.1
"""Of the share of chains with a foreign word, between early and late."""
HIGH = 0.3
PAPERS_WEIGHT = 1.0
"""R1 adds the share of words in the right language to the reward as it is."""


def language_mixing(c: StageCurves) -> Finding | None:
    """Rising is a warning. High and not falling is one where the reward is against it, else a note: R1-Zero may be so."""
    late, rise = c.ends("mixed")[1], c.gain("mixed")
    weight = float(getattr(getattr(c.config, "reward", None), "language", 0.0))
    if rise < RISE and (late < HIGH or (weight and rise <= -RISE)):
        return None
    severity: Severity = "warning" if rise >= RISE or weight else "note"
    how = "more and more" if rise >= RISE else f"in {late:.0%} of its chains"
    metrics = ("mixed", *(name for name in ("language", "accuracy") if c.values(name)))
    more = c.set("reward.language", 2 * weight if weight else PAPERS_WEIGHT)
    return Finding(severity, f"{c.name} mixes languages {how}", c.show(*metrics), more)
