"""A task and (split, index, seed) -> one problem; train and test are told apart by what a problem says, never by seed.

Neighbouring seeds of procedural generators overlap, and small spaces repeat, so a split by seed leaks. Here the content
hash decides: a problem is in test iff its first 32 bits, as a fraction, are below `test_share`.
"""

import hashlib
from typing import Literal, Protocol

from farthing.errors import DataError
from farthing.tasks.problem import Problem

Split = Literal["train", "test"]
MAX_TRIES = 1_000
TRIES_PER_FOUND = 20
"""Draws that may pass without a new test problem, for each one found, before the space counts as exhausted: were there
one more as likely as the others, it would stay hidden with probability e^-20."""


class Task(Protocol):
    """A source of problems. The same key gives the same problem in any process."""

    @property
    def name(self) -> str: ...

    def draw(self, key: str) -> Problem: ...


class Drawable(Protocol):
    """What can be asked for the problem at an index: a mixture, a curriculum, or a task seen through `SplitTask`."""

    @property
    def name(self) -> str: ...

    def draw(self, split: Split, index: int, seed: int, test_share: float) -> Problem: ...


def is_test(problem: Problem, test_share: float) -> bool:
    """Whether a problem is held out, by its content alone."""
    return int(problem.content_hash[:8], 16) / 2**32 < test_share


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: a random choice that every process makes alike."""
    return int(hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:13], 16) / 16**13


def draw(task: Task, split: Split, index: int, seed: int, test_share: float) -> Problem:
    """The problem at `index` of a split. DataError if the task seems to hold none on that side."""
    if not 0.0 <= test_share <= 1.0:
        raise DataError(f"test_share is {test_share}; it is the share of problems held out, from 0 to 1. Try 0.1.")
    for attempt in range(MAX_TRIES):
        problem = task.draw(hashlib.sha256(f"{seed}/{split}/{index}/{attempt}".encode()).hexdigest())
        if is_test(problem, test_share) == (split == "test"):
            return problem
    raise DataError(
        f"task {task.name!r} gave no {split} problem in {MAX_TRIES} draws at test_share={test_share}: its space is too "
        "small. Widen the task's config, or change test_share."
    )


class SplitTask:
    """One task as a `Drawable`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.name = task.name

    def draw(self, split: Split, index: int, seed: int, test_share: float) -> Problem:
        return draw(self.task, split, index, seed, test_share)


def test_set(source: Drawable, n: int, seed: int, test_share: float, fewest: int) -> list[Problem]:
    """`n` distinct held-out problems, in a fixed order, or as many as there are. DataError with the number found if there are
    not even `fewest`."""
    found: dict[str, Problem] = {}
    index = last_new = 0
    while len(found) < n and index - last_new <= max(MAX_TRIES, TRIES_PER_FOUND * len(found)):
        problem = source.draw("test", index, seed, test_share)
        if problem.content_hash not in found:
            found[problem.content_hash] = problem
            last_new = index
        index += 1
    if len(found) < fewest:
        raise DataError(
            f"{source.name!r} holds only {len(found)} distinct test problems (in {index} draws at "
            f"test_share={test_share}), {fewest} are needed. Ask for fewer, raise test_share, or widen the task."
        )
    return list(found.values())


test_set.__test__ = False  # type: ignore[attr-defined]  # its name is not a test's, whatever pytest thinks
