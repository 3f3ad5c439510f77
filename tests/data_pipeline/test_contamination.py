"""Items of evaluation sets inside documents: verbatim, with other numbers, across borders, too short."""

import json
import unicodedata
from pathlib import Path

import pytest

from farthing.data.contamination import ContaminationIndex
from farthing.data.recipe import DecontaminateConfig, EvaluationSetConfig
from farthing.data.words import ngrams, words
from farthing.errors import DataError

LONG = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many altogether?"
SHORT = "Tom has 12 red apples and eats 3 of them now"
TINY = "What is 2 + 2?"


def index(tmp_path: Path, *items: str, **config: object) -> ContaminationIndex:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"question": item}) + "\n" for item in items))
    one = EvaluationSetConfig(name="set", path="set.jsonl")
    return ContaminationIndex(DecontaminateConfig.model_validate({"sets": [one.model_dump()], **config}), tmp_path)


def check(found: ContaminationIndex, *texts: str) -> list[str | None]:
    return found.check(words([text.lower().encode() for text in texts]))


def test_thirteen_words_in_a_row_are_found_twelve_are_not(tmp_path: Path) -> None:
    tokens = LONG.split()
    found = index(tmp_path, LONG, mask_numbers=False)
    texts = [" ".join(tokens[3:16]), " ".join(tokens[3:15]), f"x {LONG.upper()} y", "nothing of the kind"]
    assert check(found, *texts) == ["contaminated: set (verbatim)", None, "contaminated: set (verbatim)", None]
    assert found.reports[0].to_json() == {
        "set": "set",
        "items": 1,
        "items_too_short_to_look_for": 0,
        "items_found": 1,
        "documents_verbatim": 2,
        "documents_numbers_masked": 0,
    }


def test_other_numbers_do_not_hide_an_item(tmp_path: Path) -> None:
    item = "Tom has 12 apples and gives 3 of them to each of his 2 friends. How many has he left?"
    other = "Tom has 1,250 apples and gives 31.5 of them to each of his 40 friends. How many has he left?"
    assert check(index(tmp_path, item), other) == ["contaminated: set (numbers masked)"]
    assert check(index(tmp_path, item, mask_numbers=False), other) == [None]
    assert check(index(tmp_path, item), other.replace("gives", "sells").replace("many", "much")) == [None]


def test_punctuation_case_and_layout_do_not_hide_an_item(tmp_path: Path) -> None:
    assert check(index(tmp_path, LONG), LONG.upper().replace(" ", "\n -- ").replace(",", ";")) != [None]


def test_a_match_does_not_cross_from_one_document_into_the_next(tmp_path: Path) -> None:
    half = len(LONG) // 2
    cut = LONG.rindex(" ", 0, half)
    halves = [" ".join(LONG[:cut].split()[-8:]), " ".join(LONG[cut:].split()[:8])]
    assert check(index(tmp_path, LONG), *halves) == [None, None]
    assert check(index(tmp_path, LONG), " ".join(halves)) != [None]


def test_a_shorter_item_must_match_whole_and_a_tiny_one_is_counted(tmp_path: Path) -> None:
    found = index(tmp_path, SHORT, TINY)
    assert check(found, f"one day {SHORT} ok", "tom has 12 red apples and eats", TINY) == [
        "contaminated: set (verbatim)",
        None,
        None,
    ]
    assert check(found, SHORT.replace("12", "7")) == ["contaminated: set (numbers masked)"]
    assert (found.reports[0].num_items, found.reports[0].num_too_short) == (2, 1)


def test_every_set_that_holds_an_item_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": LONG}) + "\n")
    sets = [{"name": name, "path": f"{name}.jsonl"} for name in ("a", "b")]
    found = ContaminationIndex(DecontaminateConfig.model_validate({"sets": sets}), tmp_path)
    check(found, f"x {LONG} y", "nothing")
    assert [(len(r.items), r.documents["verbatim"]) for r in found.reports] == [(1, 1), (1, 1)]


def test_a_phrase_that_begins_every_item_is_one_find_a_set(tmp_path: Path) -> None:
    """Of thousands of items with the same instruction a place has one, so that finds do not grow with the set."""
    found = index(tmp_path, *(f"{LONG} {i}" for i in range(300)), mask_numbers=False)
    hashes = words([LONG.lower().encode()]).hashes_W
    at, items = found._tables["verbatim", 13].find(ngrams(hashes, 13))
    assert len(at) == len(items) == len(hashes) - 12
    assert check(found, LONG) == ["contaminated: set (verbatim)"]


def test_items_are_read_as_documents_are(tmp_path: Path) -> None:
    """A document is in NFC and its addresses are masked by the time it is looked up."""
    french = "Combien de pommes rouges a mangées l'élève après la récréation de l'école"
    mail = "Write a mail to Dr. Smith at john.smith@uni.edu asking for a reference letter"
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"question": unicodedata.normalize("NFD", q)}) + "\n" for q in (french, mail)))
    config = DecontaminateConfig.model_validate({"sets": [{"name": "set", "path": "set.jsonl"}]})
    found = ContaminationIndex(config, tmp_path, masked=("email",))
    assert all(check(found, french, mail.replace("john.smith@uni.edu", "<EMAIL>")))


def test_rows_of_numbers_do_not_match_each_other(tmp_path: Path) -> None:
    numbers = " ".join(str(n) for n in range(100, 130))
    assert check(index(tmp_path, numbers), " ".join(str(n) for n in range(500, 530))) == [None]
    assert check(index(tmp_path, numbers), numbers) == ["contaminated: set (verbatim)"]


def test_chinese_items_are_found_in_running_text(tmp_path: Path) -> None:
    item = "小明有十二个苹果，他又买了五个，一共有多少个？"
    assert check(index(tmp_path, item), f"题目如下：{item}请回答。") != [None]
    assert check(index(tmp_path, item), "今天天气很好，我们一起去公园散步，然后回家吃饭。") == [None]


def test_a_set_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation set 'set': .* has no items"):
        index(tmp_path)
    config = DecontaminateConfig(sets=[EvaluationSetConfig(name="gone", path="gone.jsonl")])
    with pytest.raises(DataError, match=r"evaluation set 'gone': .* is not a file"):
        ContaminationIndex(config, tmp_path)
