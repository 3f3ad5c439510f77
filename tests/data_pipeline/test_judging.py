"""Judged pairs: order must not matter, close and unreadable verdicts are dropped and counted, bias is measured."""

from collections.abc import Sequence

import pytest

from farthing.config import RewardConfig
from farthing.data.judging import (
    Candidates,
    Comparison,
    Judge,
    Scores,
    judge_pairs,
    read_scores,
    rule_judge,
    text_judge,
)
from farthing.data.preferences import Pair
from farthing.tasks.problem import Problem

QUALITY = {"best": 9.0, "good": 7.0, "fair": 6.0, "bad": 2.0}


def problem(number: int = 0) -> Problem:
    return Problem(f"question {number}?", "best", "test")


def biased(lead: float, asked: list[Comparison] | None = None) -> Judge:
    """A judge that sees quality and adds `lead` points to whatever comes first."""

    def judge(comparisons: Sequence[Comparison]) -> list[Scores | None]:
        if asked is not None:
            asked.extend(comparisons)
        return [(QUALITY[c.first] + lead, QUALITY[c.second]) for c in comparisons]

    return judge


@pytest.mark.parametrize("lead", [0.0, 3.0, -8.0])
def test_what_comes_first_does_not_decide(lead: float) -> None:
    candidates = [Candidates(problem(1), "bad", "good"), Candidates(problem(2), "best", "bad")]
    found = judge_pairs(candidates, biased(lead), judgments=4, min_margin=1.0)
    assert found.pairs == [Pair("question 1?", "good", "bad"), Pair("question 2?", "best", "bad")]
    assert found.position_bias == pytest.approx(lead)


def test_a_judge_who_only_looks_at_the_order_leaves_no_pair() -> None:
    found = judge_pairs([Candidates(problem(), "a", "b")], lambda asked: [(10.0, 0.0) for _ in asked], 4, 0.0)
    assert (found.pairs, found.num_close, found.position_bias) == ([], 1, 10.0)


def test_each_pair_is_judged_half_and_half_in_a_shuffled_order() -> None:
    asked: list[Comparison] = []
    candidates = [Candidates(problem(i), "good", "bad") for i in range(8)]
    judge_pairs(candidates, biased(0, asked), judgments=4, min_margin=1.0)
    for i in range(8):
        mine = [c.first for c in asked if c.problem.question == f"question {i}?"]
        assert sorted(mine) == ["bad", "bad", "good", "good"]
    assert [c.first for c in asked] != ["good", "good", "bad", "bad"] * 8


def test_a_margin_of_exactly_the_least_is_too_close_and_equal_replies_are_not_judged() -> None:
    same_reply = Candidates(problem(), "<think>a</think><answer>x</answer>", "<think>b</think><answer>x</answer>")
    asked: list[Comparison] = []
    candidates = [same_reply, Candidates(problem(1), "good", "fair")]
    found = judge_pairs(candidates, biased(0, asked), judgments=2, min_margin=1.0)
    assert (found.pairs, found.num_equal, found.num_close, len(asked)) == ([], 1, 1, 2)


def test_a_pair_with_one_order_unreadable_is_dropped_and_one_with_both_kept() -> None:
    def judge(comparisons: Sequence[Comparison]) -> list[Scores | None]:
        # of question 0, "bad" first is never readable; of question 1 each order is readable once
        seen: set[tuple[str, str]] = set()
        verdicts: list[Scores | None] = []
        for c in comparisons:
            key = (c.problem.question, c.first)
            is_readable = key not in seen and key != ("question 0?", "bad")
            seen.add(key)
            verdicts.append((QUALITY[c.first], QUALITY[c.second]) if is_readable else None)
        return verdicts

    found = judge_pairs([Candidates(problem(i), "good", "bad") for i in range(2)], judge, 4, 1.0)
    assert (found.pairs, found.num_unreadable) == ([Pair("question 1?", "good", "bad")], 1)


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("A: 7 B: 4", (7.0, 4.0)),
        ("The first is better.\n**A**: 8.5\n**B**: 3", (8.5, 3.0)),
        ("<think>A: 1 B: 9, no.</think>A: 9, B: 1", (9.0, 1.0)),
        ("A: 2 B: 3\nOn reflection A: 6 B: 3", (6.0, 3.0)),
        ("A = 10; B = 10", (10.0, 10.0)),
        ("A: 11 B: 4", None),
        ("A: 100 B: 4", None),
        ("BA: 7", None),
        ("<think>A: 7 B: 4", None),
        ("", None),
        ("A:" * 100_000, None),
    ],
)
def test_verdicts_are_read_from_the_end_of_the_reply(reply: str, scores: Scores | None) -> None:
    assert read_scores(reply) == scores


def test_a_text_judge_sees_final_answers_only_and_both_orders() -> None:
    prompts: list[str] = []

    def complete(texts: Sequence[str]) -> list[str]:
        prompts.extend(texts)
        return ["A: 9 B: 2" if text.index("[Reply A]\nyes") < text.index("[Reply B]") else "A: 2 B: 9" for text in texts]

    c = Comparison(problem(), "<think>secret</think><answer>yes</answer>", "<think>other</think>no")
    assert text_judge(complete)([c]) == [(9.0, 2.0)]
    assert len(prompts) == 1
    assert "secret" not in prompts[0]
    assert "other" not in prompts[0]
    assert "question 0?" in prompts[0]
    text_judge(complete, "{first} or {second}?\n[Reply A]\nyes [Reply B]")([c])
    assert prompts[1].startswith("yes or no?")


def test_the_rule_judge_gives_ten_points_for_the_gold_answer() -> None:
    right, wrong = "<think></think><answer>best</answer>", "<think></think><answer>bad</answer>"
    judge = rule_judge(RewardConfig())
    assert judge([Comparison(problem(), right, wrong), Comparison(problem(), wrong, right)]) == [(10.0, 0.0), (0.0, 10.0)]
    found = judge_pairs([Candidates(problem(), wrong, right)], judge, 2, 1.0)
    assert found.pairs == [Pair("question 0?", right, wrong)]
