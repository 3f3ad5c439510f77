"""The R1 format: what is well formed, what is not, and that hostile megabytes cost linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.rewards.format import final_answer, parse

GOOD = "<think>2+2</think>\n<answer>4</answer>"


def test_well_formed() -> None:
    parsed = parse(f"  {GOOD}\n")
    assert (parsed.think, parsed.answer, parsed.is_well_formed) == ("2+2", "4", True)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "4",
        "<answer>4</answer>",
        "<think>a</think>",
        "so <think>a</think><answer>4</answer>",
        "<think>a</think> so <answer>4</answer>",
        "<think>a</think><answer>4</answer> done",
        "<think>a</think><answer>4</answer><answer>5</answer>",
        "<think>a</think><think>b</think><answer>4</answer>",
        "<think><think>a</think></think><answer>4</answer>",
        "<answer>4</answer><think>a</think>",
        "<think>a<answer>4</answer></think>",
        "</think>a<think><answer>4</answer>",
        "<think>a</think><answer>4",
        "a</think><answer>4</answer>",
    ],
)
def test_malformed(completion: str) -> None:
    assert not parse(completion).is_well_formed


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", " "]), max_size=9))
def test_well_formed_means_the_four_tags_once_in_order(pieces: list[str]) -> None:
    tags = [piece for piece in pieces if piece.startswith("<")]
    if parse("".join(pieces)).is_well_formed:
        assert tags == ["<think>", "</think>", "<answer>", "</answer>"]


@pytest.mark.parametrize("piece", ["<think>", "<answer>", "<", "<think></think>", "</answer><answer>", " "])
def test_a_megabyte_is_linear(piece: str) -> None:
    start = time.process_time()
    assert not parse(piece * (1_000_000 // len(piece))).is_well_formed
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a</think> <answer> 7 </answer>\n", "7"),
        ("<think>a</think>7", "7"),
        ("7", "7"),
        ("<answer>7</answer>", "7"),
        ("<think>a</think><answer>7</answer> and insults", "<answer>7</answer> and insults"),
        ("<think>a</think>bait <answer>7</answer>", "bait <answer>7</answer>"),
        ("<think>a</think><answer>7</answer><answer>8</answer>", "<answer>7</answer><answer>8</answer>"),
        ("<think><answer>7</answer></think>", ""),
        ("<think>never ends <answer>7</answer>", ""),
        ("", ""),
    ],
)
def test_the_final_answer_is_all_that_a_reader_sees(completion: str, answer: str) -> None:
    assert final_answer(completion) == answer
