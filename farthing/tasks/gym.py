"""A reasoning-gym dataset and a key -> one problem that carries the whole entry for its verifier.

One dataset object serves every draw, indexed by a hash of the key: item i of a dataset is seeded with seed + i, so
datasets made with neighbouring seeds would share almost all their items. Read against reasoning-gym 0.1.25.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from farthing.errors import DataError
from farthing.tasks.problem import Problem
from farthing.tasks.spec import unknown

DATASET_SEED = 0
SIZE = 2**31 - 1
SIZES: Mapping[str, int] = {"gsm_symbolic": 100_000, "list_functions": 100_000, "word_ladder": 20_000, "acre": 2_000}
"""Datasets that lay out all their items when made, or refuse a large size: (virtual) items to make."""

UNVERIFIABLE = ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour")
"""Datasets whose entries have no gold answer, so that nothing shows that their scorer can be satisfied."""

REFUSED: Mapping[str, str] = {
    "composite": "it is a list of datasets. List them as tasks of the recipe instead",
    **{name: f"the gold answer of {name} does not verify, there is none. Choose another" for name in UNVERIFIABLE},
}
"""Datasets that cannot be a task, why, and what to do."""

HASH_ORDERED = ("codeio", "isomorphic_strings", "list_functions", "polynomial_multiplication", "ransom_note")
"""Datasets that walk over sets of strings: their items change with Python's hash seed, so no run could be resumed."""

MAX_ANSWER_CHARS = 1_000
"""No longer answer is read from a completion (`farthing.rewards.extract`); a test holds the two equal."""
MAX_REDRAWS = 200

OURS = frozenset({"seed", "size"})
"""Config keys that farthing sets: the run's seed chooses the items."""


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Keeps a dataset's warnings, prints and global random state from leaking into the run."""
    import numpy as np

    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class GymTask:
    """Problems of one reasoning-gym dataset under one config."""

    def __init__(self, dataset: str, config: Mapping[str, Any]) -> None:
        with contained():
            from reasoning_gym.factory import DATASETS, create_dataset
        if dataset not in DATASETS:
            known = DATASETS.keys() - REFUSED.keys()
            raise unknown("reasoning-gym dataset", dataset, known, "Correct the task's name.")
        if dataset in REFUSED:
            raise DataError(f"gym:{dataset} cannot be a task: {REFUSED[dataset]}.")
        if dataset in HASH_ORDERED and not os.environ.get("PYTHONHASHSEED", "").isdigit():
            raise DataError(
                f"the items of gym:{dataset} depend on Python's hash seed: a resumed run would see other problems. "
                "Set the environment variable PYTHONHASHSEED=0 for every attempt of the run, or choose another dataset."
            )
        fields = {field.name for field in dataclasses.fields(DATASETS[dataset][1])} - OURS
        for key in config:
            if key not in fields:
                raise unknown(f"config key of gym:{dataset}", key, fields, "Correct or remove the key.")
        self.dataset = dataset
        self.config = dict(config)
        self.name = f"gym:{dataset}" + (f"?{json.dumps(self.config, sort_keys=True)}" if config else "")
        self.num_redrawn = 0
        self.size = SIZES.get(dataset, SIZE)
        try:
            with contained():
                self.items = create_dataset(dataset, seed=DATASET_SEED, size=self.size, **self.config)
        except (AssertionError, TypeError, ValueError, KeyError) as error:
            raise DataError(
                f"gym:{dataset} refuses the config {self.config}: {error}. Keys allowed: {', '.join(sorted(fields))}."
            ) from error

    def entry(self, key: str) -> dict[str, Any]:
        """The first entry along the key whose gold answer is short enough to be extracted from a completion."""
        for attempt in range(MAX_REDRAWS):
            digest = hashlib.sha256(f"{key}/{attempt}".encode()).hexdigest()
            with contained():
                entry: dict[str, Any] = self.items[int(digest, 16) % self.size]
            if len(str(entry["answer"])) <= MAX_ANSWER_CHARS:
                return entry
            self.num_redrawn += 1
        raise DataError(
            f"{self.name}: {MAX_REDRAWS} gold answers in a row are over {MAX_ANSWER_CHARS} characters, more than is "
            "read from a completion. Make the config easier."
        )

    def draw(self, key: str) -> Problem:
        entry = self.entry(key)
        return Problem(
            question=entry["question"],
            answer=str(entry["answer"]),
            task=self.name,
            verifier="gym",
            metadata={"dataset": self.dataset, "config": self.config, "entry": entry},
        )
