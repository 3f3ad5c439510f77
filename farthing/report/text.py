"""Text that a model wrote -> HTML in which it can do no harm: escaped, cut where it is long, its hidden characters shown.

A completion may hold anything: markup, terminal codes, characters that turn the direction of a line, megabytes in one line.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

Span = tuple[int, int]
FindSwitches = Callable[[str], Sequence[Span]]
"""A text -> [start, end) of its stretches in another language than it should be in."""

HEAD_CHARACTERS, TAIL_CHARACTERS = 3000, 1000
"""What is shown of a longer text; the answer is at its end."""
MAX_HTML = 12_000
"""Characters of one chain on the page: one that is all hidden characters and marks would grow tenfold, and is cut shorter."""
SHORT = (600, 200)
"""Of a question or an answer: first and last characters."""

_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
"""Controls but for tab and newline, marks of direction and of no width, lone surrogates, tags."""
HIDDEN = re.compile(f"[{_HIDDEN}]")
TAG = re.compile(r"</?(?:think|answer)>")
_TOKEN = re.compile(f"[{_HIDDEN}]|{TAG.pattern}")


def code_point(character: str) -> str:
    """A visible stand-in for a character that has no look of its own."""
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)
    return "\u2421" if number == 0x7F else f"\u27e8U+{number:04X}\u27e9"


def visible(value: Any) -> Any:
    """Every hidden character of a plain text made visible; markup that is safe already, and what is no text, stays as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return HIDDEN.sub(lambda found: code_point(found[0]), value)
    return value


def excerpt(text: str, head: int, tail: int) -> tuple[str, int, str]:
    """(its first `head` characters, how many are left out, its last `tail`)."""
    left_out = len(text) - head - tail
    return (text, 0, "") if left_out <= 0 else (text[:head], left_out, text[-tail:])


def short(text: str) -> str:
    """A question or an answer, to stand beside a chain."""
    head, left_out, tail = excerpt(text, *SHORT)
    return f"{head} ({left_out:,} characters left out) {tail}" if left_out else head


def chain(text: str, find_switches: FindSwitches) -> Markup:
    """A completion to be read: tags set apart, stretches in another language marked, a long middle left out and counted."""
    head, tail = HEAD_CHARACTERS, TAIL_CHARACTERS
    shown = _cut(text, head, tail, find_switches)
    while len(shown) > MAX_HTML:
        head, tail = head // 2, tail // 2
        shown = _cut(text, head, tail, find_switches)
    return shown


def _cut(text: str, head_characters: int, tail_characters: int, find_switches: FindSwitches) -> Markup:
    head, left_out, tail = excerpt(text, head_characters, tail_characters)
    if not left_out:
        return marked(head, find_switches)
    gap = Markup('<span class="gap">{:,} characters left out</span>').format(left_out)
    return marked(head, find_switches) + gap + marked(tail, find_switches)


def marked(text: str, find_switches: FindSwitches) -> Markup:
    """All of `text`. The words of our own tags are in nobody's language and are blanked for `find_switches`."""
    spans = find_switches(TAG.sub(lambda found: " " * len(found[0]), text))
    pieces, at = [], 0
    for start, end in spans:
        pieces += [_plain(text[at:start]), Markup("<mark>{}</mark>").format(_plain(text[start:end]))]
        at = end
    return Markup().join([*pieces, _plain(text[at:])])


def _plain(text: str) -> Markup:
    pieces, at = [], 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if TAG.fullmatch(token):
            shown = Markup('<span class="tag">{}</span>').format(token)
        else:
            shown = Markup('<span class="hidden" title="U+{:04X}">{}</span>').format(ord(token), code_point(token))
        pieces += [escape(text[at : found.start()]), shown]
        at = found.end()
    return Markup().join([*pieces, escape(text[at:])])
