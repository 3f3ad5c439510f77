"""Sentences in free English: the quantities read from them, and the verdicts."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import SENTENCES

from farthing.errors import DataError
from farthing.ledger.prices import PriceBook
from farthing.planner.sentence import read_sentence
from farthing.planner.verdict import judge, read_as

FIELDS = {"devices": "num_devices"}


@pytest.mark.parametrize(("text", "expected", "verdict"), SENTENCES, ids=[text for text, _, _ in SENTENCES])
def test_a_sentence_is_read_and_judged(text: str, expected: dict[str, float | str], verdict: str, book: PriceBook) -> None:
    judgement = judge(read_sentence(text), book)
    claim = judgement.claim
    for name, value in expected.items():
        if name == "device":
            assert claim.device == value
            continue
        got = getattr(claim, FIELDS.get(name, name))
        assert got is not None, f"{name} was not read"
        assert float(got.middle) == pytest.approx(value, rel=0.01), name
    numeric = {
        "devices",
        "hours",
        "device_hours",
        "usd",
        "usd_per_device_hour",
        "usd_per_device",
        "params",
        "tokens",
        "flops",
        "kwh",
        "tco2",
        "mfu",
    }
    unexpected = (set(read_as(claim)) & numeric) - set(expected)
    assert not unexpected or len(expected) < 4 or unexpected <= {"params"}, f"also read: {unexpected}"
    assert judgement.verdict == verdict, judgement.summary


def test_no_quantity_is_read_where_there_is_none() -> None:
    assert not read_sentence("hello world").has_figures


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8 H100s for 1e9999 hours", "beyond any quantity"),
        ("-5 GPUs for 3 hours", "negative"),
        ("12345", "no words"),
        ("", "no words"),
        ("x" * 1_000_000, "1,000,000 characters"),
        ("8 H100s for 10^99999 hours", "beyond any quantity"),
    ],
)
def test_what_is_no_claim_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_sentence(text)


def test_a_rate_makes_other_money_comparable(book: PriceBook) -> None:
    from decimal import Decimal

    text = "16 A100s for 10 days cost 72,000 yuan"
    assert judge(read_sentence(text), book).verdict == "not checkable"
    known = judge(read_sentence(text, {"CNY": Decimal("0.14")}), book)
    assert known.verdict == "consistent"
    assert known.claim.usd is not None
    assert known.claim.usd.middle == 10_080


@pytest.mark.parametrize(
    "piece",
    ["1 gpu ", "one and ", "$1 per ", "1 a b c d e ", "excluding $5 ", "a 10^", "a-", "8 H100 for 3 days, ", "((a", "1.0."],
)
def test_repetition_takes_bounded_time(piece: str) -> None:
    began = time.process_time()
    read_sentence(("a " + piece * 4000)[:4000])
    assert time.process_time() - began < 2


WORDS = st.sampled_from(
    [
        "trained",
        "on",
        "512",
        "H800",
        "GPUs",
        "for",
        "80",
        "hours",
        "at",
        "$2",
        "per",
        "GPU",
        "hour",
        "about",
        "over",
        "7B",
        "model",
        "2T",
        "tokens",
        "MFU",
        "40%",
        "and",
        "or",
        "to",
        "-",
        "x",
        "million",
        "two",
        "half",
        "a",
        "nodes",
        "of",
        "each",
        "1.000",
        "3e25",
        "FLOPs",
        "kWh",
        "tCO2",
        "DeepSeek-R1",
        "GPT-4",
        "$294,000",
        "excluding",
        "compared",
        "with",
        "(",
        ")",
        "days",
        "weeks",
        "/",
        "€",
        "10^25",
        "fp8",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, max_size=25).map(" ".join))
def test_any_order_of_words_gets_a_verdict(book: PriceBook, text: str) -> None:
    try:
        judgement = judge(read_sentence(text), book)
    except DataError:
        return
    assert judgement.verdict in ("consistent", "consistent only if", "inconsistent", "not checkable")
    judgement.to_json()


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gets_a_verdict_or_a_reason(book: PriceBook, text: str) -> None:
    try:
        judgement = judge(read_sentence(text), book)
    except DataError:
        return
    assert judgement.summary
