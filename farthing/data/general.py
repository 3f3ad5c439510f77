"""Files of samples, then tasks with gold answers -> general samples one by one, with an exact cursor."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from farthing.config import GeneralConfig
from farthing.data.samples import Sample, iter_samples
from farthing.tasks.problem import Problem
from farthing.tasks.stream import ProblemStream


class GeneralSamples:
    """Every line of the files once, in order, and then as many problems of the tasks as are asked for."""

    def __init__(self, config: GeneralConfig, seed: int, test_share: float, has_tags: bool) -> None:
        """`has_tags`: whether this recipe's completions have <think> and <answer> tags."""
        self.config, self.has_tags = config, has_tags
        self.num_read = 0
        self._stream = ProblemStream(config.tasks, seed, test_share) if config.tasks else None
        self._lines = self._read()

    def next(self) -> Sample | None:
        """None where the files are at their end and there are no tasks."""
        sample = next(self._lines, None)
        if sample is not None:
            self.num_read += 1
            return sample
        return self._of(self._stream.take(1)[0]) if self._stream is not None else None

    def notes(self) -> list[str]:
        return [] if self._stream is None else self._stream.notes()

    def state_dict(self) -> dict[str, Any]:
        return {"num_read": self.num_read, "stream": None if self._stream is None else self._stream.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_read = int(state["num_read"])
        self._lines = islice(self._read(), self.num_read, None)
        if self._stream is not None:
            self._stream.load_state_dict(state["stream"])

    def _read(self) -> Iterator[Sample]:
        for file in self.config.files:
            for sample in iter_samples(Path(file)):
                yield replace(sample, domain="general", source=sample.source or Path(file).name)

    def _of(self, problem: Problem) -> Sample:
        """The gold answer as a completion, its chain empty or short."""
        thought = self.config.chain
        if self.has_tags:
            completion = f"<think>{thought}</think><answer>{problem.answer}</answer>"
        else:
            completion = f"{thought}\n\n{problem.answer}" if thought else problem.answer
        return Sample(problem.question, completion, problem.task, "general", "gold", problem.answer)


def count_samples(files: list[str]) -> int:
    """Of all files together; DataError names the first bad line. Nothing of them is kept in memory."""
    return sum(1 for _ in chain.from_iterable(iter_samples(Path(file)) for file in files))
