"""Comparison rows -> one PNG: a panel a quantity, runs on a logarithmic scale, so that a laptop and a cluster both show.

Filled: boundaries align. Hollow: they do not. An arrow: "more than" or "less than".
"""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from farthing.panels import BLUE, GREY, INK, VERMILION
from farthing.planner.comparison import QUANTITIES, Row
from farthing.planner.comparison_page import cells
from farthing.planner.interval import Interval
from farthing.plot import DPI, STYLE


def comparison_png(rows: Sequence[Row]) -> bytes:
    """The figure as PNG, 15 inches wide; the height follows the number of rows."""
    with matplotlib.rc_context(STYLE):
        height = 0.32 * len(rows) + 1.5
        figure = Figure(figsize=(15, height))
        panels = figure.subplots(1, len(QUANTITIES), sharey=True)
        for place, (axes, name) in enumerate(zip(panels, QUANTITIES, strict=True)):
            _panel(axes, rows, name, place)
        figure.subplots_adjust(left=0.17, right=0.985, top=1 - 0.75 / height, bottom=0.62 / height, wspace=0.06)
        figure.text(
            0.01, 0.12 / height, "filled: boundaries align (rental of the successful runs)   hollow: they do not", size=8
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _panel(axes: Axes, rows: Sequence[Row], name: str, place: int) -> None:
    axes.set_xscale("log")
    axes.set_title(QUANTITIES[name])
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)
    shown = [(y, row, getattr(row, name)) for y, row in enumerate(rows)]
    for y, row, value in shown:
        if value is not None and value.middle > 0:
            _point(axes, y, row, value, cells(row)[list(QUANTITIES).index(name)])
    known = [float(value.middle) for _, _, value in shown if value is not None and value.middle > 0]
    if known:
        axes.set_xlim(min(known) / 6, max(known) * 100 * (max(known) / min(known)) ** 0.2)  # room for the labels
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if place:
        axes.tick_params(axis="y", length=0, labelleft=False)
        return
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.is_own else "normal")


def _point(axes: Axes, y: int, row: Row, value: Interval, label: str) -> None:
    colour = VERMILION if row.is_own else BLUE if row.is_aligned else GREY
    marker = "<" if value.low == 0 else "o" if value.high.is_finite() else ">"
    axes.plot(
        [float(value.middle)], [y], marker, color=colour, markersize=7, markerfacecolor=colour if row.is_aligned else "white"
    )
    axes.annotate(label, (float(value.middle), y), (8, 0), textcoords="offset points", va="center", size=7.5, color=INK)
