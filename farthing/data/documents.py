"""Corpora -> rows of tokens to pretrain on, in a seeded order with an exact cursor; documents are held out by content.

The corpus is tokenised once, into files beside the run's checkpoints, and read from there by position: which piece comes
n-th depends on the seed alone, so that a resumed run sees what it would have seen. A piece is a document, or as much of one
as a window holds: what is left goes on in another piece, overlapping by the one token that is only context; none is cut
off. A window is packed with pieces as they come; one that does not fit waits for a later window (DeepSeek-V3 packs whole
documents too, section 4.1 of arXiv:2412.19437, after arXiv:2404.10830). Each piece is a row of its own, with positions from
0 and attention to itself alone, and rows lie in a microbatch without padding (data/batches.py): unlike in V3, no document
sees another.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from farthing.data.batches import Row
from farthing.data.corpora import corpus_texts
from farthing.data.fim import FillInMiddle
from farthing.errors import DataError
from farthing.tokenizer import Tokenizer

TOKENISE_AT_ONCE = 256
SHORTEST = 2
"""Tokens of the shortest piece: one for context, one to predict."""
MOST_WAITING = 64
"""Pieces that wait for a window with room; with so many, windows are 95% full and more where some documents are short."""


class DocumentStream:
    """Windows of pieces of training documents, epoch after epoch, each in an order of its own."""

    def __init__(self, folder: Path, window_tokens: int, seed: int, test_share: float) -> None:
        """`folder`: what `tokenise` made. `window_tokens`: of a window, and so of the longest row."""
        self.cursor = 0
        """Pieces handed out; together with those that wait, the first so many of the order."""
        self._waiting: dict[int, Row] = {}
        self.seed, self.window_tokens = seed, window_tokens
        self._tokens = np.memmap(folder / "tokens", np.uint32, "r")
        self._ends = np.load(folder / "ends.npy", mmap_mode="r")
        self._sizes = np.load(folder / "sizes.npy", mmap_mode="r")
        is_test = np.load(folder / "places.npy", mmap_mode="r") < test_share
        self._train, self._test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
        if not len(self._train) or not len(self._test):
            raise DataError(
                f"of the corpus's {len(is_test):,} documents {len(self._train):,} are to train on and {len(self._test):,} held "
                f"out at test_share = {test_share}; both are needed. Give a larger corpus, or part it into more documents"
            )
        self._last_piece = np.cumsum(self._num_pieces(self._train))
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def take(self, num_windows: int) -> list[Row]:
        """The rows of the next windows; each has at least one, and at most `window_tokens` tokens in all."""
        return [row for _ in range(num_windows) for row in self._window()]

    def _window(self) -> list[Row]:
        """First fit: the pieces that wait, the oldest first, which always fits; then new ones, of which some have to wait."""
        rows: list[Row] = []
        room = self.window_tokens
        for n, row in list(self._waiting.items()):
            if len(row.tokens) <= room:
                rows.append(self._waiting.pop(n))
                room -= len(row.tokens)
        while room >= SHORTEST and len(self._waiting) < MOST_WAITING:
            n = self.cursor + len(rows) + len(self._waiting)
            row = self._row(n)
            if len(row.tokens) <= room:
                rows.append(row)
                room -= len(row.tokens)
            else:
                self._waiting[n] = row
        self.cursor += len(rows)
        return rows

    def held_out(self, num_documents: int) -> tuple[list[Row], int]:
        """All pieces of the first held-out documents, and the UTF-8 bytes of their text."""
        chosen = self._test[:num_documents]
        counts = self._num_pieces(chosen)
        rows = [self._piece(int(d), n) for d, count in zip(chosen, counts, strict=True) for n in range(count)]
        return rows, int(self._sizes[chosen].sum())

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "waiting": list(self._waiting)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cursor = int(state["cursor"])
        self._waiting = {n: self._row(n) for n in state["waiting"]}

    def _row(self, n: int) -> Row:
        epoch, place = divmod(n, int(self._last_piece[-1]))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(int(self._last_piece[-1]))
        piece = int(self._order[place])
        at = int(np.searchsorted(self._last_piece, piece, side="right"))
        return self._piece(int(self._train[at]), piece - (int(self._last_piece[at - 1]) if at else 0))

    def _num_pieces(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        lengths = self._ends[documents] - np.where(documents > 0, self._ends[documents - 1], 0)
        return np.asarray(-(-(lengths - 1) // (self.window_tokens - 1)))

    def _piece(self, document: int, number: int) -> Row:
        start = int(self._ends[document - 1]) if document else 0
        at = start + number * (self.window_tokens - 1)
        tokens = self._tokens[at : min(at + self.window_tokens, int(self._ends[document]))]
        return Row(tokens.tolist(), 1)


def tokenise(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    digests: dict[str, str],
    test_share: float = 0.0,
    fim: FillInMiddle | None = None,
) -> None:
    """Writes every document as end-of-text, its tokens, end-of-text; does nothing where that was done from the same inputs.

    `fim` is for the documents that `test_share` leaves to train on: those held out stay as they are.
    """
    identity: dict[str, Any] = {"inputs": digests, "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()}
    if fim is not None:
        identity["fim"] = {**asdict(fim), "tokens": list(fim.tokens), "test_share": test_share}
    done = folder / "identity.json"
    if done.is_file() and json.loads(done.read_text()) == identity:
        return
    partial = folder.parent / f"{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    ends, sizes, places = array("q"), array("q"), array("d")
    with (partial / "tokens").open("wb") as file:
        for texts in _groups(corpus_texts(paths)):
            found = [text.encode() for text in texts]
            at = [int.from_bytes(hashlib.sha256(data).digest()[:4]) / 2**32 for data in found]
            first = len(ends)
            is_train = [place >= test_share for place in at]
            for ids, data, place in zip(_encode(texts, tokenizer, fim, first, is_train), found, at, strict=True):
                tokens = np.array([tokenizer.eos_id, *ids, tokenizer.eos_id], dtype=np.uint32)
                file.write(tokens.tobytes())
                ends.append((ends[-1] if ends else 0) + len(tokens))
                sizes.append(len(data))
                places.append(place)
    if not ends:
        raise DataError(f"{', '.join(map(str, paths))}: the corpus has no documents. Check it with `farthing data check`.")
    for name, values in (("ends", ends), ("sizes", sizes), ("places", places)):
        np.save(partial / f"{name}.npy", np.array(values))
    (partial / "identity.json").write_text(json.dumps(identity))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _encode(
    texts: Sequence[str], tokenizer: Tokenizer, fim: FillInMiddle | None, first: int, is_train: Sequence[bool]
) -> list[list[int]]:
    """Tokens of every text; `first` is the number of the first."""
    parts: list[tuple[str, ...]] = [(text,) for text in texts]
    if fim is not None:
        cut = (fim.parts(first + i, text) if is_train[i] else None for i, text in enumerate(texts))
        parts = [found or whole for found, whole in zip(cut, parts, strict=True)]
    ids = iter(tokenizer.encode_documents([part for document in parts for part in document]))
    encoded = [[next(ids) for _ in document] for document in parts]
    return [own[0] if len(own) == 1 or fim is None else fim.join(*own) for own in encoded]


def _groups(texts: Iterator[str]) -> Iterator[list[str]]:
    while group := list(islice(texts, TOKENISE_AT_ONCE)):
        yield group
