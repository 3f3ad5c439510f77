"""Weighted tasks, or levels unlocked by success -> one stream of problems, the same in every process."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from farthing.errors import DataError
from farthing.tasks.problem import Problem
from farthing.tasks.task import Drawable, Split, Task, draw, unit_interval


class Mixture:
    """Tasks and curricula with weights. Which serves an index depends on (seed, split, index) alone."""

    def __init__(self, sources: Sequence[tuple[Drawable, float]]) -> None:
        if not sources:
            raise DataError("a mixture has no tasks. Give it at least one (task, weight).")
        for task, weight in sources:
            if not 0.0 < weight < float("inf"):
                raise DataError(f"task {task.name!r} has weight {weight}; a weight is above 0. Or leave the task out.")
        self.sources = tuple(sources)
        self.name = " + ".join(task.name for task, _ in sources)

    def choose(self, split: Split, index: int, seed: int) -> Drawable:
        """The task for an index, each in proportion to its weight."""
        left = unit_interval("mixture", seed, split, index) * sum(weight for _, weight in self.sources)
        for task, weight in self.sources:
            left -= weight
            if left < 0:
                return task
        return self.sources[-1][0]  # rounding left nothing over

    def draw(self, split: Split, index: int, seed: int, test_share: float) -> Problem:
        return self.choose(split, index, seed).draw(split, index, seed, test_share)


class Curriculum:
    """Levels from easy to hard; the next one opens when the current one is mastered.

    Train draws come from the current level with probability `current_share`, else from a lower one. Test draws come
    from all levels alike, whatever is unlocked, so that before and after are comparable.
    """

    def __init__(
        self,
        levels: Sequence[Task],
        promote_at: float = 0.8,
        window: int = 64,
        current_share: float = 0.5,
    ) -> None:
        if not levels:
            raise DataError("a curriculum has no levels. Give it at least one task.")
        if not (0.0 < promote_at <= 1.0 and window >= 1 and 0.0 < current_share <= 1.0):
            raise DataError(
                f"curriculum: promote_at={promote_at}, window={window}, current_share={current_share}; both shares are "
                "above 0 and at most 1, and the window is at least 1."
            )
        self.levels = tuple(levels)
        self.promote_at, self.window, self.current_share = promote_at, window, current_share
        self.name = f"curriculum of {levels[0].name}"
        self.level = 0
        self.recent: list[float] = []

    def choose(self, split: Split, index: int, seed: int) -> int:
        """The level for an index, given what is unlocked now."""
        where = unit_interval("curriculum", seed, split, index)
        if split == "test":
            return int(where * len(self.levels))
        if self.level == 0 or where < self.current_share:
            return self.level
        return int((where - self.current_share) / (1.0 - self.current_share) * self.level)

    def draw(self, split: Split, index: int, seed: int, test_share: float) -> Problem:
        """The problem at an index; its metadata say its "level"."""
        level = self.choose(split, index, seed)
        problem = draw(self.levels[level], split, index, seed, test_share)
        return replace(problem, metadata={**problem.metadata, "level": level, "curriculum": self.fingerprint})

    def owns(self, problem: Problem) -> bool:
        """Whether this curriculum drew the problem."""
        return problem.metadata.get("curriculum") == self.fingerprint

    def record(self, problem: Problem, accuracy: float) -> bool:
        """Count a result; True if it opened the next level. Results on lower levels say nothing about this one."""
        if problem.metadata["level"] != self.level:
            return False
        self.recent = [*self.recent, accuracy][-self.window :]
        mastered = len(self.recent) == self.window and sum(self.recent) / self.window >= self.promote_at
        if not mastered or self.level + 1 == len(self.levels):
            return False
        self.level += 1
        self.recent = []
        return True

    @property
    def fingerprint(self) -> str:
        """Identifies the levels, so that a checkpoint's state is not loaded into another curriculum."""
        return hashlib.sha256("\n".join(task.name for task in self.levels).encode()).hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; plain JSON."""
        return {"level": self.level, "recent": list(self.recent), "levels": self.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["levels"] != self.fingerprint:
            raise DataError(
                f"the checkpoint's curriculum ({state['levels']}) is not this one ({self.fingerprint}): the levels "
                "have changed. Resume with the levels the run began with, or start a new run."
            )
        self.level, self.recent = int(state["level"]), [float(value) for value in state["recent"]]
