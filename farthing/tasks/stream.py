"""The tasks of a recipe -> a stream of training problems with a cursor, and a set of held-out ones.

A recipe's task is a single task or a curriculum; the stream mixes several by weight. What the cursor's n-th problem is depends
on the seed and on what the curricula have unlocked, so the state of a stream is its cursor and theirs.
"""

from collections.abc import Sequence
from typing import Any

from farthing.config import StyleConfig, TaskConfig
from farthing.tasks.jsonl import JsonlTask
from farthing.tasks.mixture import Curriculum, Mixture
from farthing.tasks.problem import Problem
from farthing.tasks.source import open_levels, open_task
from farthing.tasks.task import Drawable, SplitTask, Task, test_set


class ProblemStream:
    """Training problems in order of `cursor`; `record` lets curricula learn how they were solved."""

    def __init__(self, tasks: Sequence[TaskConfig], seed: int, test_share: float) -> None:
        self.seed, self.test_share = seed, test_share
        self.cursor = 0
        opened = [(open_drawable(task), task) for task in tasks]
        self._mixture = Mixture([(source, task.weight) for source, task in opened])
        self._styles = {name: task.styles for source, task in opened for name in names_of(source) if task.styles}

    def take(self, count: int) -> list[Problem]:
        first = self.cursor
        self.cursor += count
        return [self._mixture.draw("train", index, self.seed, self.test_share) for index in range(first, self.cursor)]

    def replace(self, problems: Sequence[Problem]) -> list[Problem]:
        """As many others."""
        return self.take(len(problems))

    def notes(self) -> list[str]:
        """What a user must know of the sources: lines that were skipped, questions that repeat."""
        return [note for source, _ in self._mixture.sources if isinstance(source, SplitTask) for note in notes_of(source.task)]

    def styles_of(self, problem: Problem) -> StyleConfig | None:
        """How documents of the problem's task answer, where the recipe says so for that task."""
        return self._styles.get(problem.task)

    def held_out(self, count: int, fewest: int | None = None) -> list[Problem]:
        """`count` distinct problems that training never draws, the same for every seed of the recipe; or as many as there are,
        but `fewest` at least. DataError where there are not."""
        return test_set(self._mixture, count, 0, self.test_share, count if fewest is None else fewest)

    def record(self, problem: Problem, accuracy: float) -> None:
        """Tells a problem's curriculum how it went."""
        for curriculum in self._curricula:
            if curriculum.owns(problem):
                curriculum.record(problem, accuracy)

    @property
    def level(self) -> int | None:
        """The lowest newest level of the curricula, None without any."""
        return min((c.level for c in self._curricula), default=None)

    @property
    def _curricula(self) -> list[Curriculum]:
        return [source for source, _ in self._mixture.sources if isinstance(source, Curriculum)]

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "curricula": [c.state_dict() for c in self._curricula]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cursor = int(state["cursor"])
        for curriculum, saved in zip(self._curricula, state["curricula"], strict=True):
            curriculum.load_state_dict(saved)


def notes_of(task: Task) -> list[str]:
    if not isinstance(task, JsonlTask):
        return []
    notes = []
    if task.skipped:
        notes.append(f"{task.path}: {len(task.skipped)} bad lines skipped, the first at line {task.skipped[0][0]}")
    if task.num_duplicates:
        notes.append(f"{task.path}: {task.num_duplicates} repeated questions kept once")
    return notes


def names_of(source: Drawable) -> list[str]:
    """The tasks whose problems it gives."""
    return [level.name for level in source.levels] if isinstance(source, Curriculum) else [source.name]


def open_drawable(task: TaskConfig) -> Drawable:
    if not task.levels:
        return SplitTask(open_task(task.spec, task.config))
    levels = open_levels(task.spec, list(task.levels), task.config)
    return Curriculum(levels, task.promote_at, task.window, task.current_share)
