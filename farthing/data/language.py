"""Text -> ISO 639 code of its language. py3langid: 140 languages in a 4.6 MB package, no download, NumPy only."""

from functools import cache
from typing import Any

from farthing.errors import DataError

EXCERPT = 200
MIN_LETTERS = 20


@cache
def _identifier(min_confidence: float) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise DataError("telling languages apart needs the package py3langid: pip install 'farthing[data]'") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=min_confidence)


def language(text: str, min_confidence: float) -> str:
    """By two excerpts, from the start and from the middle; "und" below `min_confidence` or with hardly any letters.

    Excerpts, because the cost is a Python step a byte and 400 characters decide as well as 4,000.
    """
    if len(text) > 4 * EXCERPT:
        middle = len(text) // 2
        text = f"{text[:EXCERPT]}\n{text[middle : middle + EXCERPT]}"
    else:
        text = text[: 2 * EXCERPT]
    if sum(map(str.isalpha, text)) < MIN_LETTERS and text.isascii():
        return "und"
    found, _ = _identifier(min_confidence).classify(text)
    return str(found)
