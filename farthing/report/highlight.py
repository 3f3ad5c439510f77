"""A chain and the language it should be in -> the places where it is written in another script.

Scripts, not languages: enough to see Chinese in an English chain, blind to French in it. A symbol is no switch: a lone Greek or
Latin letter, as in `let α = 3`, is left out.
"""

import unicodedata
from functools import cache

LATIN = frozenset({"LATIN"})
HAN = frozenset({"CJK", "IDEOGRAPHIC"})
SCRIPTS: dict[str, frozenset[str]] = {
    "zh": HAN,
    "ja": HAN | {"HIRAGANA", "KATAKANA"},
    "ko": HAN | {"HANGUL"},
    "ru": frozenset({"CYRILLIC"}),
    "uk": frozenset({"CYRILLIC"}),
    "el": frozenset({"GREEK"}),
    "ar": frozenset({"ARABIC"}),
    "fa": frozenset({"ARABIC"}),
    "he": frozenset({"HEBREW"}),
    "hi": frozenset({"DEVANAGARI"}),
    "th": frozenset({"THAI"}),
}
"""ISO 639 code -> the first words of its letters' Unicode names; a language that is not here is written in Latin letters."""
KNOWN = LATIN.union(*SCRIPTS.values())
SYMBOLS = frozenset({"GREEK", "LATIN"})

Span = tuple[int, int]


@cache
def script(character: str) -> str:
    """First word of a letter's Unicode name where it is a script that is told apart here; else empty."""
    name = unicodedata.name(character, "").partition(" ")[0]
    return name if name in KNOWN and (character.isalpha() or name == "IDEOGRAPHIC") else ""


def script_switches(text: str, target: str = "en") -> list[Span]:
    """[start, end) of every stretch in a script that `target` is not written in; what is neutral between two of them joins."""
    expected = SCRIPTS.get(target, LATIN)
    if text.isascii() and expected == LATIN:
        return []
    spans: list[list[int]] = []
    joins = False
    for at, character in enumerate(text):
        found = script(character)
        if found in expected:
            joins = False
        elif found:
            if joins:
                spans[-1][1] = at + 1
            else:
                spans.append([at, at + 1])
            joins = True
    return [(start, end) for start, end in spans if end - start > 1 or script(text[start]) not in SYMBOLS]
