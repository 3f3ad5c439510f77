"""One spelling for one text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.data.normalise import normalise


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("e\u0301", "\u00e9"),
        ("a\r\nb\rc\u2028d\u0085e", "a\nb\nc\nd\ne"),
        ("a\x00b\x07c\x7f\u200b\ufeffd", "abcd"),
        ("a \t\nb  \n\n", "a\nb"),
        ("\tif x:  y", "\tif x:  y"),
        ("x\u00b2 \ufb01", "x\u00b2 \ufb01"),
        ("می\u200cخواهم 👨\u200d👩", "می\u200cخواهم 👨\u200d👩"),
        ("\ud800x", "x"),
    ],
)
def test_by_hand(found: str, wanted: str) -> None:
    assert normalise(found) == wanted


@given(st.text())
def test_twice_is_once_and_nfc(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once
    once.encode()


@pytest.mark.parametrize("blank", [" ", "\t", "\n", " \t"])
def test_a_long_run_of_blanks_takes_no_time(blank: str) -> None:
    """A thousand times as long would be a million times as slow, were it looked at from every blank on: minutes."""
    assert normalise("a" + blank * 500_000 + "x" + " \n") == "a" + blank * 500_000 + "x"
