"""Each extraction mode on honest and hostile text."""

import time

import pytest

from farthing.errors import DataError
from farthing.rewards.extract import MAX_ANSWER_CHARS, extract
from farthing.tasks import gym as gym_tasks


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a</think><answer> 4 </answer>", "4"),
        ("<answer>4</answer> and more", "4"),
        ("<answer>4</answer><answer>4</answer>", None),
        ("<think><answer>4</answer></think>", None),
        ("4", None),
    ],
)
def test_tags(completion: str, answer: str | None) -> None:
    assert extract(completion, "tags") == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\frac{1}{2}", None),
        ("no box", None),
        (r"<think>\boxed{1}</think> so 2", None),
        (r"<think>\boxed{1} and on", None),
    ],
)
def test_boxed(completion: str, answer: str | None) -> None:
    assert extract(completion, "boxed") == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("it is 1,234,567.", "1234567"),
        ("+7", "7"),
        ("3 - 10 = \u22127.", "-7"),
        ("8-5", "5"),
        ("0.50 kg", "0.50"),
        ("1, 2, 3", "3"),
        ("12345,678", "678"),
        ("none", None),
        ("\uff14\uff12", None),
        ("<think>5</think> 6", "6"),
        ("<think>5", None),
        ("5</think> 6", "6"),
    ],
)
def test_last_number(completion: str, answer: str | None) -> None:
    assert extract(completion, "last_number") == answer


def test_long_answers_are_none() -> None:
    assert extract("x" * MAX_ANSWER_CHARS, "text") is not None
    assert extract("x" * (MAX_ANSWER_CHARS + 1), "text") is None
    assert gym_tasks.MAX_ANSWER_CHARS == MAX_ANSWER_CHARS


@pytest.mark.parametrize("mode", ["tags", "boxed", "last_number", "text"])
@pytest.mark.parametrize("piece", ["1,111", "1", "1.", ",", "-", r"\boxed{", "{", "<answer>", "1 "])
def test_a_megabyte_is_linear(mode: str, piece: str) -> None:
    start = time.process_time()
    extract(piece * (1_000_000 // len(piece)), mode)
    assert time.process_time() - start < 2.0


def test_unknown_mode() -> None:
    with pytest.raises(DataError, match="allowed: tags, boxed, last_number, text"):
        extract("x", "first")
