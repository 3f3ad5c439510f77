"""Fill in the middle: what is cut, how often, in which order, with which tokens; and that held-out documents are let alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.data.documents import DocumentStream, tokenise
from farthing.data.fim import FillInMiddle, fill_in_middle
from farthing.errors import DataError
from farthing.tokenizer import FIM, FIM_SPELLINGS, Tokenizer

WORDS = ["river", "stone", "walks", "under", "green", "light", "seven", "birds", "open"]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.train_bpe([" ".join(WORDS) * 20], 300)


@settings(deadline=None, max_examples=50)
@given(st.text(), st.integers(0, 10**6), st.integers(0, 2**31))
def test_the_parts_are_the_text_and_the_same_every_time(text: str, number: int, seed: int) -> None:
    fim = FillInMiddle(1.0, seed, (1, 2, 3))
    parts = fim.parts(number, text)
    assert parts is not None
    prefix, suffix, middle = parts
    assert prefix + middle + suffix == text
    assert FillInMiddle(1.0, seed, (1, 2, 3)).parts(number, text) == parts
    assert FillInMiddle(0.0, seed, (1, 2, 3)).parts(number, text) is None


def test_the_rate_is_the_share_of_documents_and_cuts_fall_anywhere() -> None:
    found = [FillInMiddle(0.1, 7, (1, 2, 3)).parts(n, "abcdefghij") for n in range(4000)]
    cut = [parts for parts in found if parts]
    assert len(cut) / 4000 == pytest.approx(0.1, abs=0.015)
    assert len(set(cut)) == 1 + 10 * 11 // 2 + 10, "every pair of places between 0 and 10, equal ones included"
    other = [FillInMiddle(0.1, 8, (1, 2, 3)).parts(n, "abcdefghij") for n in range(4000)]
    assert [bool(p) for p in other] != [bool(p) for p in found]


def test_a_document_in_tokens(bpe: Tokenizer, tmp_path: Path) -> None:
    """End of text, begin, prefix, hole, suffix, end, middle, end of text; those held out as they were."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=12)) for _ in range(200)]
    texts[0] = texts[1] = "spelled <|fim_begin|>a<|fim_hole|>b<|fim_end|>"
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    fim = fill_in_middle(0.5, 3, bpe)
    assert fim is not None
    for name in ("cache", "again"):
        tokenise([tmp_path / "c.jsonl"], bpe, tmp_path / name, {}, 0.25, fim)
    plain, cut = 0, 0
    ends = np.load(tmp_path / "cache" / "ends.npy")
    tokens, places = np.fromfile(tmp_path / "cache" / "tokens", np.uint32), np.load(tmp_path / "cache" / "places.npy")
    for number, (text, place) in enumerate(zip(texts, places, strict=True)):
        first, *ids, last = tokens[(ends[number - 1] if number else 0) : ends[number]].tolist()
        assert (first, last) == (bpe.eos_id, bpe.eos_id)
        marks = [i for i in ids if i in fim.tokens]
        parts = fim.parts(number, text) if place >= 0.25 else None
        if parts is None:
            plain += place < 0.25
            assert not marks
            assert bpe.decode(ids) == text
            continue
        cut += 1
        assert marks == list(fim.tokens)
        prefix, suffix, middle = (bpe.decode(x) for x in _between(ids, fim.tokens))
        assert (prefix, suffix, middle) == parts
    assert plain > 20
    assert 50 < cut < 100
    assert (tmp_path / "again" / "tokens").read_bytes() == (tmp_path / "cache" / "tokens").read_bytes()
    stream = DocumentStream(tmp_path / "cache", 32, 0, 0.25)
    rows, num_bytes = stream.held_out(1000)
    assert not {i for row in rows for i in row.tokens} & set(fim.tokens)
    assert num_bytes == sum(len(text) for text, place in zip(texts, places, strict=True) if place < 0.25)


def _between(ids: list[int], marks: tuple[int, int, int]) -> tuple[list[int], list[int], list[int]]:
    begin, hole, end = (ids.index(mark) for mark in marks)
    assert begin == 0
    return ids[1:hole], ids[hole + 1 : end], ids[end + 1 :]


def test_another_rate_or_seed_makes_the_tokens_anew(bpe: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": word}) + "\n" for word in WORDS))
    made = []
    for rate, seed in ((0.0, 0), (0.0, 1), (1.0, 0), (1.0, 1)):
        tokenise([tmp_path / "c.jsonl"], bpe, tmp_path / "cache", {}, 0.0, fill_in_middle(rate, seed, bpe))
        made.append((tmp_path / "cache" / "tokens").read_bytes())
    assert made[0] == made[1]
    assert len(set(made)) == 3


@pytest.mark.parametrize("spelling", FIM_SPELLINGS)
def test_published_spellings_are_known(spelling: tuple[str, str, str]) -> None:
    tokenizer = Tokenizer.characters("ab")
    tokenizer.backend.add_special_tokens(list(spelling))
    fim = fill_in_middle(0.1, 0, tokenizer)
    assert fim is not None
    assert [tokenizer.token(i) for i in fim.tokens] == list(spelling)


def test_a_tokenizer_without_the_tokens_is_refused() -> None:
    tokenizer = Tokenizer.characters("ab")
    assert fill_in_middle(0.0, 0, tokenizer) is None
    tokenizer.backend.add_special_tokens(list(FIM[:2]))
    with pytest.raises(DataError, match=r"fim_rate = 0.1 needs a tokenizer with the special tokens <\|fim_begin\|>"):
        fill_in_middle(0.1, 0, tokenizer)
