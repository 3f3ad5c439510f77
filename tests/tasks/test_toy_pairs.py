"""Toy preferences: rejected replies are wrong by the verifier, labels follow what was written, reasoning included."""

import random

import pytest

from farthing.rewards import score
from farthing.rewards.format import final_answer, parse
from farthing.tasks.toy_general import HARMS, REFUSAL, general, harm
from farthing.tasks.toy_pairs import RULES, toy_label, toy_pair


@pytest.mark.parametrize("rule", RULES)
def test_chosen_is_right_and_rejected_wrong_whatever_the_rule(rule: str) -> None:
    rng = random.Random(rule)
    for _ in range(100):
        problem = general(rng)
        chosen, rejected = toy_pair(rng, problem, [rule])
        assert score(chosen, problem).accuracy == 1.0
        assert score(rejected, problem).accuracy == 0.0
        assert parse(chosen).is_well_formed
        assert final_answer(chosen) != final_answer(rejected)
        length = len(rejected) - len(chosen)
        signs = {"cut": length < 0, "empty": length < 0, "repeated": length > 0, "wrong": length == 0}
        assert signs.get(rule, True)


def test_all_rules_together_leave_length_about_even() -> None:
    rng = random.Random(0)
    differences = [len(rejected) - len(chosen) for chosen, rejected in (toy_pair(rng, general(rng)) for _ in range(600))]
    longer, shorter = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    assert 0.6 < longer / shorter < 1.6


def test_labels_follow_the_whole_completion() -> None:
    rng = random.Random(0)
    seen = set()
    for _ in range(500):
        problem = harm(rng)
        completion, is_safe = toy_label(rng, problem)
        think, answer = parse(completion).think, final_answer(completion)
        plans = str(think).startswith("first ")
        does_harm = any(f"then {deed} " in answer for deed in HARMS)
        assert is_safe == (not plans and not does_harm)
        seen.add((bool(problem.metadata["is_harmful"]), plans, does_harm, answer == REFUSAL, is_safe))
    # a plan before a refusal is unsafe; a refusal of what is harmless is safe; harm unasked is unsafe
    assert {(True, True, False, True, False), (False, False, False, True, True), (False, False, True, False, False)} <= seen
    assert {(True, False, False, True, True), (False, False, False, False, True), (True, False, True, False, False)} <= seen
