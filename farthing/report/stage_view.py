"""One stage of a run -> what the page shows of it: facts, charts, evaluations, chains, and the samples it kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from farthing.config import Recipe, StageConfig
from farthing.config.base import SOURCE
from farthing.config.graph import inputs_of, model_input
from farthing.panels import Panel, Row, all_panels, logged, main_panels, metric
from farthing.report.axes import Place, axes
from farthing.report.chains import Chain, choose, read_data
from farthing.report.charts import COLOURS, chart
from farthing.report.figures import MEASURES, cells, drawn, figures
from farthing.report.text import FindSwitches, chain, short
from farthing.symptoms.curves import StageCurves, number

ENDS = ("before", "after")
"""Labels of the evaluations of a stage's main problems; others say their kind behind it."""


@dataclass(frozen=True)
class ChartView:
    title: str
    unit: str
    legend: list[tuple[str, str]]
    """(label, colour class) of the lines that were logged."""
    svg: Markup
    is_large: bool


@dataclass(frozen=True)
class ChainView:
    """One chain with its reward; `marks` counts its stretches in another language, as far as it is shown."""

    where: str
    verdict: str
    facts: list[str]
    parts: list[tuple[str, float]]
    reward: float | None
    question: str
    answer: str
    read: str | None
    text: Markup
    marks: int
    is_cut: bool


@dataclass(frozen=True)
class StageView:
    name: str
    config: StageConfig
    summary: Mapping[str, Any]
    """Of `farthing show --json`."""
    reads: list[str]
    charts: list[ChartView]
    more: list[ChartView]
    ends: list[tuple[str, str, str, str]]
    """(metric, what it is, early, late)."""
    evals: list[tuple[str, Mapping[str, Any], Markup, list[str]]]
    """(before or after, result, its interval drawn, a cell for each of `measures`)."""
    measures: list[str]
    """Headings of what the evaluations say beside pass@1."""
    figures: list[tuple[str, str]]
    """What else the stage says of its result: (name, value)."""
    chains: list[ChainView]
    num_chains: int
    samples: list[ChainView] = field(default_factory=list)
    """Of those a data stage kept."""
    num_samples: int | None = None
    file: str = ""

    @property
    def outcome(self) -> str:
        """In a line: what came of it."""
        shares = [f"{result['pass_at_1']:.1%}" for when, result, *_ in self.evals if when in ENDS]
        if self.num_samples is not None:
            return f"{self.num_samples:,} samples kept"
        if shares:
            return "pass@1 " + " to ".join(shares)
        late = {name: value for name, _, _, value in self.ends}
        said = next((name for name in ("accuracy", "loss") if name in late), None)
        return f"{said} {late[said]}" if said else ""


def stage_view(
    run_dir: Path,
    recipe: Recipe,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    places: Mapping[int, Place],
    chains: Sequence[Chain],
    find_switches: FindSwitches,
) -> StageView:
    name = summary["name"]
    config = recipe.stages[name]
    evals = {} if config.leaves == "table" else summary.get("eval", {})
    by_problems = {when: result for when, result in evals.items() if "pass_at_1" in result}
    keys = [key for key in MEASURES if any(e.get(key) is not None for e in by_problems.values())]
    first = main_panels(rows)
    of_hero = {when: e for when, e in by_problems.items() if when in ENDS} if "reward" in logged(rows) else {}
    draw = partial(_chart, rows=rows, places=places, num_steps=summary["num_steps"])
    panels = [] if config.leaves == "table" else all_panels(rows)
    shown = [draw(p, evals=of_hero if p is first[0] else {}, is_large=p is first[0]) for p in first]
    file = Path(summary.get("file", ""))
    kept = read_data(file, summary["num_samples"]) if "num_samples" in summary else []
    start = model_input(recipe.stages, name)
    return StageView(
        name=name,
        config=config,
        summary=summary,
        reads=list(dict.fromkeys([start if start != SOURCE else "the recipe's model", *inputs_of(recipe.stages, name)])),
        charts=[c for c in shown if c.legend],
        more=[draw(p, evals={}, is_large=False) for p in panels if p not in first],
        ends=[] if config.leaves == "table" else _ends(name, config, rows),
        evals=[(when, e, drawn(e), cells(e, keys)) for when, e in by_problems.items()],
        measures=[MEASURES[key][0] for key in keys],
        figures=figures(run_dir / "stages" / name / "result.json", evals),
        chains=[chain_view(c, find_switches) for c in choose(chains)],
        num_chains=len(chains),
        samples=[chain_view(c, find_switches) for c in kept],
        num_samples=summary.get("num_samples"),
        file=file.name,
    )


def _chart(
    panel: Panel, rows: Sequence[Row], places: Mapping[int, Place], num_steps: int, evals: Mapping[str, Any], is_large: bool
) -> ChartView:
    names = logged(rows)
    legend = [(line.label, COLOURS[line.colour]) for line in panel.lines if line.metric in names]
    unit = panel.unit if panel.unit != "share" else ""
    return ChartView(panel.title, unit, legend, chart(panel, rows, axes(rows, places, num_steps), evals, is_large), is_large)


def _ends(name: str, config: StageConfig, rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Every metric's mean over the first and the last fifth of the steps."""
    curves = StageCurves(name, config, [dict(r) for r in rows], {}, "fp32")
    table = []
    for name in logged(rows):
        known = metric(name)
        meaning = known.meaning + (f" [{known.unit}]" if known.unit else "")
        early, late = curves.ends(name)
        table.append((name, meaning, number(early), number(late)))
    return table


def chain_view(row: Chain, find_switches: FindSwitches) -> ChainView:
    """Of a row of samples.jsonl or data.jsonl; a key it lacks is left out of the page."""
    text = chain(str(row.get("completion", "")), find_switches)
    accuracy, tokens = row.get("accuracy"), row.get("tokens")
    facts = [str(row[key]) for key in ("task", "domain", "source") if row.get(key)]
    facts += [f"{tokens:,} tokens"] if tokens is not None else []
    facts += [str(row["stop_reason"]).replace("_", " ")] if row.get("stop_reason") else []
    return ChainView(
        where=_where(row),
        verdict="" if accuracy is None else "right" if accuracy >= 1 else "wrong" if accuracy <= 0 else f"{accuracy:.2f} right",
        facts=facts,
        parts=sorted(row.get("parts", {}).items()),
        reward=row.get("reward"),
        question=short(str(row.get("question", ""))),
        answer=short(str(row.get("answer", ""))),
        read=None if row.get("read") is None else short(str(row["read"])),
        text=text,
        marks=text.count("<mark>"),
        is_cut='class="gap"' in text,
    )


def _where(row: Chain) -> str:
    time, _, kind = str(row.get("when", "")).partition("_")
    words = {"before": "before the first step", "after": "after the last step", "training": f"step {row.get('step', 0) + 1}"}
    return ", ".join(part for part in (words.get(time, ""), kind) if part)
