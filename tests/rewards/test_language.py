"""Which words are in the target language: by hand-counted examples, on texts of people in 53 languages, and on hostile ones.

udhr.jsonl.xz holds six paragraphs of the Universal Declaration of Human Rights in each language: (c) 1996-2009 Office of the
High Commissioner for Human Rights, plain text by the "UDHR in Unicode" project. FARTHING_TEST_DATA names a folder with all of
it (text/udhr.jsonl) and with MGSM (math/mgsm.jsonl).
"""

import json
import lzma
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from farthing.config import RewardConfig
from farthing.config.parts import TargetLanguage
from farthing.rewards import chain_of, language_consistency, language_switches, score
from farthing.rewards.language import SCRIPTS_OF, words
from farthing.tasks.problem import Problem

with lzma.open(Path(__file__).parent / "udhr.jsonl.xz", "rt", encoding="utf-8") as file:
    UDHR: list[dict[str, str]] = [json.loads(line) for line in file]


def whole(name: str) -> list[dict[str, Any]]:
    folder = os.environ.get("FARTHING_TEST_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"FARTHING_TEST_DATA names no folder with {name}")
    return [json.loads(line) for line in (Path(folder) / name).read_text(encoding="utf-8").splitlines()]


def count(texts: Sequence[str], target: str, identify: bool = False) -> tuple[int, int]:
    """(words, foreign words)."""
    found = [word.is_foreign for text in texts for word in words(text, target, identify)]
    return len(found), sum(found)


@pytest.mark.parametrize(
    ("text", "target", "num_words", "num_foreign"),
    [
        ("Wait, let me check: 3 + 4 = 7.", "en", 4, 0),
        ("a47b五=五二c8=60", "en", 6, 3),  # a b 五 五 二 c
        ("〇一二三四五六七八九", "zh", 10, 0),
        ("〇一二三四五六七八九", "en", 10, 10),
        ("设 x = 3, 则 5 kg 是 π", "zh", 3, 0),  # one or two Latin or Greek letters are symbols there
        ("我们 check 一下", "zh", 5, 1),
        ("don't l’été naïve e\u0301te\u0301", "fr", 4, 0),
        ("Привет, мир", "ru", 2, 0),
        ("Привет, world", "ru", 2, 1),
        ("漢字とカタカナとひらがな", "ja", 12, 0),
        ("漢字とカタカナ", "zh", 7, 5),
        ("안녕하세요 여러분 漢字", "ko", 4, 2),
        ("هذا ٣ كتاب", "ar", 2, 0),
        ("שלום עולם hello", "he", 3, 1),
        ("नमस्ते दुनिया", "hi", 2, 0),
        ("ประเทศ", "th", 6, 0),
        ("Το θ είναι γωνία", "el", 4, 0),
        ("so θ is an angle", "en", 4, 0),
        ("the answer is ২", "en", 3, 0),  # a Bengali digit is a digit
        ("উত্তর the answer", "en", 3, 1),  # vowel signs do not part a Bengali word
        ("1 000 ² ½ ℝ 𝑥 ✓ → 😀", "en", 0, 0),
    ],
)
def test_words_are_runs_of_one_script_or_single_letters(text: str, target: str, num_words: int, num_foreign: int) -> None:
    assert count([text], target) == (num_words, num_foreign)
    expected = 1 - num_foreign / num_words if num_words else 1.0
    assert language_consistency(text, target) == pytest.approx(expected)
    assert (language_consistency(text, target) < 1) == (num_foreign > 0), "below 1 exactly where a word is foreign"


@pytest.mark.parametrize(
    ("text", "target", "consistency"),
    [
        ("", "en", 1.0),
        ("12 + 30 = 42", "zh", 1.0),
        ("因为 `result = compute(value)` 所以 $\\frac{total}{count}$", "zh", 1.0),
        ("因为\n```python\nprint('hello world')\n```\n所以", "zh", 1.0),
        ("所以 \\(mass \\cdot velocity\\) 和 \\[energy\\] 见 https://example.org/page", "zh", 1.0),
        ("it costs $5 and then 你 pays $6", "en", 5 / 6),  # two prices are no formula
        ("the chain $四十七$ hides", "en", 0.5),  # Chinese stays Chinese between dollar signs
        ("```\n四十七\n```", "en", 0.0),
    ],
)
def test_mathematics_and_code_are_neutral_but_hide_no_other_language(text: str, target: str, consistency: float) -> None:
    assert language_consistency(text, target) == pytest.approx(consistency)


def test_switches_join_what_is_neutral_between_foreign_words() -> None:
    text = "so 首先 12, 然后 we get 7 再 done"
    assert [text[a:b] for a, b in language_switches(text, "en")] == ["首先 12, 然后", "再"]
    assert [text[a:b] for a, b in language_switches(text, "zh")] == ["get", "done"], "so and we are too short to be words there"
    assert language_switches("a47b5=52c8=60", "en") == []
    text = "a47b五=五二c8=60d九=六九"
    assert [text[a:b] for a, b in language_switches(text, "en")] == ["五=五二", "九=六九"]


def test_every_target_language_that_a_recipe_may_name_has_a_script() -> None:
    assert set(get_args(TargetLanguage)) == set(SCRIPTS_OF)


@pytest.mark.parametrize("target", sorted(SCRIPTS_OF))
def test_people_write_in_their_own_script(target: str) -> None:
    """Own text: no foreign word, but for the III of a resolution's number. Other scripts: hardly a word of the target."""
    own = [row["text"] for row in UDHR if row["lang"].split("-")[0] == target]
    num_words, num_foreign = count(own, target)
    assert num_words > 50
    assert num_foreign <= 1
    scripts = {row["script"] for row in UDHR if row["lang"].split("-")[0] == target}
    related = {"Jpan", "Hans"} if scripts & {"Jpan", "Hans"} else scripts
    others = [row["text"] for row in UDHR if row["script"] not in related]
    num_words, num_foreign = count(others, target)
    assert num_foreign > 0.999 * num_words


def test_sentences_tell_languages_of_one_script_apart() -> None:
    """py3langid, sure to 0.9: never wrong about these, and right about nine in ten words of the other languages."""
    english = [row["text"] for row in UDHR if row["lang"] == "en"]
    assert count(english, "en", identify=True)[1] == 0
    latin = [row["text"] for row in UDHR if row["script"] == "Latn" and row["lang"] != "en"]
    num_words, num_foreign = count(latin[::20], "en", identify=True)
    assert num_foreign > 0.8 * num_words
    assert count(latin, "en")[1] == 0, "by script alone they are not told apart"
    text = "The sum of the two numbers is forty-two. La somme de ces deux nombres est égale à quarante-deux. So we are done."
    [(start, end)] = language_switches(text, "en", identify=True)
    assert text[start:end] == "La somme de ces deux nombres est égale à quarante-deux"
    assert language_consistency("oui, très bien", "en", identify=True) == 1.0, "too short to be told apart"


def test_the_whole_declaration() -> None:
    for target in SCRIPTS_OF:
        own = [row["text"] for row in whole("text/udhr.jsonl") if row["lang"].split("-")[0] == target]
        num_words, num_foreign = count(own, target)
        assert num_foreign <= 0.001 * num_words, target


def test_problems_of_people_in_eleven_languages() -> None:
    """Names of products and people that stay in Latin letters (DVD, iPhone) are all that is foreign."""
    rows = whole("math/mgsm.jsonl")
    for target in {row["lang"] for row in rows} & SCRIPTS_OF.keys():
        num_words, num_foreign = count([row["question"] for row in rows if row["lang"] == target], target)
        assert num_foreign <= 0.003 * num_words, target


@pytest.mark.parametrize("unit", ["五", "`a", "$", "\\(", "```a", "a'", "五a", "²", "\n"])
def test_time_is_linear_whatever_is_written(unit: str) -> None:
    text = (unit * 30_000)[:30_000]
    started = time.process_time()
    language_consistency(text, "en")
    language_switches(text, "zh")
    assert time.process_time() - started < 2.0, "about 0.1 s; quadratic would be minutes"


# in the reward -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "chain"),
    [
        ("<think>a b</think><answer>c</answer>", "a b"),
        ("<think></think><answer>四〇七</answer>", ""),
        ("a b <answer>四〇七</answer>", "a b"),
        ("<think>四十", "四十"),
        ("<think>a</think><think>b</think> 五", "a  b  五"),
        ("52", "52"),
    ],
)
def test_where_the_chain_is(completion: str, chain: str) -> None:
    """Broken tags hide nothing: then all but the answer is the chain."""
    assert " ".join(chain_of(completion).split()) == " ".join(chain.split())


def test_the_part_of_a_reward() -> None:
    problem = Problem("a47b5c8?", "60", "t")
    config = RewardConfig(accuracy=1.0, format=0.1, language=0.5)
    mixed = score("<think>a47b五=五二c8=60</think><answer>60</answer>", problem, config)
    assert mixed.parts == {"accuracy": 1.0, "format": 0.1, "language": 0.25}
    assert (mixed.value, mixed.language) == (pytest.approx(1.35), 0.5)
    pure = score("<think>a47b5=52c8=60</think><answer>60</answer>", problem, config)
    assert pure.value == pytest.approx(1.6)
    assert score("<think>四十七</think><answer>47</answer>", problem, RewardConfig(target_language="zh")).language == 1.0
