"""Batches of documents -> those that pass every step, with digests and shingles; counts in and out of each step, by reason."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import xxhash

from farthing.data import pii
from farthing.data.contamination import ContaminationIndex, SetReport
from farthing.data.language import language
from farthing.data.normalise import normalise
from farthing.data.provenance import ProvenanceReport, traces
from farthing.data.reading import Document
from farthing.data.recipe import DataRecipe
from farthing.data.words import Hashes, Offsets, Words, shingles, words

BATCH_BYTES = 1 << 20
BATCH_DOCUMENTS = 4096


class Aside(Protocol):
    """Where dropped documents go, if anywhere."""

    def document(self, where: str, step: str, reason: str, text: str) -> None: ...


@dataclass
class Kept:
    """What is left of a batch. B documents."""

    rows: list[bytes]
    """JSON of id, text, source and language."""
    sizes: list[int]
    """UTF-8 bytes of each text."""
    languages: list[str]
    digests: list[bytes]
    shingles: tuple[Hashes, Offsets] | None


@dataclass
class Step:
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Tally:
    """Steps in order, each with what went in, what came out, and why the rest did not."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}

    def open(self, name: str) -> Step:
        if name not in self.steps:
            self.steps[name] = Step()
        return self.steps[name]

    def count(self, name: str, size: int, reason: str | None) -> None:
        step = self.open(name)
        step.documents_in += 1
        step.bytes_in += size
        if reason is None:
            step.documents_out += 1
            step.bytes_out += size
        else:
            step.reasons[reason] += 1

    def read(self, source: str, refused: Counter[str]) -> None:
        """Rows of a source that never became documents; they have no size in text."""
        step = self.open("read")
        for reason, count in refused.items():
            step.documents_in += count
            step.reasons[f"{source}: {reason}"] += count

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "step": name,
                "documents_in": s.documents_in,
                "documents_out": s.documents_out,
                "bytes_in": s.bytes_in,
                "bytes_out": s.bytes_out,
                "reasons": dict(s.reasons.most_common()),
            }
            for name, s in self.steps.items()
        ]


def batches(found: Iterable[Document]) -> Iterator[list[Document]]:
    """About BATCH_BYTES of text at a time: what bounds the memory and keeps NumPy's arrays in cache."""
    batch: list[Document] = []
    size = 0
    for document in found:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Cleaner:
    """The steps that look at one document at a time, in order."""

    def __init__(self, recipe: DataRecipe, base: Path, tally: Tally) -> None:
        self.recipe, self.tally = recipe, tally
        self.provenance = ProvenanceReport()
        self.pii_found: Counter[str] = Counter()
        wanted = recipe.decontaminate.sets
        masked = recipe.pii.kinds if recipe.pii.action == "mask" else ()
        self._contamination = ContaminationIndex(recipe.decontaminate, base, masked) if wanted else None

    @property
    def contamination_reports(self) -> list[SetReport]:
        return [] if self._contamination is None else self._contamination.reports

    def __call__(self, batch: list[Document], source: str, aside: Aside | None) -> Kept:
        for document in batch:
            self.tally.count("read", _size(document.text), None)
        batch = self._step("normalise", batch, self._normalise, aside)
        if self.recipe.language.tag or self.recipe.language.keep:
            batch = self._step("language", batch, self._language, aside)
        if self.recipe.pii.action != "off":
            batch = self._step("pii", batch, self._pii, aside)
        lowered = [document.text.lower() for document in batch]
        if self.recipe.provenance.action != "off":
            verdicts = [self._provenance(document, text) for document, text in zip(batch, lowered, strict=True)]
            batch, lowered = self._drop("provenance", batch, lowered, verdicts, aside)
        found = words([text.encode() for text in lowered]) if batch else None
        if self._contamination is not None and found is not None:
            verdicts = self._contamination.check(found)
            batch, lowered = self._drop("decontaminate", batch, lowered, verdicts, aside)
            if any(verdicts):
                found = words([text.encode() for text in lowered]) if batch else None
        return self._keep(batch, source, found)

    def _step(self, name: str, batch: list[Document], step: "_Step", aside: Aside | None) -> list[Document]:
        kept = []
        for document in batch:
            before = document.text
            reason = step(document)
            self._count(name, document, before, reason, aside)
            if reason is None:
                kept.append(document)
        return kept

    def _drop(
        self, name: str, batch: list[Document], lowered: list[str], reasons: list[str | None], aside: Aside | None
    ) -> tuple[list[Document], list[str]]:
        for document, reason in zip(batch, reasons, strict=True):
            self._count(name, document, document.text, reason, aside)
        kept = [i for i, reason in enumerate(reasons) if reason is None]
        return [batch[i] for i in kept], [lowered[i] for i in kept]

    def _count(self, name: str, document: Document, before: str, reason: str | None, aside: Aside | None) -> None:
        step = self.tally.open(name)
        size = _size(before)
        step.documents_in += 1
        step.bytes_in += size
        if reason is None:
            step.documents_out += 1
            step.bytes_out += size if document.text is before else _size(document.text)
            return
        step.reasons[reason] += 1
        if aside is not None:
            aside.document(document.where, name, reason, document.text)

    def _normalise(self, document: Document) -> str | None:
        document.text = normalise(document.text)
        return "too short" if _size(document.text) < self.recipe.read.min_document_bytes else None

    def _language(self, document: Document) -> str | None:
        config = self.recipe.language
        document.language = language(document.text, config.min_confidence)
        return None if not config.keep or document.language in config.keep else f"language {document.language}"

    def _pii(self, document: Document) -> str | None:
        found = pii.find(document.text, self.recipe.pii.kinds)
        if not found:
            return None
        self.pii_found.update(f.kind for f in found)
        if self.recipe.pii.action == "drop":
            return f"holds {', '.join(sorted({f.kind for f in found}))}"
        document.text = pii.mask(document.text, found)
        return None

    def _provenance(self, document: Document, lowered: str) -> str | None:
        found = list(traces(lowered))
        self.provenance.add(document.where, found)
        return found[0].kind if found and self.recipe.provenance.action == "drop" else None

    def _keep(self, batch: list[Document], source: str, found: Words | None) -> Kept:
        rows, sizes, digests = [], [], []
        for document in batch:
            data = document.text.encode()
            digest = xxhash.xxh3_128_digest(data)
            row = {"id": digest.hex(), "text": document.text, "source": source, "language": document.language}
            rows.append(orjson.dumps(row))
            sizes.append(len(data))
            digests.append(digest)
        languages = [document.language for document in batch]
        wanted = None
        if found is not None and self.recipe.dedup.level == "near":
            wanted = shingles(found, self.recipe.dedup.ngram, _first_words(digests))
        return Kept(rows, sizes, languages, digests, wanted)


class _Step(Protocol):
    def __call__(self, document: Document) -> str | None: ...


def _first_words(digests: list[bytes]) -> Hashes:
    return np.frombuffer(b"".join(digests), dtype=np.uint64)[::2].copy()


def _size(text: str) -> int:
    """UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", errors="surrogatepass"))
