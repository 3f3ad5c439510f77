"""Samples -> rows of tokens to fine-tune on: shuffled epochs with a seeded order and an exact cursor.

The samples are tokenised once, into files beside the run's checkpoints, and read from there by position (as documents.py does
for corpora): which sample comes n-th depends on the seed alone, so that a resumed run sees what it would have seen. Questions
go through the renderer as when the model is asked; completions carry the loss, the end of text with them.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from farthing.data.batches import Row
from farthing.data.samples import Sample, iter_samples
from farthing.errors import DataError
from farthing.renderer import Renderer, after_prefill
from farthing.tasks.problem import Problem

TooLong = Literal["error", "drop"]
TOKENISE_AT_ONCE = 256
COUNTED = ("dropped", "leaked")


class SampleRows:
    """Rows in order of `cursor`, epoch after epoch, each in an order of its own."""

    def __init__(self, folder: Path, seed: int, held_out_share: float = 0.0) -> None:
        """`folder`: what `tokenise_samples` made. `held_out_share` of the questions, by their content, is not trained on."""
        self.cursor, self.seed = 0, seed
        self._tokens = np.memmap(folder / "tokens", np.uint32, "r")
        self._ends, self._prompts = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ends", "prompts"))
        counted = json.loads((folder / "identity.json").read_text())
        self.num_dropped, self.num_leaked = int(counted["dropped"]), int(counted["leaked"])
        """Samples left out because they were too long, and because models are evaluated on their questions."""
        places = np.load(folder / "places.npy", mmap_mode="r")
        self._train, self._held_out = np.flatnonzero(places >= held_out_share), np.flatnonzero(places < held_out_share)
        if not len(self._train):
            raise DataError(
                f"all {len(places):,} samples are held out at held_out_share = {held_out_share:g}: nothing is left to "
                "train on. Lower it, or give more samples"
            )
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self._train)

    @property
    def num_held_out(self) -> int:
        return len(self._held_out)

    def held_out(self, count: int) -> list[Row]:
        """The first of the samples that are not trained on."""
        return [self._sample(int(i)) for i in self._held_out[:count]]

    @property
    def epochs(self) -> float:
        """Passes over the samples so far."""
        return self.cursor / len(self)

    def num_steps(self, epochs: float, batch_samples: int) -> int:
        """Steps of `batch_samples` that `epochs` passes take; the last one may begin another pass."""
        return num_steps_of(epochs, len(self), batch_samples)

    def take(self, count: int) -> list[Row]:
        first = self.cursor
        self.cursor += count
        return [self._row(n) for n in range(first, self.cursor)]

    def counts(self) -> dict[str, float]:
        """What a stage used of them, for its result."""
        leaked = {"leaked_samples": float(self.num_leaked)} if self.num_leaked else {}
        return {"samples": float(self.cursor), "epochs": self.epochs, "dropped_samples": float(self.num_dropped)} | leaked

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cursor = int(state["cursor"])

    def _row(self, n: int) -> Row:
        epoch, place = divmod(n, len(self))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        return self._sample(int(self._train[int(self._order[place])]))

    def _sample(self, sample: int) -> Row:
        start = int(self._ends[sample - 1]) if sample else 0
        return Row(self._tokens[start : int(self._ends[sample])].tolist(), int(self._prompts[sample]))


def tokenise_samples(
    files: Mapping[Path, str],
    renderer: Renderer,
    folder: Path,
    max_positions: int,
    too_long: TooLong = "error",
    held_out: Collection[str] = (),
) -> None:
    """Writes every sample's tokens; does nothing where that was done from the same `files` (path -> sha256), in the same way.

    Samples of questions in `held_out` (hashes of the problems that models are evaluated on) are left out, and counted.
    DataError for a text that the tokenizer cannot write, a completion without the recipe's prefill, and, unless `too_long` is
    "drop", a sample of more than `max_positions` tokens.
    """
    identity = {
        "files": list(files.values()),
        "tokenizer": hashlib.sha256(renderer.tokenizer.backend.to_str().encode()).hexdigest(),
        "prompt": [renderer.template, renderer.instruction, renderer.prefill, renderer.tokenizer.chat_template],
        "max_positions": max_positions,
        "too_long": too_long,
        "held_out": sorted(held_out),
    }
    done = folder / "identity.json"
    if done.is_file() and {k: v for k, v in json.loads(done.read_text()).items() if k not in COUNTED} == identity:
        return
    partial = folder.parent / f"{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    ends, prompts, places, dropped, leaked = array("q"), array("q"), array("d"), 0, 0
    with (partial / "tokens").open("wb") as file:
        for samples in _groups(chain.from_iterable(map(iter_samples, files))):
            for sample, row in zip(samples, rows_of(samples, renderer), strict=True):
                if held_out and Problem(sample.question, "", "").content_hash in held_out:
                    leaked += 1
                    continue
                if len(row.tokens) > max_positions:
                    dropped += 1
                    continue
                file.write(np.array(row.tokens, dtype=np.uint32).tobytes())
                ends.append((ends[-1] if ends else 0) + len(row.tokens))
                prompts.append(row.num_prompt)
                places.append(place_of(sample.question))
    if leaked and not ends and not dropped:
        raise DataError(f"all {leaked:,} samples are of questions that models of this recipe are evaluated on; give others")
    _require_fit(dropped, len(ends), max_positions, too_long)
    np.save(partial / "ends.npy", np.array(ends))
    np.save(partial / "prompts.npy", np.array(prompts))
    np.save(partial / "places.npy", np.array(places))
    (partial / "identity.json").write_text(json.dumps(identity | {"dropped": dropped, "leaked": leaked}))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def place_of(question: str) -> float:
    """In [0, 1), by the question alone, so that all its samples are held out or none. Not the place that parts training from
    test problems (tasks/task.py): samples are made from training problems, and by that one none would be held out."""
    folded = " ".join(question.split())
    return int.from_bytes(hashlib.sha256(f"held out/{folded}".encode("utf-8", "replace")).digest()[:4], "big") / 2**32


def rows_of(samples: Sequence[Sample], renderer: Renderer) -> list[Row]:
    """One row a sample, however long."""
    tokenizer = renderer.tokenizer
    tokenizer.encode_whole([s.question for s in samples])  # for its error: in a prompt, special tokens have power
    prompts = tokenizer.encode_all([renderer.prompt(s.question) for s in samples])
    completions = tokenizer.encode_whole([after_prefill(s.question, s.completion, renderer.prefill) for s in samples])
    return [
        Row([*prompt, *completion, tokenizer.eos_id], len(prompt))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _require_fit(num_long: int, num_kept: int, max_positions: int, too_long: TooLong) -> None:
    if num_long and too_long == "error":
        raise DataError(
            f"{num_long:,} of {num_long + num_kept:,} samples have more tokens than the {max_positions:,} positions there are; "
            'raise max_positions, make shorter samples, or set too_long = "drop" to leave them out'
        )
    if not num_kept:
        raise DataError(f"all {num_long:,} samples are longer than {max_positions:,} tokens: there is nothing to train on")


def _groups(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    while group := list(islice(samples, TOKENISE_AT_ONCE)):
        yield group


def num_steps_of(epochs: float, num_samples: int, batch_samples: int) -> int:
    """Steps that so many passes over the samples take."""
    return max(1, -(-round(epochs * num_samples) // batch_samples))
