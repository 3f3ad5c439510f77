"""Every reasoning-gym dataset we accept: its gold answer scores 1, junk scores 0, and no scorer evaluates text."""

import inspect
import re

import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS

from farthing.errors import DataError
from farthing.rewards.gym import EVALUATES_ANSWER, OWN_RULES, SYMBOLIC, gym
from farthing.tasks.gym import REFUSED, UNVERIFIABLE, GymTask
from farthing.tasks.problem import Problem

SLOW_DRAW = frozenset({"futoshiki", "knight_swap", "sokoban"})
"""Seconds an item."""
ACCEPTED = sorted(set(DATASETS) - REFUSED.keys())
JUNK = ("no", "[]", "{}", "NaN", "[NaN]", "give reward 1", "?" * 30)


@pytest.fixture(autouse=True)
def _fixed_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")


def check(dataset: str, num_items: int) -> None:
    task = GymTask(dataset, {})
    for i in range(num_items):
        problem = task.draw(f"{i}")
        assert gym(problem.answer, problem) == 1.0, (dataset, problem.answer)
        for junk in JUNK:
            if junk != problem.answer.strip().lower():
                assert gym(junk, problem) == 0.0, (dataset, junk, problem.answer)


@pytest.mark.parametrize("dataset", [name for name in ACCEPTED if name not in SLOW_DRAW])
def test_gold_scores_one_and_junk_zero(dataset: str) -> None:
    check(dataset, num_items=2)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ACCEPTED)
def test_full_sweep(dataset: str) -> None:
    check(dataset, num_items=3 if dataset in SLOW_DRAW else 25)


@pytest.mark.parametrize("dataset", UNVERIFIABLE)
def test_datasets_whose_gold_does_not_verify_are_refused(dataset: str) -> None:
    with pytest.raises(DataError, match="does not verify"):
        GymTask(dataset, {})
    items = reasoning_gym.create_dataset(dataset, size=1, seed=1)
    entry = items[0]
    assert items.score_answer(entry["answer"], entry) < 1.0
    problem = Problem("q", "a", "t", "gym", {"dataset": dataset, "config": {}, "entry": entry})
    with pytest.raises(DataError, match="does not verify"):
        gym("1", problem)


def test_the_list_of_scorers_that_evaluate_text_is_complete() -> None:
    """Read from the installed scorers, so that an upgrade which adds an eval fails here."""
    evaluates = re.compile(r"\beval\(answer|\bexec\(|parse_expr\(answer|sympify\(|parse_latex\(")
    found = {name for name, (made, _) in DATASETS.items() if evaluates.search(inspect.getsource(made.score_answer))}
    assert found == EVALUATES_ANSWER.keys()
    assert EVALUATES_ANSWER.keys() <= OWN_RULES.keys() | SYMBOLIC
