"""Text as found -> the same text in one spelling: NFC, \\n newlines, no control characters, no trailing blanks.

What a reader sees does not change. NFKC would: it turns x² into x2, so it is not used.
"""

import re
import unicodedata

CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\ufeff\ud800-\udfff]")
"""C0 and C1 without tab and newline, zero-width space, byte-order marks, and surrogates, which are no characters."""
ASCII_CONTROLS = bytes(b for b in (*range(32), 127) if b not in b"\t\n")
BREAKS = re.compile("\r\n?|[\x85\u2028\u2029]")


def normalise(text: str) -> str:
    """Idempotent. Joiners (ZWJ, ZWNJ) stay: they are spelling in Persian and Hindi, and make up emoji."""
    if text.isascii():
        if "\r" in text:
            text = BREAKS.sub("\n", text)
        # bytes.translate is ten times as fast as a regular expression, and most text takes this way
        text = text.encode("ascii").translate(None, ASCII_CONTROLS).decode("ascii")
    else:
        text = CONTROLS.sub("", BREAKS.sub("\n", text))
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    if " \n" in text or "\t\n" in text or text[-1:] in (" ", "\t", "\n"):
        # by lines: a regular expression would try every blank of a long run as its beginning
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")]).rstrip("\n")
    return text
