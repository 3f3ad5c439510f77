"""table.json of an `evaluate` stage -> the table of models as the page shows it, after table 3 of arXiv:2501.12948."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from farthing.ledger.statement import usd_short
from farthing.report.figures import MEASURES, cells, drawn


@dataclass(frozen=True)
class Cell:
    """A model on a suite."""

    share: str
    ci95: str
    bar: Markup
    is_best: bool


@dataclass(frozen=True)
class ModelRow:
    model: str
    cells: list[Cell | None]
    seconds: float
    usd: str
    usd_cumulative: str


@dataclass(frozen=True)
class SuiteView:
    """The other measures of one suite: a row a model."""

    name: str
    headings: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class TableView:
    suites: list[str]
    rows: list[ModelRow]
    details: list[SuiteView]


def table_view(rows: Sequence[Mapping[str, Any]]) -> TableView:
    """Rows in the order of the file; a model that was not asked a suite has an empty cell."""
    suites = list(dict.fromkeys(suite for row in rows for suite in row["suites"]))
    best = {suite: max(row["suites"][suite]["pass_at_1"] for row in rows if suite in row["suites"]) for suite in suites}
    lines = [
        ModelRow(
            row["model"],
            [_cell(row["suites"].get(suite), best[suite]) for suite in suites],
            row["seconds"],
            usd_short(row["usd"]),
            usd_short(row["usd_cumulative"]),
        )
        for row in rows
    ]
    return TableView(suites, lines, [_suite(suite, rows) for suite in suites])


def _cell(result: Mapping[str, Any] | None, best: float) -> Cell | None:
    if result is None:
        return None
    share, (low, high) = result["pass_at_1"], result["ci95"]
    return Cell(f"{share:.1%}", f"{low:.1%} to {high:.1%}", drawn(result), share >= best)


def _suite(suite: str, rows: Sequence[Mapping[str, Any]]) -> SuiteView:
    """Only the measures that some model has."""
    results = [(row["model"], row["suites"][suite]) for row in rows if suite in row["suites"]]
    keys = [key for key in MEASURES if any(result.get(key) is not None for _, result in results)]
    headings = [MEASURES[key][0] for key in keys]
    return SuiteView(suite, headings, [(model, cells(result, keys)) for model, result in results])
