"""Corpora -> rows of tokens to pretrain on, in a seeded order with an exact cursor; documents are held out by content.

The corpus is tokenised once, into files beside the run's checkpoints, and read from there by position: which window comes
n-th depends on the seed alone, so that a resumed run sees what it would have seen. A document longer than a window goes on
in the next one, overlapping by the one token that is only context; none is cut off.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from farthing.data.batches import Row
from farthing.data.corpora import corpus_texts
from farthing.errors import DataError
from farthing.tokenizer import Tokenizer

TOKENISE_AT_ONCE = 256


class DocumentStream:
    """Windows of training documents in order of `cursor`, epoch after epoch, each in an order of its own."""

    def __init__(self, folder: Path, window_tokens: int, seed: int, test_share: float) -> None:
        """`folder`: what `tokenise` made. `window_tokens`: the longest row."""
        self.cursor = 0
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
        self._last_window = np.cumsum(self._num_windows(self._train))
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> list[Row]:
        first = self.cursor
        self.cursor += count
        return [self._row(n) for n in range(first, self.cursor)]

    def held_out(self, num_documents: int) -> tuple[list[Row], int]:
        """All windows of the first held-out documents, and the UTF-8 bytes of their text."""
        chosen = self._test[:num_documents]
        counts = self._num_windows(chosen)
        rows = [self._window(int(d), w) for d, count in zip(chosen, counts, strict=True) for w in range(count)]
        return rows, int(self._sizes[chosen].sum())

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cursor = int(state["cursor"])

    def _row(self, n: int) -> Row:
        epoch, place = divmod(n, int(self._last_window[-1]))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(int(self._last_window[-1]))
        window = int(self._order[place])
        at = int(np.searchsorted(self._last_window, window, side="right"))
        return self._window(int(self._train[at]), window - (int(self._last_window[at - 1]) if at else 0))

    def _num_windows(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        lengths = self._ends[documents] - np.where(documents > 0, self._ends[documents - 1], 0)
        return np.asarray(-(-(lengths - 1) // (self.window_tokens - 1)))

    def _window(self, document: int, window: int) -> Row:
        start = int(self._ends[document - 1]) if document else 0
        at = start + window * (self.window_tokens - 1)
        tokens = self._tokens[at : min(at + self.window_tokens, int(self._ends[document]))]
        return Row(tokens.tolist(), 1)


def tokenise(paths: Sequence[Path], tokenizer: Tokenizer, folder: Path, digests: dict[str, str]) -> None:
    """Writes every document as end-of-text, its tokens, end-of-text; does nothing where that was done from the same inputs."""
    identity = {"inputs": digests, "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()}
    done = folder / "identity.json"
    if done.is_file() and json.loads(done.read_text()) == identity:
        return
    partial = folder.parent / f"{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    ends, sizes, places = array("q"), array("q"), array("d")
    with (partial / "tokens").open("wb") as file:
        for texts in _groups(corpus_texts(paths)):
            for text, ids in zip(texts, tokenizer.encode_documents(texts), strict=True):
                tokens = np.array([tokenizer.eos_id, *ids, tokenizer.eos_id], dtype=np.uint32)
                file.write(tokens.tobytes())
                data = text.encode()
                ends.append((ends[-1] if ends else 0) + len(tokens))
                sizes.append(len(data))
                places.append(int.from_bytes(hashlib.sha256(data).digest()[:4]) / 2**32)
    if not ends:
        raise DataError(f"{', '.join(map(str, paths))}: the corpus has no documents. Check it with `farthing data check`.")
    for name, values in (("ends", ends), ("sizes", sizes), ("places", places)):
        np.save(partial / f"{name}.npy", np.array(values))
    (partial / "identity.json").write_text(json.dumps(identity))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _groups(texts: Iterator[str]) -> Iterator[list[str]]:
    while group := list(islice(texts, TOKENISE_AT_ONCE)):
        yield group
