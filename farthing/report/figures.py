"""result.json and the evaluations of a stage -> the cells of its table, and every other figure by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from farthing.files import read_json
from farthing.report.charts import interval

ELSEWHERE = ("metrics", "eval", "file", "num_steps")
"""Keys of result.json that the page shows in a way of their own."""
IN_THE_TABLE = ("pass_at_1", "ci95", "per_task")
MEASURES = {
    "pass_at_8": ("pass@8", "{:.1%}"),
    "format_only": ("well formed", "{:.1%}"),
    "language_consistency": ("in the right language", "{:.1%}"),
    "mixed": ("mixing languages", "{:.1%}"),
    "readable": ("readable", "{:.1%}"),
    "score": ("reward model", "{:.3g}"),
    "mean_completion_tokens": ("tokens", "{:,.1f}"),
    "n": ("problems", "{:,}"),
    "samples": ("samples of each", "{:,}"),
}
"""Of an evaluation, beside pass@1: key -> (heading, format)."""


def drawn(result: Mapping[str, Any]) -> Markup:
    """Its interval as a bar."""
    return interval(result["ci95"][0], result["pass_at_1"], result["ci95"][1])


def cells(result: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return ["" if result.get(key) is None else MEASURES[key][1].format(result[key]) for key in keys]


def figures(path: Path, evals: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Of result.json and the evaluations, all but what the page has elsewhere."""
    result = read_json(path) if path.is_file() else {}
    other = {
        f"{when}: {key}": value
        for when, e in evals.items()
        for key, value in e.items()
        if key not in (*IN_THE_TABLE, *MEASURES)
    }
    more = {key: value for key, value in result.items() if key not in ELSEWHERE}
    return [pair for key, value in (result.get("metrics", {}) | more | other).items() for pair in flat(key, value)]


def flat(name: str, value: Any) -> list[tuple[str, str]]:
    """A table within as one line for each of its values."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flat(f"{name}, {key}", inner)]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [(name, "; ".join(f"{key} {text}" for key, text in flat_row(inner))) for inner in value]
    return [(name, ", ".join(map(figure, value)) if isinstance(value, list) else figure(value))]


def flat_row(row: Any) -> list[tuple[str, str]]:
    pairs = [pair for key, value in row.items() for pair in flat(key, value)] if isinstance(row, dict) else [("", figure(row))]
    return [(key, text) for key, text in pairs if text]


def figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.6g}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)
