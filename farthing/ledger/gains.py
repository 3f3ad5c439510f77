"""Evaluations and money -> dollars per point gained and per correct answer, with intervals; reward per further dollar.

A point is a percentage point of pass@1 on held-out problems. Intervals: before and after are taken as independent (they
share problems, so the true interval is narrower); a ratio's interval is that of its denominator, turned over.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from farthing.ledger.statement import usd_short

Z_95 = 1.959964
_LEAST_STEPS = 12
_WINDOW = 3
"""The last third of the steps decides on stopping."""


def gains(
    evals: Mapping[str, Mapping[str, Any]], stage_usd: Mapping[str, Decimal], eval_usd: Mapping[tuple[str, str], Decimal]
) -> list[dict[str, Any]]:
    """One line a stage with evaluations: what it cost, what it gained, what a correct answer costs to sample.

    `evals`: stage -> {"before": ..., "after": ...} as result.json has them; `eval_usd`: (stage, label) -> its cost.
    """
    found = []
    for stage, labels in evals.items():
        after = labels.get("after")
        if after is None:
            continue
        line: dict[str, Any] = {"stage": stage, "usd": f"{stage_usd.get(stage, Decimal(0)):f}", "pass_at_1": after["pass_at_1"]}
        if "before" in labels:
            line |= _per_point(float(stage_usd.get(stage, Decimal(0))), labels["before"], after)
        if (stage, "after") in eval_usd:
            line |= _per_answer(float(eval_usd[stage, "after"]), after)
        found.append(line | {"says": _sentence(line)})
    return found


def _per_point(usd: float, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    points = 100 * (after["pass_at_1"] - before["pass_at_1"])
    half = 100 * math.hypot(_half(before), _half(after))
    low, high = points - half, points + half
    return {
        "points": points,
        "points_ci95": [low, high],
        "usd_per_point": usd / points if points > 0 else None,
        "usd_per_point_ci95": [usd / high if high > 0 else None, usd / low if low > 0 else None],
    }


def _per_answer(usd: float, after: Mapping[str, Any]) -> dict[str, Any]:
    asked = after["n"] * after["samples"]
    low, high = after["ci95"]
    right = after["pass_at_1"]
    return {
        "usd_per_correct_answer": usd / (asked * right) if right > 0 else None,
        "usd_per_correct_answer_ci95": [usd / (asked * high) if high > 0 else None, usd / (asked * low) if low > 0 else None],
    }


def _half(evaluation: Mapping[str, Any]) -> float:
    low, high = evaluation["ci95"]
    return float(high - low) / 2


def _sentence(line: Mapping[str, Any]) -> str:
    parts = [f"{line['stage']}: "]
    if "points" in line:
        low, high = line["points_ci95"]
        parts.append(f"{line['points']:+.1f} points (95% CI {low:+.1f} to {high:+.1f}) for {usd_short(line['usd'])}")
        each = line["usd_per_point"]
        if each is not None:
            parts.append(f", {usd_short(str(each))} a point (95% CI {_range(line['usd_per_point_ci95'])})")
        parts.append("" if low > 0 else "; the gain cannot be told from none")
    else:
        parts.append(f"pass@1 {line['pass_at_1']:.1%} for {usd_short(line['usd'])}, no evaluation before it")
    if line.get("usd_per_correct_answer") is not None:
        parts.append(
            f"; a correct answer costs {usd_short(str(line['usd_per_correct_answer']))} to sample "
            f"(95% CI {_range(line['usd_per_correct_answer_ci95'])})"
        )
    return "".join(parts) + "."


def _range(ci95: Sequence[float | None]) -> str:
    low, high = ("without limit" if end is None else usd_short(f"{end:.15f}") for end in ci95)
    return f"{low} to {high}"


def marginal(curve: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """(dollars so far, reward) of a stage's steps -> reward per further dollar over the last third, and whether to stop.

    A least-squares line; its standard error is that of residuals taken as independent. None with too few steps.
    """
    tail = list(curve)[-max(len(curve) // _WINDOW, _LEAST_STEPS) :]
    spread = max((usd for usd, _ in tail), default=0.0) - min((usd for usd, _ in tail), default=0.0)
    if len(tail) < _LEAST_STEPS or spread <= 0:
        return None
    slope, error = _line(tail)
    low, high = slope - Z_95 * error, slope + Z_95 * error
    spent = usd_short(f"{spread:.15f}")
    interval = f"95% CI {low:.3g} to {high:.3g}"
    if low > 0:
        found = f"still raised the reward, by {slope:.3g} a dollar ({interval}): going on pays."
    elif high < 0:
        found = f"lowered the reward, by {-slope:.3g} a dollar ({interval}): stop, and take the best checkpoint."
    else:
        found = f"bought no reward that can be told from noise ({slope:.3g} a dollar, {interval}): stopping is sound."
    says = f"The last {len(tail)} steps ({spent}) {found}"
    return {
        "steps": len(tail), "usd": spread, "reward_per_usd": slope, "ci95": [low, high], "stop": low <= 0, "says": says,
    }  # fmt: skip


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(slope, its standard error) of y against x."""
    count = len(points)
    mean_x, mean_y = (sum(p[i] for p in points) / count for i in (0, 1))
    sxx = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sxx
    residuals = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, math.sqrt(residuals / (count - 2) / sxx)
