"""The rows a stage logged -> its curves, to be asked for early and late means; and what a finding is."""

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from farthing.config import StageConfig, TrainConfig
from farthing.panels import logged, metric

Severity = Literal["ok", "note", "warning", "problem"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note", "ok")
"""The worst first."""

MIN_STEPS = 8
"""Below this no curve is judged."""
TREND_STEPS = 30
"""Below this a curve that does not move, or still moves, says nothing."""
WINDOW_SHARE = 0.2
STRETCH_SHARE = 0.1


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run."""

    severity: Severity
    what: str
    evidence: str
    knob: str = ""
    """A `--set` to start again with where a recipe key mends it, words where none does."""


@dataclass(frozen=True)
class StageCurves:
    """What one stage logged, a row a step, with its full evaluations by label (before, after)."""

    name: str
    config: StageConfig
    rows: list[dict[str, Any]]
    evals: dict[str, dict[str, Any]]
    precision: str

    def metrics(self) -> list[str]:
        """Names of what was logged."""
        return logged(self.rows)

    def points(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of the finite values."""
        return [(r["step"], r[metric]) for r in self.rows if metric in r and math.isfinite(r[metric])]

    def values(self, metric: str) -> list[float]:
        return [value for _, value in self.points(metric)]

    def ends(self, metric: str) -> tuple[float, float]:
        """(early, late); zeros where it was never logged."""
        values = self.values(metric)
        width = max(MIN_STEPS // 2, round(len(values) * WINDOW_SHARE))
        return (fmean(values[:width]), fmean(values[-width:])) if values else (0.0, 0.0)

    def gain(self, metric: str) -> float:
        early, late = self.ends(metric)
        return late - early

    def trained_on(self) -> "StageCurves":
        """Only the steps in which some group carried signal: others have no entropy or gap to speak of."""
        return replace(self, rows=[r for r in self.rows if r.get("flat_groups", 0.0) < 1])

    def having(self, metric: str) -> "StageCurves":
        """Only the steps that logged `metric`."""
        return replace(self, rows=[r for r in self.rows if metric in r])

    def is_long_enough(self) -> bool:
        return len(self.rows) >= MIN_STEPS

    def is_curriculum(self) -> bool:
        """Problems got harder on the way, so shares early and late are not comparable."""
        return self.gain("level") > 0

    def show(self, *metrics: str) -> str:
        """Early and late of each, with the steps."""
        parts = [f"{m} {number(self.ends(m)[0])} -> {number(self.ends(m)[1])}{unit(m)}" for m in metrics]
        return f"{', '.join(parts)} over steps {self.rows[0]['step']} to {self.rows[-1]['step']}"

    def set(self, key: str, value: object) -> str:
        shown = f"{value:.3g}" if isinstance(value, float) else value
        return f"--set {self.name}.{key}={shown}"

    def slower(self) -> str:
        return self._learning_rate(1 / 3)

    def faster(self) -> str:
        return self._learning_rate(3)

    def _learning_rate(self, times: float) -> str:
        """Empty for a stage that has none."""
        config = self.config
        return self.set("optim.learning_rate", config.optim.learning_rate * times) if isinstance(config, TrainConfig) else ""

    def stretches(self, metric: str) -> list[tuple[float, int]]:
        """(mean, first step) of every stretch of a tenth of the steps."""
        points = self.points(metric)
        width = max(MIN_STEPS // 2, round(len(points) * STRETCH_SHARE))
        starts = range(len(points) - width + 1)
        return [(fmean(v for _, v in points[i : i + width]), points[i][0]) for i in starts]


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def unit(name: str) -> str:
    unit = metric(name).unit
    return f" {unit}" if unit and unit != "share" else ""
