"""Train and test never share a problem; draws are the same in every process; small spaces are an error."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import DataError
from farthing.tasks import Mixture, Problem, SplitTask, draw, open_task, test_set
from farthing.tasks.gym import HASH_ORDERED
from farthing.tasks.task import is_test

SUMS = open_task("gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1")
"""A space of a few hundred problems, so that any leak would show at once."""


@settings(max_examples=20, deadline=None)
@given(st.integers(), st.integers(), st.floats(0.1, 0.9))
def test_train_and_test_are_disjoint_for_any_seeds(train_seed: int, test_seed: int, test_share: float) -> None:
    train = {draw(SUMS, "train", i, train_seed, test_share).content_hash for i in range(60)}
    test = {draw(SUMS, "test", i, test_seed, test_share).content_hash for i in range(60)}
    assert not train & test


def test_the_share_is_kept() -> None:
    problems = [Problem(str(i), "", "t") for i in range(4_000)]
    assert sum(is_test(problem, 0.25) for problem in problems) / 4_000 == pytest.approx(0.25, abs=0.03)


def test_a_test_set_is_distinct_and_deterministic() -> None:
    problems = test_set(SplitTask(SUMS), 20, seed=3, test_share=0.3, fewest=20)
    assert len({problem.content_hash for problem in problems}) == 20
    assert problems == test_set(SplitTask(SUMS), 20, seed=3, test_share=0.3, fewest=20)
    assert test_set(Mixture([(SplitTask(SUMS), 1.0)]), 20, seed=3, test_share=0.3, fewest=20) == problems


def test_a_small_space_says_how_many_there_are_or_gives_them() -> None:
    with pytest.raises(DataError, match=r"holds only \d+ distinct test problems"):
        test_set(SplitTask(SUMS), 5_000, seed=0, test_share=0.3, fewest=5_000)
    assert 1 < len(test_set(SplitTask(SUMS), 5_000, seed=0, test_share=0.3, fewest=1)) < 5_000


def test_an_empty_side_is_an_error() -> None:
    with pytest.raises(DataError, match="space is too small"):
        draw(open_task("gym:chain_sum"), "test", 0, 0, test_share=0.0)
    with pytest.raises(DataError, match="from 0 to 1"):
        draw(SUMS, "test", 0, 0, test_share=1.5)


def test_draws_are_the_same_in_another_process() -> None:
    code = (
        "from farthing.tasks import draw, open_task\n"
        "for spec in ('gym:chain_sum', 'gym:letter_counting', 'gym:pool_matrix', 'toy:letter_walk'):\n"
        "    print(draw(open_task(spec), 'train', 7, 1, 0.1).content_hash)\n"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert draw(open_task("gym:chain_sum"), "train", 7, 1, 0.1).content_hash == runs[0].stdout.split()[0]


@pytest.mark.parametrize("dataset", HASH_ORDERED)
def test_datasets_that_change_with_the_hash_seed_need_a_fixed_one(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(DataError, match="PYTHONHASHSEED=0"):
        open_task(f"gym:{dataset}")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert open_task(f"gym:{dataset}").draw("0").question


def test_a_dataset_leaves_global_random_state_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    open_task("gym:pool_matrix").draw("ab")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_thousand_draws_are_quick() -> None:
    task = open_task("gym:chain_sum")
    start = time.process_time()
    problems = {draw(task, "train", i, 0, 0.1).content_hash for i in range(1_000)}
    assert time.process_time() - start < 2.0  # about 0.2 s on an idle core
    assert len(problems) > 950


def test_golds_too_long_to_be_extracted_are_drawn_again() -> None:
    task = open_task("gym:palindrome_partitioning")
    assert all(len(task.draw(str(i)).answer) <= 1_000 for i in range(30))
    assert task.num_redrawn > 0  # type: ignore[attr-defined]
