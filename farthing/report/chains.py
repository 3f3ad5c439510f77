"""samples.jsonl and data.jsonl -> some chains of every stage to look at: before, on the way, after, and what was kept."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from farthing.summary import superseded

SHOWN = {"before": 2, "training": 6, "after": 4}
"""Chains of a stage on the page, by when they were sampled."""
SHOWN_OF_DATA = 6
NEEDED = {"stage", "attempt", "step", "when", "question"}

T = TypeVar("T")
Chain = dict[str, Any]


def read_chains(run_dir: Path) -> dict[str, list[Chain]]:
    """Stage -> what samples.jsonl kept of it, in order of sampling; of a step that was done twice, the last time's.

    Lines that were cut short by a kill are left out, and so is what a stage sampled before its recipe changed.
    """
    again = superseded(run_dir)
    stages: dict[str, dict[tuple[Any, ...], Chain]] = {}
    for row in _rows(run_dir / "samples.jsonl"):
        stage, attempt = row["stage"], row["attempt"]
        if attempt >= again.get(stage, 0):
            key = (row["when"], row["step"], row["question"])
            kept = stages.setdefault(stage, {})
            kept.pop(key, None)
            kept[key] = row
    return {stage: sorted(kept.values(), key=_place) for stage, kept in stages.items()}


def time_of(chain: Chain) -> str:
    """before, training or after; an evaluation of several kinds of prompts says which behind it: after_helpfulness."""
    return str(chain["when"]).partition("_")[0]


def _place(chain: Chain) -> tuple[int, int]:
    return list(SHOWN).index(time_of(chain)), chain["step"]


def _rows(path: Path) -> Iterator[Chain]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # half a line: its step is done again
            if isinstance(row, dict) and row.keys() >= NEEDED and time_of(row) in SHOWN:
                yield row


def choose(chains: Sequence[Chain]) -> list[Chain]:
    """Those to show, evenly spread within each time of sampling."""
    return [c for when, count in SHOWN.items() for c in spread([c for c in chains if time_of(c) == when], count)]


def read_data(path: Path, total: int) -> list[Chain]:
    """Some of the `total` samples of a data.jsonl, evenly spread over it. It may be far larger than memory."""
    wanted = set(spread(range(total), SHOWN_OF_DATA))
    with path.open("rb") as file:
        lines = (line for line in file if line.strip())
        return [json.loads(line) for number, line in enumerate(lines) if number in wanted]


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of them, the first and the last included, at even distances; all where there are no more."""
    if len(items) <= count or count < 2:
        return list(items[:count])
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
