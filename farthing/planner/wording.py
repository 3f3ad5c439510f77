"""A sentence as written -> plain ASCII of the same meaning: one kind of dash, blank and quote, exponents as ^25.

Refuses what is no sentence: too long, or without a letter.
"""

import re
import unicodedata

from farthing.errors import DataError

MAX_CHARACTERS = 4000
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SAME = str.maketrans(
    {"–": "-", "—": " - ", "−": "-", "‑": "-", "‐": "-", "×": "x", "✕": "x", "·": "*", "⋅": "*", "∼": "~", "≈": "~", "≃": "~"}
    | {"’": "'", "‘": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">=", "½": " 1/2", "…": "...", "¥": " cny ", "￥": " cny "}
    | {"€": " eur ", "£": " gbp ", "₹": " inr ", "₩": " krw ", "￠": " cents ", "¢": " cents "}
)


def plain(text: str) -> str:
    """ASCII, blanks single; capitals stay (M is a million, m may be a minute). DataError with what to do instead."""
    if len(text) > MAX_CHARACTERS:
        raise DataError(
            f"a claim is a sentence or two; this text has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read. "
            "Give the sentence that makes the claim."
        )
    marked = re.sub(r"([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+)", lambda m: "^" + m[1].translate(_SUPERSCRIPTS), text)
    same = unicodedata.normalize("NFKC", marked.translate(_SAME)).translate(_SAME)
    ascii_only = same.encode("ascii", "replace").decode("ascii").replace("\x00", " ")
    # 64x8 devices, 1h47m; not 8x7B, which is a model
    ascii_only = re.sub(r"(?<=\d)x(?=\d+(?![\d.]*[bB]\b))", " x ", ascii_only)
    ascii_only = re.sub(r"(?<=\dh)(?=\d+ ?m(?:in)?\b)", " ", ascii_only)
    blank = re.sub(r"[\x00-\x20]+", " ", ascii_only).strip()
    if not re.search(r"[a-zA-Z]", blank):
        raise DataError(f"no claim in {text[:60]!r}: it has no words. Example: 'trained on 512 H800 GPUs for 80 hours'.")
    return blank
