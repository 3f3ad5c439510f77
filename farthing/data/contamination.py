"""Evaluation sets -> an index of their word n-grams; a batch of documents -> which of them hold items of which sets.

13-grams as in GPT-3 (arXiv:2005.14165, appendix C). Beyond it: items shorter than the n-gram must match whole; and
everything is matched a second time with numbers masked, because a word problem with other numbers ("Tom has <N> apples")
still gives the solution away.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farthing.data import pii
from farthing.data.normalise import normalise
from farthing.data.reading import Intake, file_documents, kind_of
from farthing.data.recipe import DecontaminateConfig, EvaluationSetConfig, ReadConfig
from farthing.data.words import Hashes, Words, ngrams, ngrams_of_lengths, starts_within, words
from farthing.errors import DataError

FILTER_BITS = 22
ITEMS_PER_BATCH = 512


@dataclass
class SetReport:
    """What was found of one evaluation set."""

    name: str
    num_items: int = 0
    num_too_short: int = 0
    documents: Counter[str] = field(default_factory=Counter)
    """Documents that hold any of it, by kind of match: "verbatim" or "numbers masked"."""
    items: set[int] = field(default_factory=set)

    def to_json(self) -> dict[str, object]:
        return {
            "set": self.name,
            "items": self.num_items,
            "items_too_short_to_look_for": self.num_too_short,
            "items_found": len(self.items),
            "documents_verbatim": self.documents["verbatim"],
            "documents_numbers_masked": self.documents["numbers masked"],
        }


class _Table:
    """The n-grams of one length, in order of their hashes, each with the first item of every set that has it: a phrase that
    begins ten thousand items must not make ten thousand finds of every place that it is met at."""

    def __init__(self, hashes: Hashes, items: npt.NDArray[np.int64], sets: npt.NDArray[np.int64]) -> None:
        order = np.lexsort((sets, hashes))
        hashes, items, sets = hashes[order], items[order], sets[order]
        is_first = np.ones(len(hashes), dtype=bool)
        is_first[1:] = (hashes[1:] != hashes[:-1]) | (sets[1:] != sets[:-1])
        self.hashes, self.items = hashes[is_first], items[is_first]
        self.maybe = np.zeros(1 << FILTER_BITS, dtype=bool)
        self.maybe[self.hashes >> np.uint64(64 - FILTER_BITS)] = True

    def find(self, grams: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(positions in `grams`, item), one pair for each set that has the n-gram; the bit table turns nearly all away without
        a search."""
        at = np.flatnonzero(self.maybe[grams >> np.uint64(64 - FILTER_BITS)])
        first = np.searchsorted(self.hashes, grams[at])
        counts = np.searchsorted(self.hashes, grams[at], side="right") - first
        # place 0, 1, ... of each run of equal hashes
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(at, counts), self.items[np.repeat(first, counts) + within]


class ContaminationIndex:
    """Looks documents up in all evaluation sets of a recipe and keeps count."""

    def __init__(self, config: DecontaminateConfig, base: Path, masked: Collection[str] = ()) -> None:
        """`masked`: kinds of personal data that are masked in the documents, and so in the items."""
        self.config, self.masked = config, masked
        self.reports = [SetReport(s.name) for s in config.sets]
        self._owner: list[tuple[int, int]] = []
        """item -> (set, number in the set)."""
        parts: dict[tuple[str, int], list[tuple[Hashes, npt.NDArray[np.int64]]]] = {}
        for number, one in enumerate(config.sets):
            texts = list(_items(one, base))
            for at in range(0, len(texts), ITEMS_PER_BATCH):
                self._add(number, texts[at : at + ITEMS_PER_BATCH], parts)
            if not self.reports[number].num_items:
                raise DataError(f"evaluation set {one.name!r}: {one.path} has no items. Correct its path or fields.")
        sets = np.array([number for number, _ in self._owner], dtype=np.int64)
        self._tables = {}
        for key, pieces in parts.items():
            if any(len(h) for h, _ in pieces):
                items = np.concatenate([i for _, i in pieces])
                self._tables[key] = _Table(np.concatenate([h for h, _ in pieces]), items, sets[items])

    def _add(
        self,
        number: int,
        texts: list[tuple[int, str]],
        parts: dict[tuple[str, int], list[tuple[Hashes, npt.NDArray[np.int64]]]],
    ) -> None:
        report, config = self.reports[number], self.config
        found = words([self._as_documents_are(text).encode() for _, text in texts])
        for d, (row, _) in enumerate(texts):
            report.num_items = max(report.num_items, row + 1)
            own = slice(found.offsets[d], found.offsets[d + 1])
            length = min(config.ngram, own.stop - own.start)
            if length < config.min_words:
                report.num_too_short += 1
                continue
            item = len(self._owner)
            self._owner.append((number, row))
            grams = ngrams(found.hashes_W[own], length)
            parts.setdefault(("verbatim", length), []).append((grams, np.full(len(grams), item)))
            if config.mask_numbers:
                grams = ngrams(found.masked()[own], length)[_wordy(found.is_number_W[own], length)]
                parts.setdefault(("numbers masked", length), []).append((grams, np.full(len(grams), item)))

    def _as_documents_are(self, text: str) -> str:
        """As a document reads when it is looked up: see the order of the steps in steps.py."""
        text = normalise(text)
        return (pii.mask(text, pii.find(text, self.masked)) if self.masked else text).lower()

    def check(self, found: Words) -> list[str | None]:
        """For each document of the batch: None, or the set and the kind of match that make it contaminated."""
        num_documents = len(found.offsets) - 1
        verdicts: list[str | None] = [None] * num_documents
        seen: set[tuple[int, int]] = set()
        for kind in ("verbatim", "numbers masked"):
            hashes = found.hashes_W if kind == "verbatim" else found.masked()
            lengths = sorted(length for table_kind, length in self._tables if table_kind == kind)
            for length, grams in ngrams_of_lengths(hashes, lengths):
                at, items = self._tables[kind, length].find(grams)
                if len(at):
                    inside = starts_within(found.offsets, length, len(grams))[at]
                    rows = np.searchsorted(found.offsets, at[inside], side="right") - 1
                    self._count(kind, rows, items[inside], verdicts, seen)
        return verdicts

    def _count(
        self,
        kind: str,
        rows: npt.NDArray[np.int64],
        items: npt.NDArray[np.int64],
        verdicts: list[str | None],
        seen: set[tuple[int, int]],
    ) -> None:
        for row, item in set(zip(rows.tolist(), items.tolist(), strict=True)):
            number, row_in_set = self._owner[item]
            report = self.reports[number]
            report.items.add(row_in_set)
            if (row, number) not in seen:
                seen.add((row, number))
                report.documents[kind] += 1
            verdicts[row] = verdicts[row] or f"contaminated: {report.name} ({kind})"


def _wordy(is_number_W: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.bool_]:
    """n-grams with more words than numbers: a row of numbers, masked, would match every other."""
    numbers = np.concatenate(([0], np.cumsum(is_number_W)))
    return np.asarray(2 * (numbers[length:] - numbers[:-length]) < length)


def _items(one: EvaluationSetConfig, base: Path) -> "Sequence[tuple[int, str]]":
    """(row, text) of every field; a row's number is its item's."""
    path = base / Path(one.path).expanduser()
    if not path.is_file():
        raise DataError(f"evaluation set {one.name!r}: {path} is not a file. Correct its path.")
    kind = kind_of(path)
    fields = one.fields if kind != "text" else ("",)
    rows: list[tuple[int, str]] = []
    for name in fields:
        found = file_documents(path, kind, name, "line", Intake(ReadConfig()))
        rows.extend((row, document.text) for row, document in enumerate(found))
    return rows
