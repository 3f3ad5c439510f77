"""Word hashes against a plain Python reading of the same rules; n-grams against sets."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.data import words as module
from farthing.data.words import NUMBER, ngrams, ngrams_of_lengths, shingles, starts_within, words


def hashes(text: str) -> list[int]:
    return [int(h) for h in words([text.encode()]).hashes_W]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tom has 1,234.5 apples.", ["tom", "has", "1,234.5", "apples"]),
        ("don't stop_it", ["don", "t", "stop", "it"]),
        ("3.", ["3"]),
        ("“quoted” — na\u00efve\u00a0caf\u00e9…", ["quoted", "na\u00efve", "caf\u00e9"]),
        ("我有3个苹果。 ok", ["我", "有", "3", "个", "苹", "果", "ok"]),
        ("ひらカナ、x", ["ひ", "ら", "カ", "ナ", "x"]),
        ("สวัสดี", list("สวัสดี")),
        ("привет мир", ["привет", "мир"]),
        ("", []),
        ("... !", []),
    ],
)
def test_words_by_hand(text: str, parts: list[str]) -> None:
    assert hashes(text) == [hashes(part)[0] for part in parts]


@given(st.lists(st.text(st.sampled_from("ab c.1,\n"), max_size=30), max_size=8))
def test_ascii_words_are_those_of_a_regular_expression_wherever_they_stand(texts: list[str]) -> None:
    found = words([text.encode() for text in texts])
    wanted = [re.findall(r"(?:(?<=\d)[.,](?=\d)|[a-z0-9])+", text) for text in texts]
    assert np.diff(found.offsets).tolist() == [len(w) for w in wanted]
    flat = [word for w in wanted for word in w]
    assert found.hashes_W.tolist() == [hashes(word)[0] for word in flat]
    assert found.is_number_W.tolist() == [word[0].isdigit() for word in flat]


@given(st.text(max_size=60), st.text(max_size=60))
@settings(deadline=None)
def test_a_documents_hashes_do_not_depend_on_its_neighbours(left: str, right: str) -> None:
    found = words([left.encode(), right.encode()])
    assert found.hashes_W[: found.offsets[1]].tolist() == hashes(left)
    assert found.hashes_W[found.offsets[1] :].tolist() == hashes(right)


def test_long_documents_are_read_in_blocks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"word{n}" for n in range(500))
    whole = hashes(text)
    monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    assert hashes(text) == whole
    assert words([b"a b", text.encode(), b"c"]).offsets.tolist() == [0, 2, 502, 503]


def test_different_words_have_different_hashes() -> None:
    found = words([" ".join(f"{a}{b}{c}" for a in "abcdefgh" for b in "0123456789xyz" for c in "qrstuvw").encode()])
    assert len(set(found.hashes_W.tolist())) == len(found.hashes_W) == 8 * 13 * 7


def test_ngrams_stay_in_their_document_and_depend_on_order() -> None:
    found = words([b"a b c", b"a b", b"c b a"])
    grams = ngrams(found.hashes_W, 2)
    inside = starts_within(found.offsets, 2, len(grams))
    assert inside.tolist() == [True, True, False, True, False, True, True]
    assert grams[0] == grams[3]
    assert len(set(grams[inside].tolist())) == 4
    for n, some in ngrams_of_lengths(found.hashes_W, [2, 5, 8, 9]):
        assert some.tolist() == ngrams(found.hashes_W, n).tolist()
        assert len(some) == max(8 - n + 1, 0)


def test_shingles_of_short_and_empty_documents() -> None:
    found = words([b"a b c d", b"x y", b"", b"a b c"])
    flat, offsets = shingles(found, 3, np.array([7, 8, 9, 10], dtype=np.uint64))
    assert offsets.tolist() == [0, 2, 3, 4, 5]
    assert flat[0] == flat[4]
    assert flat[3] == 9
    assert len(set(flat.tolist())) == 4


def test_masked_numbers_are_all_alike() -> None:
    found = words([b"tom has 12 apples and 1,000.50 pears"])
    assert [h == NUMBER for h in found.masked()] == [False, False, True, False, False, True, False]
