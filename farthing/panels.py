"""The metrics a stage logged -> what to draw of it: panels of lines that belong together. No matplotlib, no torch.

Colours: the palette of Okabe and Ito (2008), which colour-blind people tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.metrics import METRICS, Metric

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, GREY, INK = "#CC79A7", "#56B4E9", "#F0E442", "#999999", "#333333"
NOT_CURVES = ("step", "attempt", "stage", "at", "usd", "documents")
"""Columns of metrics.jsonl that are places, axes or counters."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One metric in a panel."""

    metric: str
    label: str = ""
    colour: str = BLUE
    is_sparse: bool = False
    """Logged at evaluations only: drawn with markers, not smoothed."""


@dataclass(frozen=True)
class Panel:
    title: str
    lines: tuple[Line, ...]
    scale: str = "linear"

    @property
    def unit(self) -> str:
        return metric(self.lines[0].metric).unit


GRPO_HERO = Panel(
    "Reward and accuracy",
    (Line("reward", "reward", GREY), Line("accuracy", "accuracy, training", BLUE),
     Line("eval_accuracy", "accuracy, held out", VERMILION, is_sparse=True)),
)  # fmt: skip
LENGTH = Panel("Completion length", (Line("completion_tokens", "training"),
               Line("eval_completion_tokens", "held out", VERMILION, is_sparse=True)))  # fmt: skip
ENTROPY = Panel("Entropy", (Line("entropy"),))
POLICY_LOSS = Panel("Policy loss", (Line("loss"),))
GAP = Panel("Logprob gap", (Line("logprob_gap", "mean"), Line("logprob_gap_max", "largest", ORANGE)), "log")
FLAT = Panel("Flat groups, truncation", (Line("flat_groups", "flat groups"), Line("truncated", "truncated", ORANGE)))
SPEED = Panel("Speed", (Line("rollout_tokens_per_s", "sampling"), Line("train_tokens_per_s", "training", GREEN)))
GRPO_PANELS = (LENGTH, ENTROPY, POLICY_LOSS, GAP, FLAT, SPEED)

CORPUS_HERO = Panel("Loss", (Line("loss"),))
HELD_OUT = Panel("Held-out accuracy", (Line("eval_accuracy", "right answers", VERMILION, is_sparse=True),
                 Line("eval_format", "well formed", GREY, is_sparse=True)))  # fmt: skip
HELD_OUT_LOSS = Panel("Held-out loss", (Line("held_out_loss", colour=VERMILION, is_sparse=True),))
HELD_OUT_BITS = Panel("Held-out loss", (Line("held_out_bits_per_byte", colour=VERMILION, is_sparse=True),))
GRADIENT = Panel("Gradient norm", (Line("grad_norm"),))
CORPUS_PANELS = (GRADIENT, Panel("Speed", (Line("train_tokens_per_s", colour=GREEN),)))

DISTILL_HERO = Panel("Loss", (Line("loss", "loss"), Line("distill_kl", "divergence from the teacher", ORANGE)))
DISTILL_PANELS = (
    Panel("Accuracy", (Line("accuracy", "training"), Line("eval_accuracy", "held out", VERMILION, is_sparse=True))),
    ENTROPY,
    SPEED,
)

ALIGN_PANELS = (
    LENGTH,
    ENTROPY,
    Panel("Reward models' scores", (Line("helpfulness_score", "helpfulness"),
          Line("harmlessness_score", "harmlessness", GREEN))),
    Panel("General prompts, right by rule", (Line("helpfulness_accuracy", "helpfulness"),
          Line("harmlessness_accuracy", "harmlessness", GREEN))),
    FLAT,
    SPEED,
)  # fmt: skip
REWARD_MODEL_PANELS = (
    Panel("Pairs or labels in order", (Line("preference_accuracy", "training"),
          Line("eval_preference_accuracy", "held out", VERMILION, is_sparse=True))),
    Panel("Correlation with length", (Line("eval_length_correlation", colour=VERMILION, is_sparse=True),)),
    Panel("Speed", (Line("train_tokens_per_s", colour=GREEN),)),
)  # fmt: skip

MORE = (
    Panel("Format", (Line("format", "training"), Line("eval_format", "held out", VERMILION, is_sparse=True))),
    Panel("KL to the reference", (Line("kl"),)),
    HELD_OUT_LOSS,
    HELD_OUT,
    Panel("Languages", (Line("language", "words in the right one"), Line("mixed", "chains with another", ORANGE))),
    GRADIENT,
    Panel("Clipped tokens", (Line("clipped"),)),
    Panel("Self-verification words per completion", (Line("reflection"),)),
    Panel("Learning rate", (Line("learning_rate"),)),
    Panel("Busiest expert above its share", (Line("max_violation", "worst layer"), Line("max_violation_mean", "mean", ORANGE))),
)
"""Drawn on a run's page after a stage's first panels, where they were logged."""


def metric(name: str) -> Metric:
    """A metric that an older or newer version logged has no unit here, and is drawn all the same."""
    return METRICS.get(name, Metric("", name.replace("_", " ")))


def logged(rows: Sequence[Row]) -> list[str]:
    """Metrics that some row has a number for, in the order of METRICS, unknown ones behind."""
    found = {name for row in rows for name, value in row.items() if isinstance(value, int | float)} - set(NOT_CURVES)
    return [*(name for name in METRICS if name in found), *sorted(found - METRICS.keys())]


def main_panels(rows: Sequence[Row]) -> list[Panel]:
    """The large panel and the small ones beside it, by what the stage is about; none for a stage without a curve."""
    names = logged(rows)
    if "distill_kl" in names:
        return [DISTILL_HERO, *DISTILL_PANELS]
    if "helpfulness_score" in names or "harmlessness_score" in names:
        return [GRPO_HERO, *ALIGN_PANELS]
    if "preference_accuracy" in names:
        return [CORPUS_HERO, *REWARD_MODEL_PANELS]
    if "reward" in names:
        return [GRPO_HERO, *GRPO_PANELS]
    held_out = {"held_out_bits_per_byte": HELD_OUT_BITS, "held_out_loss": HELD_OUT_LOSS}
    small = next((panel for name, panel in held_out.items() if name in names), HELD_OUT)
    return [CORPUS_HERO, small, *CORPUS_PANELS] if "loss" in names else []


def all_panels(rows: Sequence[Row]) -> list[Panel]:
    """Every metric that was logged, each in some panel."""
    names = logged(rows)
    if not any(r.get("reflection") for r in rows):
        names = [name for name in names if name != "reflection"]  # toy chains have no words
    panels = [p for p in (*main_panels(rows), *MORE) if any(line.metric in names for line in p.lines)]
    drawn = {line.metric for panel in panels for line in panel.lines}
    alone = [name for name in names if name not in drawn]
    more = (Panel(name.replace("_", " ").capitalize(), (Line(name, is_sparse=name.startswith("eval_")),)) for name in alone)
    return [*dict.fromkeys(panels), *more]


def smooth(values: Sequence[float]) -> list[float]:
    """Centred mean over about a twentieth of the values; the ends take what there is."""
    return [smoothed(values, at) for at in range(len(values))]


def smoothed(values: Sequence[float], at: int) -> float:
    """One of `smooth`'s values."""
    reach = len(values) // 40
    window = values[max(0, at - reach) : at + reach + 1]
    return sum(window) / len(window)
