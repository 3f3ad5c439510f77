"""What models wrote, on a page: hostile text does nothing, hidden characters are seen, other scripts are marked."""

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from farthing.report.text import HIDDEN, chain, code_point, marked, visible
from farthing.rewards import language_switches

TAGS = re.compile(r"<[^>]*>")
OURS = re.compile(r'</?mark>|</?span(?: class="(?:tag|gap|hidden)"(?: title="U\+[0-9A-F]+")?)?>')


def no_switches(text: str) -> list[tuple[int, int]]:
    return []


def shown(html: str) -> str:
    """What a reader sees."""
    return unescape(TAGS.sub("", html))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</pre></details></main><h1>paid</h1>",
        "<!-- <style>*{display:none}</style>",
        "&lt;script&gt; &amp; &#x3c;b>",
        "javascript:alert(1)\"' onmouseover=x",
        "{{ 7 * 7 }} {% include '/etc/passwd' %}",
    ],
)
def test_markup_is_text(text: str) -> None:
    html = str(chain(text, no_switches))
    assert "<" not in html
    assert shown(html) == text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\x00b\x1b[31m\x7f", "a\u2400b\u241b[31m\u2421"),
        ("\u202egnp.exe\u2066x", "\u27e8U+202E\u27e9gnp.exe\u27e8U+2066\u27e9x"),
        ("zero\u200bwidth\ufeff\r\n", "zero\u27e8U+200B\u27e9width\u27e8U+FEFF\u27e9\u240d\n"),
        ("lone \ud800 half, tag \U000e0041", "lone \u27e8U+D800\u27e9 half, tag \u27e8U+E0041\u27e9"),
        ("tab\tand\nline, 中文, é, 👩‍🚀", "tab\tand\nline, 中文, é, 👩‍🚀"),
    ],
)
def test_hidden_characters_are_seen(text: str, seen: str) -> None:
    html = str(chain(text, no_switches))
    assert shown(html) == seen == visible(text)
    html.encode("utf-8")
    assert not HIDDEN.search(html)


def test_safe_markup_and_numbers_pass_unchanged() -> None:
    assert visible(Markup("<b>\x00</b>")) == "<b>\x00</b>"
    assert visible(3) == 3
    assert code_point("\u202e") == "\u27e8U+202E\u27e9"


@given(st.text(alphabet=st.characters(), max_size=200), st.lists(st.integers(0, 200), max_size=8))
def test_any_text_with_any_marks_holds_no_tag_but_ours_and_loses_nothing(text: str, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(text)) for cut in cuts})
    spans = list(zip(ends[::2], ends[1::2], strict=False))
    html = str(marked(text, lambda _: spans))
    assert not TAGS.sub("", OURS.sub("", html)).count("<")
    assert "<" not in OURS.sub("", html)
    assert shown(html) == visible(text)
    assert html.count("<mark>") == len(spans)


def test_a_line_of_a_megabyte_is_cut_and_says_so() -> None:
    text = "a" * 500_000 + "\u202e<b>" * 125_000 + "the end"
    html = str(chain(text, language_switches))
    assert len(html) < 12_000
    left_out = re.search(r"([\d,]+) characters left out", html)
    assert left_out is not None
    # of 3,000 and 1,000 characters at its ends; the second, half of it markup, is halved
    assert int(left_out[1].replace(",", "")) == len(text) - 2000
    assert shown(html).endswith("the end")


def test_tags_of_ours_are_set_apart_and_are_no_foreign_words() -> None:
    asked: list[str] = []

    def find(text: str) -> list[tuple[int, int]]:
        asked.append(text)
        return []

    html = str(chain("<think>一加一</think><answer>2</answer>", find))
    assert html.count('class="tag"') == 4
    assert asked == ["       一加一                2         "]


# other scripts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "target", "found"),
    [
        ("a47b5=52c8=60", "en", []),
        ("a47b五=五二c8=60", "en", ["五=五二"]),
        ("first 首先 then 〇 and done", "en", ["首先", "〇"]),
        ("We add, 然后 我们 subtract", "en", ["然后 我们"]),
        ("let α = 3 and π r²", "en", []),
        ("слово word λόγος", "en", ["слово", "λόγος"]),
        ("设 x = 3, 然后 add them", "zh", ["add them"]),
        ("ひらがな 漢字 ABC", "ja", ["ABC"]),
        ("naïve café, œuvre ½ 𝒳", "en", []),
        ("", "en", []),
    ],
)
def test_stretches_in_another_script(text: str, target: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in language_switches(text, target)] == found
