"""The chains kept of every stage -> how often each self-verification word stands in them, before, on the way and after.

Few chains are kept, so this says which words; how often over all rollouts is the curve of the metric `reflection`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.reflection import REFLECTION_WORDS, count_words
from farthing.report.chains import SHOWN, Chain, time_of

PARTS = 3
"""Training is split into as many parts."""


@dataclass(frozen=True)
class WordsView:
    """Of one stage: a column a time, a row a word; numbers are words a completion."""

    stage: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def words_view(stage: str, config: Any, chains: Sequence[Chain]) -> WordsView | None:
    """None where none of the words was written, as in chains of toy tasks."""
    words: Sequence[str] = getattr(config, "reflection_words", REFLECTION_WORDS)
    times = {name: [str(c.get("completion", "")) for c in part] for name, part in _times(chains).items() if part}
    counts = {name: count_words(texts, words) for name, texts in times.items()}
    found = [word for word in words if any(count[word] for count in counts.values())]
    if not found:
        return None
    rows = [(word, [f"{counts[name][word] / len(texts):.2f}" for name, texts in times.items()]) for word in found]
    total = [f"{counts[name].total() / len(texts):.2f}" for name, texts in times.items()]
    return WordsView(stage, [f"{name} ({len(texts)})" for name, texts in times.items()], [*rows, ("all", total)])


def _times(chains: Sequence[Chain]) -> Mapping[str, list[Chain]]:
    """Before, thirds of what was kept in training, after."""
    times: dict[str, list[Chain]] = {}
    for when in SHOWN:
        mine = [c for c in chains if time_of(c) == when]
        if when != "training":
            times[when] = mine
            continue
        for number in range(PARTS):
            part = mine[number * len(mine) // PARTS : (number + 1) * len(mine) // PARTS]
            if part:
                times[f"steps {part[0]['step'] + 1} to {part[-1]['step'] + 1}"] = part
    return times
