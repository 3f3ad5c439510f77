"""A run directory -> one figure of its curves, as PNG and SVG. No torch, no display; the same run gives the same SVG.

A block a stage: a large panel of what the stage is about, small ones beside it. Below: where the dollars went, by phase
over the time the machine was held. A stage that logged no curve (it made data, or a table) has no block.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from farthing.config import StageConfig
from farthing.errors import RunError
from farthing.kept import evaluation, run_info
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import PHASES
from farthing.panels import (
    BLUE,
    GREEN,
    GREY,
    HELD_OUT,
    INK,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    Line,
    Panel,
    main_panels,
    smooth,
)
from farthing.summary import curves, open_run, recipe_of

PHASE_COLOURS = dict(zip(PHASES, (GREY, BLUE, PURPLE, VERMILION, YELLOW, GREEN, SKY, "#DDDDDD"), strict=True))
STYLE: Any = {
    "svg.hashsalt": "farthing",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#BBBBBB",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#EAEAEA",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
COLUMNS = 5
"""Of the grid: two for a stage's large panel, three of small ones."""
MAX_POINTS = 2000
DPI = 130

Rows = list[dict[str, Any]]


@dataclass
class Spending:
    """Cumulative dollars by phase after every step of the book, against the hours the machine was held."""

    hours: list[float] = field(default_factory=lambda: [0.0])
    usd: dict[str, list[float]] = field(default_factory=dict)
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    """(name, from, to) in hours, in order; one more for every attempt."""
    attempts: list[float] = field(default_factory=list)
    """Hours at which a second or later attempt began."""


def plot_run(run_dir: Path, out_dir: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Writes curves.FORMAT for every format -> their paths. RunError if nothing was logged yet."""
    recipe, steps = recipe_of(open_run(run_dir)), curves(run_dir)
    rows = {name: list(steps.get(name, {}).values()) for name in recipe.stages}
    logged = {name: (config, rows[name]) for name, config in recipe.stages.items() if main_panels(rows[name])}
    if not logged:
        raise RunError(f"{run_dir} has logged no step of training yet: there is nothing to plot. Run it for a step or more")
    spending = read_spending(run_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [out_dir / f"curves.{name}" for name in formats]
    with matplotlib.rc_context(STYLE):
        figure = _figure(run_dir, logged, spending)
        for path in paths:
            undated = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=DPI, metadata=undated)
    return paths


def read_spending(run_dir: Path) -> Spending:
    """From the ledger, after its chain has been checked; dollars are added up exactly and rounded for drawing only."""
    spending, held_ns, usd = Spending(usd={p: [0.0] for p in PHASES}), 0, dict.fromkeys(PHASES, Decimal(0))
    place: tuple[int, str, int] | None = None
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        ledger.verify()
        for entry in ledger.entries():
            if entry.kind == "attempt_start" and held_ns:
                spending.attempts.append(held_ns / 3.6e12)
            if entry.kind != "phase":
                continue
            start, held_ns = held_ns, held_ns + entry.held_ns
            usd[entry.phase] += entry.usd
            _span(spending.stages, entry.stage, start / 3.6e12, held_ns / 3.6e12)
            if place != (entry.attempt, entry.stage, entry.step):
                place = (entry.attempt, entry.stage, entry.step)
                spending.hours.append(0.0)
                for values in spending.usd.values():
                    values.append(0.0)
            spending.hours[-1] = held_ns / 3.6e12
            for phase, values in spending.usd.items():
                values[-1] = float(usd[phase])
    return spending


def _span(stages: list[tuple[str, float, float]], stage: str, start: float, end: float) -> None:
    if stages and stages[-1][0] == stage:
        start = stages.pop()[1]
    stages.append((stage, start, end))


# layout --------------------------------------------------------------------------------------------------------------


def _figure(run_dir: Path, logged: Mapping[str, tuple[StageConfig, Rows]], spending: Spending) -> Figure:
    num_rows = [_num_rows(main_panels(rows)) for _, rows in logged.values()]
    heights = [2.2 * n + 0.5 for n in num_rows] + [2.4]
    gap = 1.15 * len(heights) / sum(heights)  # 1.15 inches for the heading of a block, as a share of the mean height
    height = sum(heights) + 1.15 * (len(heights) - 1) + 1.8
    figure = Figure(figsize=(15, height))
    grid = GridSpec(
        len(heights), 1, figure, height_ratios=heights, hspace=gap, left=0.05, right=0.97,
        top=1 - 1.3 / height, bottom=0.5 / height,
    )  # fmt: skip
    _heading(figure, run_dir, spending)
    for number, (name, (config, rows)) in enumerate(logged.items()):
        evals = {p.stem.removeprefix("eval_"): evaluation(p) for p in (run_dir / "stages" / name).glob("eval_*.json")}
        _stage(figure, grid[number], name, config, rows, evals)
    _spending(figure.add_subplot(grid[len(heights) - 1]), spending)
    return figure


def _num_rows(panels: Sequence[Panel]) -> int:
    """Of small panels, three in a row."""
    return math.ceil((len(panels) - 1) / 3)


def _heading(figure: Figure, run_dir: Path, spending: Spending) -> None:
    info = run_info(run_dir)
    total = sum(values[-1] for values in spending.usd.values())
    commit = (info["commit"] or "no commit")[:10] + (" (changed)" if info["dirty"] else "")
    held = f"{_duration(spending.hours[-1])} held"
    facts = (f"seed {info['seed']}", held, f"${total:.4f}", commit, info["created"][:10])
    height = figure.get_figheight()
    figure.text(0.05, 1 - 0.38 / height, info["name"], size=17, weight="bold")
    figure.text(0.05, 1 - 0.62 / height, "  ·  ".join(facts), size=9.5, color="#666666")


def _stage(
    figure: Figure, place: SubplotSpec, name: str, config: StageConfig, rows: Rows, evals: dict[str, dict[str, Any]]
) -> None:
    hero, *panels = main_panels(rows)
    cells = place.subgridspec(_num_rows([hero, *panels]), COLUMNS, wspace=0.42, hspace=0.42)
    large = figure.add_subplot(cells[:, :2])
    draw(large, hero, rows, config.num_steps)
    large.annotate(
        f"{name}  ·  {len(rows):,} of {config.num_steps:,} steps", (0, 1), (0, 26), xycoords="axes fraction",
        textcoords="offset points", size=12.5, weight="bold", color=BLUE,
    )  # fmt: skip
    small = [figure.add_subplot(cells[i // 3, 2 + i % 3]) for i in range(len(panels))]
    for axes, panel in zip(small, panels, strict=True):
        draw(axes, panel, rows, config.num_steps)
    _evaluations(large if panels[0] is not HELD_OUT else small[0], evals, config.num_steps)
    for axes in (large, *small):
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(loc="best")
        if not axes.has_data():
            axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", va="center", color=GREY)
    for axes in (large, *small[-3:]):
        axes.set_xlabel("step")


# panels --------------------------------------------------------------------------------------------------------------


def draw(axes: Axes, panel: Panel, rows: Rows, num_steps: int) -> None:
    """The panel's lines over steps, counted from 1; a metric that was not logged is left out."""
    axes.set_title(panel.title + _unit(panel.unit))
    axes.set_xlim(0, max(num_steps, 2))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    for line in panel.lines:
        points = [(r["step"] + 1, r[line.metric]) for r in rows if line.metric in r]
        if points:
            _line(axes, line, *zip(*points, strict=True))
    if panel.scale == "log" and any(r.get(panel.lines[0].metric, 0) > 0 for r in rows):
        axes.set_yscale("log", nonpositive="mask")
    _limits(axes, panel)


def _line(axes: Axes, line: Line, steps: Sequence[int], values: Sequence[float]) -> None:
    if line.is_sparse:
        axes.plot(steps, values, "o-", color=line.colour, label=line.label, markersize=4, linewidth=1.2)
        return
    every = max(1, len(values) // MAX_POINTS)
    axes.plot(steps[::every], values[::every], color=line.colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps[::every], smooth(values)[::every], color=line.colour, label=line.label, linewidth=1.8)


def _limits(axes: Axes, panel: Panel) -> None:
    """Shares from 0 to 1, everything else but losses and logarithms from 0."""
    name, unit = panel.lines[0].metric, panel.unit
    low, high = axes.get_ylim()
    if unit == "share":
        axes.set_ylim(0, 1.02)
    elif name == "reward":
        axes.set_ylim(low if low < -0.1 else 0, max(high, 1.02))
    elif name == "loss":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
    elif name == "eval_length_correlation":
        axes.set_ylim(-1.02, 1.02)
    elif axes.get_yscale() == "linear" and unit != "std":
        axes.set_ylim(0, max(high * 1.05, 1e-9))
    if unit == "share":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    elif unit == "tokens/s":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))


def _evaluations(axes: Axes, evals: dict[str, dict[str, Any]], num_steps: int) -> None:
    """The full evaluations before and after, with their 95% confidence intervals."""
    places = {"before": 0, "after": num_steps}
    found = [(step, evals[label]) for label, step in places.items() if label in evals]
    if not found:
        return
    shares = [e["pass_at_1"] for _, e in found]
    below = [e["pass_at_1"] - e["ci95"][0] for _, e in found]
    above = [e["ci95"][1] - e["pass_at_1"] for _, e in found]
    axes.errorbar(
        [step for step, _ in found], shares, yerr=(below, above), fmt="D", color=INK, markersize=6, capsize=4,
        linewidth=1.5, zorder=5, clip_on=False, label="full evaluation, 95% interval",
    )  # fmt: skip
    halo = withStroke(linewidth=3, foreground="white")
    for step, e in found:
        axes.annotate(
            f"{e['pass_at_1']:.1%}", (step, e["pass_at_1"]), (9, 0), textcoords="offset points", weight="bold",
            size=9, va="center", zorder=6, annotation_clip=False, path_effects=[halo],
        )  # fmt: skip


def _unit(unit: str) -> str:
    return f" [{unit}]" if unit and unit != "share" else ""


# money ---------------------------------------------------------------------------------------------------------------


def _spending(axes: Axes, spending: Spending) -> None:
    units = ((3600.0, "seconds", 0.05), (60.0, "minutes", 3.0), (1.0, "hours", math.inf))
    factor, unit = next((factor, unit) for factor, unit, below in units if spending.hours[-1] < below)
    times = [hours * factor for hours in spending.hours]
    used = [phase for phase in PHASES if spending.usd[phase][-1] > 0]
    total = sum(spending.usd[phase][-1] for phase in used)
    every = max(1, len(times) // MAX_POINTS)
    shown = [*range(0, len(times) - 1, every), len(times) - 1]
    stacks = [[spending.usd[phase][i] for i in shown] for phase in used]
    colours = [PHASE_COLOURS[phase] for phase in used]
    axes.stackplot([times[i] for i in shown], stacks, labels=used, colors=colours, linewidth=0.6, edgecolor="white")
    axes.set_title(f"Where the ${total:.4f} went: dollars so far, by phase", pad=22)
    axes.set_xlabel(f"{unit} the machine was held")
    axes.set_xlim(0, max(times[-1], 1e-9))
    axes.set_ylim(0, max(total * 1.05, 1e-12))
    axes.yaxis.set_major_formatter(FuncFormatter(_dollars(total)))
    _shares(axes, spending, used, total)
    _marks(axes, spending, factor)


def _shares(axes: Axes, spending: Spending, used: Sequence[str], total: float) -> None:
    """A legend in the order of the stack, with each phase's share."""
    handles, _ = axes.get_legend_handles_labels()
    labels = [f"{phase}  {spending.usd[phase][-1] / max(total, 1e-12):.1%}" for phase in used]
    legend = axes.legend(handles[::-1], labels[::-1], loc="upper left", frameon=True, edgecolor="none")
    legend.set_bbox_to_anchor((0.005, 0.98), axes.transAxes)


def _marks(axes: Axes, spending: Spending, factor: float) -> None:
    """Names above the stages, a line where each begins, a dashed one where another attempt began."""
    end, above = spending.hours[-1], axes.get_xaxis_transform()
    named: set[str] = set()
    for stage, start, _ in spending.stages:
        if stage and stage not in named:
            axes.axvline(start * factor, color=INK, linewidth=0.8)
            axes.text(start * factor, 1.04, stage, transform=above, size=9.5, weight="bold", color=BLUE)
            named.add(stage)
    for number, hours in enumerate(spending.attempts, start=2):
        axes.axvline(hours * factor, color=INK, linewidth=1.2, linestyle="--")
        axes.text((hours + 0.004 * end) * factor, 0.92, f"attempt {number}", transform=above, size=8)


def _dollars(total: float) -> Callable[[float, Any], str]:
    digits = max(2, 2 - math.floor(math.log10(max(total, 1e-12))))
    return lambda usd, _: f"${usd:,.{digits}f}"


def _duration(hours: float) -> str:
    minutes, seconds = divmod(round(hours * 3600), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds:02d} s"
