"""Mixtures keep their weights; a curriculum opens levels on success and survives a checkpoint."""

import json
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from farthing.errors import DataError
from farthing.tasks import Curriculum, Mixture, Problem, SplitTask


@dataclass
class Numbers:
    """A task of a million problems, told apart by name."""

    name: str

    def draw(self, key: str) -> Problem:
        return Problem(f"{self.name} {random.Random(key).randrange(10**6)}", "0", self.name)


A, B, C = Numbers("a"), Numbers("b"), Numbers("c")


def counts(source: Mixture | Curriculum, split: str, n: int = 2_000) -> dict[str, float]:
    drawn = Counter(source.draw(split, i, 1, 0.2).task for i in range(n))  # type: ignore[arg-type]
    return {name: count / n for name, count in drawn.items()}


def test_weights_are_kept() -> None:
    assert counts(Mixture([(SplitTask(A), 3.0), (SplitTask(B), 1.0)]), "train") == pytest.approx(
        {"a": 0.75, "b": 0.25}, abs=0.04
    )


def test_a_mixture_is_deterministic() -> None:
    first, again = (Mixture([(SplitTask(A), 1.0), (Curriculum([B, C]), 1.0)]) for _ in range(2))
    assert [first.draw("train", i, 5, 0.2) for i in range(50)] == [again.draw("train", i, 5, 0.2) for i in range(50)]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_weights(weight: float) -> None:
    with pytest.raises(DataError, match="weight"):
        Mixture([(SplitTask(A), weight)])


def master(curriculum: Curriculum, accuracy: float, n: int) -> list[bool]:
    problem = Problem("q", "a", "t", metadata={"level": curriculum.level})
    return [curriculum.record(problem, accuracy) for _ in range(n)]


def test_promotion_needs_a_full_window_on_the_current_level() -> None:
    curriculum = Curriculum([A, B, C], promote_at=0.75, window=4)
    assert master(curriculum, 1.0, 3) == [False, False, False]
    lower = Problem("q", "a", "t", metadata={"level": 2})
    assert not curriculum.record(lower, 1.0)
    assert master(curriculum, 0.0, 1) == [True]  # 3 of 4 right
    assert (curriculum.level, curriculum.recent) == (1, [])
    assert not any(master(curriculum, 0.5, 20))
    assert master(curriculum, 1.0, 2)[-1]
    assert not any(master(curriculum, 1.0, 20))
    assert curriculum.level == 2


def test_train_draws_from_unlocked_levels_and_test_from_all() -> None:
    curriculum = Curriculum([A, B, C], window=2, current_share=0.5)
    assert counts(curriculum, "train") == {"a": 1.0}
    everything = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert counts(curriculum, "test") == pytest.approx(everything, abs=0.04)
    before = [curriculum.draw("test", i, 1, 0.2) for i in range(50)]
    curriculum.level = 2
    assert counts(curriculum, "train") == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5}, abs=0.04)
    assert [curriculum.draw("test", i, 1, 0.2) for i in range(50)] == before


def test_a_curriculum_knows_its_own_problems() -> None:
    first, other = Curriculum([A, B]), Curriculum([B, C])
    problem = first.draw("train", 0, 1, 0.2)
    assert first.owns(problem)
    assert not other.owns(problem)
    assert not first.owns(Problem("q", "a", "t"))


def test_state_round_trip() -> None:
    curriculum = Curriculum([A, B], window=4)
    master(curriculum, 1.0, 4)
    master(curriculum, 0.5, 3)
    restored = Curriculum([A, B], window=4)
    restored.load_state_dict(json.loads(json.dumps(curriculum.state_dict())))
    assert restored.state_dict() == curriculum.state_dict()
    assert master(restored, 1.0, 1) == master(curriculum, 1.0, 1)
    with pytest.raises(DataError, match="levels have"):
        Curriculum([A, C]).load_state_dict(curriculum.state_dict())
