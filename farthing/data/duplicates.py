"""Documents' digests and shingles, batch after batch -> which documents repeat an earlier one, exactly or nearly.

MinHash signatures by rensa (Rust), banded for locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman, Ullman, ch. 3).
Everything lies on disk; finding twins sorts one band's keys at a time, in parts of PART_DOCUMENTS, so memory stays bounded:
at most about 32 bytes a document up to that many, and constant beyond. A candidate counts only where the signatures
themselves (8 bits of each slot, Li and Koenig, arXiv:0910.3349) agree, unlike in datatrove, where sharing a band is enough.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import rensa

from farthing.data.words import Hashes, Offsets, mix

PART_DOCUMENTS = 8 << 20
BLOCK_ROWS = 1 << 16
RECALL = 0.99
SEED = 42
KEPT, EXACT, NEAR = 0, 1, 2
_FOLD = np.uint64(0x9E3779B97F4A7C15)


class Bands(NamedTuple):
    num: int
    rows: int


def choose_bands(threshold: float, permutations: int) -> Bands:
    """The longest rows with which pairs at the threshold still share a band with probability RECALL."""
    for rows in range(permutations, 0, -1):
        count = permutations // rows
        if 1 - (1 - threshold**rows) ** count >= RECALL:
            return Bands(count, rows)
    return Bands(permutations, 1)


class Verdicts(NamedTuple):
    kind: npt.NDArray[np.uint8]
    """[D]: KEPT, EXACT or NEAR."""
    twin: npt.NDArray[np.int64]
    """[D]: the earlier document it repeats, -1 where it is kept."""


class DuplicateIndex:
    """Add every document of a corpus in order, then `resolve`. Uses about 300 bytes of disk a document."""

    def __init__(self, folder: Path, near: bool, threshold: float, permutations: int) -> None:
        self.folder, self.threshold, self.near = folder, threshold, near
        self.permutations = permutations
        self.bands = choose_bands(threshold, permutations) if near else Bands(0, 0)
        self.num_documents = 0
        folder.mkdir(parents=True)
        names = ["digests", "signatures", *(f"band{b}" for b in range(self.bands.num))]
        self._files: dict[str, BinaryIO] = {name: (folder / name).open("wb") for name in names}

    def add(self, digests: Sequence[bytes], shingles: tuple[Hashes, Offsets] | None) -> None:
        """`digests`: 16 bytes a document; `shingles`: flat hashes and offsets, where near-duplicates are wanted."""
        self._files["digests"].write(b"".join(digests))
        self.num_documents += len(digests)
        if shingles is None:
            return
        flat, offsets = shingles
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets.astype(np.uint64), self.permutations, SEED)
        slots = np.array(matrix.to_rows(), dtype=np.uint64)
        mixed = mix(slots + _FOLD)
        self._files["signatures"].write((mixed >> np.uint64(56)).astype(np.uint8).tobytes())
        for b in range(self.bands.num):
            key = np.full(len(slots), b, dtype=np.uint64)
            for column in range(b * self.bands.rows, (b + 1) * self.bands.rows):
                key = (key + mixed[:, column]) * _FOLD
            self._files[f"band{b}"].write(mix(key).tobytes())

    def resolve(self) -> Verdicts:
        """Exact repeats first, then near ones. Kinds and twins are kept on disk."""
        self.close()
        kind = np.memmap(self.folder / "kind", np.uint8, "w+", shape=(max(self.num_documents, 1),))
        twin = np.memmap(self.folder / "twin", np.int64, "w+", shape=(max(self.num_documents, 1),))
        twin[:] = -1
        if self.num_documents:
            self._exact(Verdicts(kind, twin))
            for b in range(self.bands.num):
                self._near(b, Verdicts(kind, twin))
        return Verdicts(kind, twin)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def digest(self, document: int) -> str:
        with (self.folder / "digests").open("rb") as file:
            file.seek(16 * document)
            return file.read(16).hex()

    def _exact(self, verdicts: Verdicts) -> None:
        digests = np.memmap(self.folder / "digests", np.uint64, "r").reshape(-1, 2)
        for later, earlier in _pairs(digests[:, 0]):
            same = digests[later, 1] == digests[earlier, 1]
            _mark(verdicts, EXACT, later[same], earlier[same])

    def _near(self, band: int, verdicts: Verdicts) -> None:
        keys = np.memmap(self.folder / f"band{band}", np.uint64, "r")
        signatures = np.memmap(self.folder / "signatures", np.uint8, "r").reshape(-1, self.permutations)
        for later, earlier in _pairs(keys):
            open_ = verdicts.kind[later] == KEPT
            later, earlier = later[open_], earlier[open_]
            for at in range(0, len(later), BLOCK_ROWS):
                left, right = later[at : at + BLOCK_ROWS], earlier[at : at + BLOCK_ROWS]
                agree = np.mean(signatures[left] == signatures[right], axis=1)
                near = (agree - 1 / 256) / (255 / 256) >= self.threshold  # two slots of 8 bits agree by chance once in 256
                _mark(verdicts, NEAR, left[near], right[near])


def _mark(verdicts: Verdicts, kind: int, later: Offsets, earlier: Offsets) -> None:
    new = verdicts.kind[later] == KEPT
    verdicts.kind[later[new]] = kind
    verdicts.twin[later[new]] = earlier[new]


def _pairs(keys: Hashes) -> Iterator[tuple[Offsets, Offsets]]:
    """(later, earlier) documents with equal keys: each with the first of its key, and with the one before it."""
    num_parts = -(-len(keys) // PART_DOCUMENTS)
    for part in range(num_parts):
        where = _part(keys, part, num_parts)
        values = keys[where]
        order = np.argsort(values, kind="stable")
        where, values = where[order], values[order]
        is_first = np.ones(len(values), dtype=bool)
        is_first[1:] = values[1:] != values[:-1]
        repeats = np.flatnonzero(~is_first)
        if not len(repeats):
            continue
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))[repeats]
        yield where[repeats], where[first]
        before = repeats - 1
        other = before != first
        yield where[repeats[other]], where[before[other]]


def _part(keys: Hashes, part: int, num_parts: int) -> Offsets:
    """The documents whose keys fall into this part; read in blocks, the whole column never lies in memory."""
    if num_parts == 1:
        return np.arange(len(keys))
    found = []
    for at in range(0, len(keys), BLOCK_ROWS):
        found.append(at + np.flatnonzero(keys[at : at + BLOCK_ROWS] % np.uint64(num_parts) == part))
    return np.concatenate(found)
