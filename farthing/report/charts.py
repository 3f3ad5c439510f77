"""A panel and the rows of a stage -> SVG with one set of lines for each axis; the page's style shows one set at a time.

Drawn here, not by matplotlib: a tenth of the bytes, colours that follow the page into the dark, text that a reader can select.
Coordinates are whole half-pixels.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from farthing.panels import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW, Line, Panel, Row, smoothed
from farthing.report.axes import Axis

COLOURS = {
    BLUE: "blue", ORANGE: "orange", GREEN: "green", VERMILION: "vermilion", PURPLE: "purple", SKY: "sky", YELLOW: "yellow",
    GREY: "grey",
}  # fmt: skip
HEIGHT, SMALL, LARGE = 420, 720, 1480
LEFT, RIGHT, TOP, BOTTOM = 96, 22, 18, 78
BUCKETS = 80
"""Of a line: each gives its least and largest value, so that no spike is lost."""
MOST_X_TICKS, MOST_Y_TICKS, MOST_DECADES = 6, 4, 6
TINY, HUGE = 1e-300, 1e300
"""Beyond these a span, or its logarithm, is no longer a number."""
FULL_SHARE = 0.5
"""A share that never gets above this is drawn from 0 to its own largest value."""

Points = list[tuple[float, float]]
Evaluations = Mapping[str, Mapping[str, Any]]


class Scale:
    """Values -> half-pixels, along one axis."""

    def __init__(self, low: float, high: float, start: float, end: float, is_log: bool = False) -> None:
        self.low, self.high, self.is_log = low, high if high - low > TINY else low + 1, is_log
        self.start, self.end = start, end

    def __call__(self, value: float) -> int:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start))


def chart(panel: Panel, rows: Sequence[Row], axes: Sequence[Axis], evals: Evaluations, is_large: bool) -> Markup:
    """One `svg`. `evals`: the full evaluations that belong into this panel, by label."""
    width = LARGE if is_large else SMALL
    scale = y_scale(panel, rows, evals)
    y_ticks = log_ticks(scale.low, scale.high) if scale.is_log else ticks(scale.low, scale.high, MOST_Y_TICKS)
    frame = Markup().join(_y_tick(scale(v), number(v, panel.unit, y_ticks), width) for v in y_ticks)
    sets = Markup().join(_set(panel, rows, axis, scale, evals, width) for axis in axes)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        width, HEIGHT, described(panel, rows), frame, sets
    )


def finite(rows: Sequence[Row], metric: str) -> list[tuple[int, float]]:
    """(step, value) of what was logged as a number that can be drawn: neither NaN nor infinite, nor next to it."""
    return [(r["step"], float(r[metric])) for r in rows if metric in r and abs(r[metric]) < HUGE]


def described(panel: Panel, rows: Sequence[Row]) -> str:
    """The chart in words, for those who do not see it."""
    said = []
    for line in panel.lines:
        if values := [v for _, v in finite(rows, line.metric)]:
            first, last, least, most = (f"{v:.3g}" for v in (values[0], values[-1], min(values), max(values)))
            said.append(f"{line.label or panel.title}: {first} at first, {last} at last, between {least} and {most}")
    return f"{panel.title}. {'; '.join(said)}"


# scales ----------------------------------------------------------------------------------------------------------------


def y_scale(panel: Panel, rows: Sequence[Row], evals: Evaluations) -> Scale:
    values = [v for line in panel.lines for _, v in finite(rows, line.metric)]
    values += [bound for e in evals.values() for bound in e["ci95"]]
    positive = [v for v in values if v > TINY]
    if panel.scale == "log" and positive:
        least = math.floor(math.log10(min(positive)))
        return Scale(10.0**least, 10.0 ** max(math.ceil(math.log10(max(positive))), least + 1), *_Y, is_log=True)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if panel.unit == "share" or panel.lines[0].metric == "reward":
        return Scale(min(low, 0.0), max(high, 1.0) if high > FULL_SHARE else high * 1.1, *_Y)
    if panel.lines[0].metric == "loss":
        margin = 0.05 * (high - low)
        return Scale(low - margin, high + margin, *_Y)
    return Scale(min(low, 0.0), max(high * 1.05, 0.0), *_Y)


_Y = (HEIGHT - BOTTOM, TOP)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values within the bounds, at most about `most` + 1 of them: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / MOST_DECADES)))]


def number(value: float, unit: str, among: Sequence[float]) -> str:
    """As short as tells a tick from its neighbours."""
    gap = min((b - a for a, b in pairwise(among)), default=abs(value) or 1.0)
    if unit == "share":
        return f"{value:.{max(0, -math.floor(math.log10(gap * 100) + 1e-9))}%}"
    sign, size = ("-" if value < 0 else "") + ("$" if unit == "$" else ""), abs(value)
    if size >= 1e4:
        return f"{sign}{size / 1e6:g}M" if size >= 1e6 else f"{sign}{size / 1e3:g}K"
    if size and gap < 1e-4 and unit != "$":
        return f"{sign}{size:.0e}".replace("e-0", "e-")
    return f"{sign}{size:.{max(0, -math.floor(math.log10(gap) + 1e-9))}f}"


# what is drawn -----------------------------------------------------------------------------------------------------------


def _y_tick(y: int, text: str, width: int) -> Markup:
    return Markup('<path class="grid" d="M{} {}H{}"/><text class="y" x="{}" y="{}">{}</text>').format(
        LEFT, y, width - RIGHT, LEFT - 12, y + 7, text
    )


def _set(panel: Panel, rows: Sequence[Row], axis: Axis, y: Scale, evals: Evaluations, width: int) -> Markup:
    """Everything of a chart that depends on what it runs along."""
    x = Scale(0.0, axis.end, LEFT, width - RIGHT)
    at = ticks(0.0, x.high, MOST_X_TICKS if width == LARGE else MOST_X_TICKS - 2)
    if axis.name == "steps":
        at = [value for value in at if value == round(value)]
    marks = Markup().join(_x_text(x(v), HEIGHT - BOTTOM + 32, number(v, axis.unit, at)) for v in at)
    title = _x_text((LEFT + width - RIGHT) // 2, HEIGHT - 10, axis.title)
    lines = Markup().join(_line(line, rows, axis, x, y) for line in panel.lines)
    full = Markup().join(_evaluation(e, x(0.0 if label == "before" else axis.end), y) for label, e in evals.items())
    return Markup('<g class="by-{}">{}{}{}{}</g>').format(axis.name, marks, title, lines, full)


def _x_text(x: int, y: int, text: str) -> Markup:
    return Markup('<text class="x" x="{}" y="{}">{}</text>').format(x, y, text)


def _line(line: Line, rows: Sequence[Row], axis: Axis, x: Scale, y: Scale) -> Markup:
    logged = [(step, v) for step, v in finite(rows, line.metric) if step in axis.places and not (y.is_log and v <= 0)]
    points = [(axis.places[step], value) for step, value in logged]
    if not points:
        return Markup()
    colour = COLOURS[line.colour]
    if line.is_sparse or len(points) == 1:
        dots = Markup().join(Markup('<circle cx="{}" cy="{}" r="6"/>').format(x(a), y(b)) for a, b in thinned(points))
        return Markup('<g class="{}">{}<path d="{}"/></g>').format(colour, dots, path(thinned(points), x, y))
    values = [value for _, value in points]
    at = [*range(0, len(points) - 1, max(1, len(points) // BUCKETS)), len(points) - 1]
    shown = [(points[i][0], smoothed(values, i)) for i in at]
    return Markup('<g class="{}"><path class="raw" d="{}"/><path d="{}"/></g>').format(
        colour, path(thinned(points), x, y), path(shown, x, y)
    )


def thinned(points: Points) -> Points:
    """At most two points a bucket: its least and its largest, in their order."""
    if len(points) <= 2 * BUCKETS:
        return points
    kept: Points = []
    for number in range(BUCKETS):
        bucket = points[number * len(points) // BUCKETS : (number + 1) * len(points) // BUCKETS]
        ends = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def path(points: Points, x: Scale, y: Scale) -> str:
    """Relative steps between whole coordinates: half the bytes of absolute ones, and no rounding error adds up."""
    places = [(x(a), y(b)) for a, b in points]
    moves = (f"{b[0] - a[0]} {b[1] - a[1]}" for a, b in pairwise(places))
    return f"M{places[0][0]} {places[0][1]}l{' '.join(moves)}" if len(places) > 1 else f"M{places[0][0]} {places[0][1]}"


def _evaluation(result: Mapping[str, Any], x: int, y: Scale) -> Markup:
    """A diamond with its 95% interval."""
    low, high = (y(bound) for bound in result["ci95"])
    middle = y(result["pass_at_1"])
    return Markup(
        '<g class="full"><path d="M{x} {low}V{high}M{a} {low}H{b}M{a} {high}H{b}"/>'
        '<path class="diamond" d="M{x} {top}l8 8 -8 8 -8 -8z"/></g>'
    ).format(x=x, low=low, high=high, a=x - 7, b=x + 7, top=middle - 8)


def interval(low: float, value: float, high: float) -> Markup:
    """A share with its interval as a small bar from 0 to 1, for a table; the numbers stand beside it."""
    return Markup(
        '<svg class="interval" viewBox="0 0 200 24" aria-hidden="true"><path class="grid" d="M0 12H200"/>'
        '<path d="M{} 12H{}"/><circle cx="{}" cy="12" r="6"/></svg>'
    ).format(round(200 * low), round(200 * high), min(max(round(200 * value), 6), 194))
