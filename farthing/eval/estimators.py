"""Correct counts per problem -> pass@k and its confidence interval, in which problems, not samples, are the unit."""

import math
from collections.abc import Sequence
from statistics import fmean

Z_95 = 1.959964


def pass_at_k(num_correct: int, num_samples: int, k: int) -> float:
    """Unbiased estimate that at least one of k samples is right (Codex, arXiv:2107.03374, eq. 1)."""
    if k > num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {num_samples}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def mean_ci95(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of a mean of per-problem values, by the normal approximation, kept inside [0, 1].

    With every value equal the spread is 0 and says nothing, so the Wilson interval of that many yes/no answers is used.
    """
    if min(values) == max(values):
        return wilson_ci95(fmean(values), len(values))
    low, high = normal_ci95(values)
    return max(0.0, low), min(1.0, high)


def normal_ci95(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of a mean of values without bounds, by the normal approximation; a point where there is one value."""
    count, mean = len(values), fmean(values)
    variance = sum((v - mean) ** 2 for v in values) / max(count - 1, 1)
    half = Z_95 * math.sqrt(variance / count)
    return mean - half, mean + half


def wilson_ci95(share: float, count: int) -> tuple[float, float]:
    """Wilson score interval of a share of `count` yes/no answers."""
    z2 = Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's r; 0 where one side does not vary, for then nothing goes together."""
    mean_x, mean_y = fmean(xs), fmean(ys)
    spread = math.sqrt(sum((x - mean_x) ** 2 for x in xs) * sum((y - mean_y) ** 2 for y in ys))
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
