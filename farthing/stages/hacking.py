"""The curve of an align stage -> alarms: a reward model's score rises while what rules can check gets worse. No torch here.

DeepSeek-R1 shows it for its helpfulness model (arXiv:2501.12948v2, section B.5): the reward rises and Codeforces falls; that is
why preferences count in the last 400 of 1,700 steps only. The rows are those of metrics.jsonl, so a finished run can be asked.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from farthing.config import HackingConfig

Row = Mapping[str, float]
KINDS = ("helpfulness", "harmlessness")
STANDARD_ERRORS = 4.5
"""Every step is held against every earlier stretch: two would often be passed by chance."""
MAX_STRETCHES, MAX_NOISE_ROWS = 64, 256
"""Earlier stretches looked at, and rows that noise is taken from: a step of a long run costs no more than of a short one."""
WATCHED = (
    "step", "accuracy", "level",
    *(f"{kind}_{what}" for kind in KINDS for what in ("score", "accuracy", "tokens")),
)  # fmt: skip


@dataclass(frozen=True)
class Alarm:
    """One sign of a reward model being tricked."""

    sign: str
    """What it is, the same words each time: kind and what gave way."""
    evidence: str


def find_hacking(rows: Sequence[Row], limits: HackingConfig) -> list[Alarm]:
    """The alarms that the last `window` rows give against any stretch of as many rows before them; each sign once.

    Rows without a score, from before preferences counted, are left out.
    """
    scored = [row for row in rows if any(f"{kind}_score" in row for kind in KINDS)]
    late = scored[-limits.window :]
    errors = {name: _standard_error(_values(scored[-MAX_NOISE_ROWS:], name), limits.window) for name in WATCHED}
    found: dict[str, Alarm] = {}
    every = max(limits.window, len(scored) // MAX_STRETCHES)
    for start in range(0, len(scored) - 2 * limits.window + 1, every):
        for alarm in _against(scored[start : start + limits.window], late, limits, errors):
            found.setdefault(alarm.sign, alarm)
    return list(found.values())


def _against(early: Sequence[Row], late: Sequence[Row], limits: HackingConfig, errors: Mapping[str, float]) -> Iterator[Alarm]:
    steps = f"steps {early[0]['step']:.0f} to {early[-1]['step']:.0f} against {late[0]['step']:.0f} to {late[-1]['step']:.0f}"
    harder = _change(early, late, "level") or 0.0
    for kind in KINDS:
        rise = _change(early, late, f"{kind}_score")
        if rise is None or rise < limits.score_rise:
            continue
        rose = f"{kind} score up by {rise:.2f} standard deviations"
        if _fell(early, late, f"{kind}_accuracy", limits, errors):
            yield Alarm(
                f"{kind} prompts", f"{rose}, their accuracy by the rule {_shown(early, late, f'{kind}_accuracy')}; {steps}"
            )
        if not harder and _fell(early, late, "accuracy", limits, errors):
            yield Alarm(f"{kind} against reasoning", f"{rose}, reasoning accuracy {_shown(early, late, 'accuracy')}; {steps}")
        before, now = (_mean(rows, f"{kind}_tokens") or 0.0 for rows in (early, late))
        better = _change(early, late, f"{kind}_accuracy") or 0.0
        if before and now >= limits.length_ratio * before and better < limits.accuracy_fall:
            yield Alarm(f"{kind} length", f"{rose}, completions from {before:.1f} to {now:.1f} tokens and no better; {steps}")


def _fell(early: Sequence[Row], late: Sequence[Row], name: str, limits: HackingConfig, errors: Mapping[str, float]) -> bool:
    change = _change(early, late, name)
    return change is not None and -change >= max(limits.accuracy_fall, STANDARD_ERRORS * errors[name])


def _standard_error(values: Sequence[float], window: int) -> float:
    """Of the difference between two means of `window` values: the noise is that from each step to the next, trends are not."""
    steps = [(after - before) ** 2 for before, after in pairwise(values)]
    return math.sqrt(fmean(steps) / window) if steps else 0.0


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = _values(rows, name)
    return fmean(values) if values else None


def _change(early: Sequence[Row], late: Sequence[Row], name: str) -> float | None:
    before, now = _mean(early, name), _mean(late, name)
    return None if before is None or now is None else now - before


def _shown(early: Sequence[Row], late: Sequence[Row], name: str) -> str:
    return f"{_mean(early, name) or 0.0:.1%} -> {_mean(late, name) or 0.0:.1%}"


class Watch:
    """Looks at every step; says each sign once. A checkpoint keeps its curve, so a resumed attempt sees what this one did."""

    def __init__(self, limits: HackingConfig, say: Callable[[str], None]) -> None:
        self.limits, self._say = limits, say
        self.rows: list[dict[str, float]] = []
        self.alarms: dict[str, str] = {}
        """Sign -> evidence of every alarm so far."""

    def look(self, step: int, metrics: Row) -> int:
        """Adds the step -> the number of signs there are now."""
        row = {name: float(value) for name, value in {**metrics, "step": step}.items() if name in WATCHED}
        self.rows.append(row)
        found = find_hacking(self.rows, self.limits)
        for alarm in found:
            if alarm.sign not in self.alarms:
                self.alarms[alarm.sign] = alarm.evidence
                self._say(f"reward hacking ({alarm.sign}): {alarm.evidence}")
        return len(found)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "alarms": self.alarms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.alarms = list(state["rows"]), dict(state["alarms"])
