"""A chain of thought and a target language -> which of its words are in that language, by script, and where it switches.

Language consistency is DeepSeek-R1's (arXiv:2501.12948, section 3.2.1 and B.6): target-language words over all words. The paper
does not say what a word is; here it is a run of letters of one script, and in scripts without spaces (Han, kana, Thai) each
letter. Digits, punctuation, mathematics and code are neutral, so a chain without any word is consistent. Nothing is downloaded.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

SCRIPTS_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("en", "de", "es", "fr", "id", "it", "nl", "pl", "pt", "sv", "sw", "tr", "vi"), ("Latin",)),
    "ar": ("Arabic",),
    "el": ("Greek",),
    "he": ("Hebrew",),
    "hi": ("Devanagari",),
    "ja": ("Kana", "Han"),
    "ko": ("Hangul",),
    "ru": ("Cyrillic",),
    "th": ("Thai",),
    "zh": ("Han",),
}
"""Target language -> the scripts that it is written in."""

_LATIN = (
    r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua7ff\ufb00-\ufb06\uff21-\uff3a"
    r"\uff41-\uff5a"
)
_GREEK = r"\u0370-\u0373\u0376-\u037d\u037f\u0386\u0388-\u03ff\u1f00-\u1fff"
_CYRILLIC = r"\u0400-\u052f\u1c80-\u1c88\u2de0-\u2dff\ua640-\ua69f"
_MARKS = r"\u0300-\u036f"
_ARABIC = (
    r"\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06df-\u06e8\u06ea-\u06ef\u06fa-\u06ff\u0750-\u077f\u0870-\u08ff"
    r"\ufb50-\ufdff\ufe70-\ufefc"
)
_HEBREW = r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u05d0-\u05f2\ufb1d-\ufb4f"
PATTERNS: dict[str, str] = {
    "Latin": rf"[\u02bb\u02bc]?[{_LATIN}][{_LATIN}{_MARKS}]*(?:['\u2019\u02bb\u02bc][{_LATIN}][{_LATIN}{_MARKS}]*)*",
    "Han": r"[\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]",
    "Kana": r"[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d]"
    r"[\u3099-\u309c\u30fc\uff70]*",
    "Hangul": r"[\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb]+",
    "Cyrillic": rf"[{_CYRILLIC}][{_CYRILLIC}{_MARKS}]*",
    "Greek": rf"[{_GREEK}][{_GREEK}{_MARKS}]*",
    # the joiners are spelling in Persian, and in Hindi
    "Arabic": rf"[{_ARABIC}][{_ARABIC}\u200c\u200d]*",
    "Hebrew": rf"[{_HEBREW}]+",
    "Devanagari": r"[\u0900-\u0963\u0971-\u097f\ua8e0-\ua8ff][\u0900-\u0963\u0971-\u097f\ua8e0-\ua8ff\u200c\u200d]*",
    "Thai": r"[\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*",
    # vowel signs are no letters to Python, and would part a word: the other scripts of India, from their blocks
    "Indic": r"(?:(?!\d)[\u0980-\u0dff\u200c\u200d])+",
    "Other": r"[^\W\d_]+",
}
"""Script -> one word of it. Every alternative is linear: no two of its parts can match the same character."""
WORD = re.compile("|".join(f"(?P<{script}>{pattern})" for script, pattern in PATTERNS.items()))

SYMBOLS = re.compile(
    r"```(?:(?!```).)*```"
    r"|`[^`\n]+`"
    r"|\$\$[^$]*\$\$"
    # as pandoc reads it, so that "$5 and then $6" is no formula
    r"|\$(?=\S)[^$\n]*(?<=[^\s$])\$(?!\d)"
    r"|\\\((?:(?!\\[()]).)*\\\)"
    r"|\\\[(?:(?!\\[\[\]]).)*\\\]"
    r"|\\[A-Za-z]+"
    r"|https?://[!-~]+",
    re.DOTALL,
)
"""Code, mathematics and addresses. Latin and Greek letters in them are symbols; letters of other scripts are words even there,
or a chain could hide a language from the reward between two dollar signs."""
SYMBOL_LETTERS = re.compile(f"[{_LATIN}{_GREEK}{_MARKS}]")
SYMBOL_SCRIPTS = ("Latin", "Greek")
MAX_SYMBOL = 2
"""A Latin or Greek word of so many letters is a symbol (x, kg, pi) in a chain whose language has another script."""
NO_WORD = re.compile(r"[\u00aa\u00ba\u02b0-\u02ff\u2100-\u214f\U0001d400-\U0001d7ff]+")
"""Letters to Python: raised a and o of ordinal numbers, modifiers by themselves, and the alphabets of mathematics."""
NOT_LATIN = re.compile(rf"[^\W\d_{_LATIN}]")

SENTENCE = re.compile(r"(?:[^.!?\u2026\u3002\uff01\uff1f\u061f\u0964\n]|[.!?\u2026](?!\s))+")
MIN_CONFIDENCE = 0.9


class Word(NamedTuple):
    start: int
    end: int
    is_foreign: bool


def language_consistency(text: str, target: str = "en", identify: bool = False) -> float:
    """Share of the words that are in the target language, in [0, 1]; 1 where there are none, and below 1 with any foreign word.

    `identify` also tells languages of one script apart, sentence by sentence (see `foreign_sentences`).
    """
    if not identify and "Latin" in SCRIPTS_OF[target] and NOT_LATIN.search(text) is None:
        return 1.0  # most chains, at the speed of one scan
    foreign = [word.is_foreign for word in words(text, target, identify)]
    return 1 - sum(foreign) / len(foreign) if foreign else 1.0


def language_switches(text: str, target: str = "en", identify: bool = False) -> list[tuple[int, int]]:
    """(start, end) of every stretch in another language, with what is neutral between its words."""
    spans: list[tuple[int, int]] = []
    goes_on = False
    for word in words(text, target, identify):
        if word.is_foreign:
            start = spans.pop()[0] if goes_on else word.start
            spans.append((start, word.end))
        goes_on = word.is_foreign
    return spans


def words(text: str, target: str, identify: bool = False) -> Iterator[Word]:
    """The words of a text in order; symbols, which belong to no language, are left out."""
    scripts = SCRIPTS_OF[target]
    others = foreign_sentences(text, target) if identify else iter(())
    other = next(others, None)
    for match in WORD.finditer(without_symbols(text)):
        script, (start, end) = match.lastgroup, match.span()
        is_ours = script in scripts
        if not is_ours and script in SYMBOL_SCRIPTS and end - start <= MAX_SYMBOL:
            continue
        if script == "Other" and not is_written(match[0]):
            continue
        while other is not None and other[1] <= start:
            other = next(others, None)
        yield Word(start, end, not is_ours or (other is not None and other[0] <= start))


def is_written(letters: str) -> bool:
    """False of what Python takes for letters and is none: superscripts, fractions, letters of mathematics."""
    return letters.isalpha() and not NO_WORD.fullmatch(letters)


def without_symbols(text: str) -> str:
    """The same text, place for place, with spaces where code and mathematics have Latin and Greek letters."""
    return SYMBOLS.sub(lambda match: SYMBOL_LETTERS.sub(" ", match[0]), text)


def foreign_sentences(text: str, target: str) -> Iterator[tuple[int, int]]:
    """(start, end) of sentences that py3langid is sure are in another language than the target.

    Single words and short sentences cannot be told apart by any identifier of this size, so those are left to their script.
    """
    from farthing.data.language import MIN_LETTERS, language

    for match in SENTENCE.finditer(without_symbols(text)):
        sentence = match[0].strip()
        if sum(map(str.isalpha, sentence)) < MIN_LETTERS:
            continue
        if language(sentence, MIN_CONFIDENCE) not in (target, "und"):
            yield match.span()
