"""A completion breaks the rules it breaks and no others; text of people breaks none; hostile text takes no time."""

import json
import lzma
import random
import time
from pathlib import Path
from typing import Any

import pytest

from farthing.config import ReadabilityConfig, RewardConfig
from farthing.rewards import readability, score
from farthing.rewards.readability import REASONS, repeated_share
from farthing.tasks.problem import Problem
from farthing.tasks.toy import letter_walk, running_total

GOOD = "<think>First I add 4 and 5, which gives 9.\n\nWait, that is right.</think><answer>9</answer>"
LOOP = "wait, let me check that again. "


def thought(chain: str) -> str:
    return f"<think>{chain}</think><answer>9</answer>"


@pytest.mark.parametrize(
    ("completion", "reasons"),
    [
        (GOOD, ()),
        ("9", ()),
        ("the answer is 9", ()),
        (thought(""), ()),
        (thought("a47b5=52c8=60"), ()),
        (thought(LOOP * 10), ("repetition",)),
        (thought("b5=52" * 12), ("repetition",)),
        (thought("我再检查一下。" * 10), ("repetition", "language")),
        (thought("word " * 401 + "end"), ("repetition", "paragraph")),
        (thought("a47b五=五二c8=60"), ("language",)),
        (thought("a" * 81), ("gibberish",)),
        (thought("ab\ufffdc"), ("gibberish",)),
        (thought("ab\x07\x1bc"), ("gibberish",)),
        (thought("```x = 1"), ("code",)),
        (thought("```\nx = 1\n```"), ()),
        ("<think>so 9", ("tags", "conclusion")),
        ("<think>so</think>", ("conclusion",)),
        ("<think>so</think><answer> </answer>", ("conclusion",)),
        ("<think>so</think><answer>9</answer><answer>8</answer>", ("tags", "conclusion")),
        ("</think>so<think><answer>9</answer>", ("tags",)),
        (thought("x") + "</think>", ("tags", "conclusion")),
        ("a " * 60_000, ("length",)),
    ],
)
def test_each_rule(completion: str, reasons: tuple[str, ...]) -> None:
    found = readability(completion, ReadabilityConfig())
    assert found.reasons == reasons
    assert found.ok == (not reasons)


@pytest.mark.parametrize(
    ("changed", "completion", "reason"),
    [
        ({"max_chars": 20}, GOOD, "length"),
        ({"max_paragraph_chars": 30}, GOOD, "paragraph"),
        ({"max_repeated": 0.05}, thought("one two three four five. one two three four five. six seven."), "repetition"),
        ({"min_language": 1.0}, thought("I add " * 10 + " 然"), "language"),
        ({"code_blocks": False}, thought("```\nx\n```"), "code"),
        ({"max_word_chars": 4}, GOOD, "gibberish"),
        ({"min_chain_chars": 5}, thought(" ab "), "chain"),
    ],
)
def test_every_threshold_is_a_key(changed: dict[str, Any], completion: str, reason: str) -> None:
    assert reason not in readability(completion, ReadabilityConfig(ngram=3)).reasons
    assert reason in readability(completion, ReadabilityConfig(ngram=3, **changed)).reasons
    assert reason in REASONS


def test_the_share_of_repeated_ngrams() -> None:
    # 8 units, so 6 triples; "a b c" and "b c d" come twice
    assert repeated_share("a b c d a b c d", 3) == pytest.approx(1 / 3)
    assert repeated_share("a b c d e f", 3) == 0.0
    assert repeated_share("a a a", 3) == 0.0, "too short to tell"


def test_solutions_of_people_are_readable() -> None:
    with lzma.open(Path(__file__).parent.parent / "data_pipeline" / "human_text.jsonl.xz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    broken = [text for text in texts[::4] if not readability(thought(text), ReadabilityConfig(max_paragraph_chars=10_000)).ok]
    assert len(broken) <= 0.003 * len(texts) / 4, broken[:2]


def test_chains_of_the_toy_tasks_are_readable_where_they_do_not_mix() -> None:
    rng = random.Random(3)
    for make in (running_total, letter_walk):
        for _ in range(200):
            problem = make(rng, max_terms=12)
            assert readability(f"<think>{problem.chains[0]}</think><answer>{problem.answer}</answer>", ReadabilityConfig()).ok


def test_a_reward_says_what_is_unreadable_and_pays_nothing_for_it() -> None:
    problem = Problem("q", "9", "t")
    loop = score(thought(LOOP * 10), problem, RewardConfig())
    assert (loop.value, loop.unreadable) == (1.0, ("repetition",))
    strict = RewardConfig(readability=ReadabilityConfig(max_repeated=1.0))
    assert score(thought(LOOP * 10), problem, strict).unreadable == ()


@pytest.mark.parametrize("unit", ["\n ", "<think>", "五", "²", "ab ", "\n\n", "```", "a\u0301", "\ufffd"])
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = (unit * 40_000)[:40_000]
    started = time.process_time()
    readability(text, ReadabilityConfig())
    assert time.process_time() - started < 2.0
