"""A document's text -> prefix, suffix and middle of it, for a share of the documents.

Fill in the middle (arXiv:2207.14255) in the order prefix, suffix, middle, on whole documents before they are packed, as in
DeepSeek-V3 (arXiv:2412.19437, section 4.1). The two cuts are between any two characters, so that what is to be filled in
may begin and end inside a token.
"""

import random
from dataclasses import dataclass

from farthing.errors import DataError
from farthing.tokenizer import FIM, Tokenizer


@dataclass(frozen=True)
class FillInMiddle:
    """What is cut, and where, depends on the seed and the document's number alone. `tokens`: begin, hole, end."""

    rate: float
    seed: int
    tokens: tuple[int, int, int]

    def parts(self, number: int, text: str) -> tuple[str, str, str] | None:
        """Prefix, suffix, middle of document `number`; None for those that stay as they are. Any part may be empty."""
        rng = random.Random(f"fim/{self.seed}/{number}")
        if rng.random() >= self.rate:
            return None
        first, second = sorted(rng.randint(0, len(text)) for _ in range(2))
        return text[:first], text[second:], text[first:second]

    def join(self, prefix: list[int], suffix: list[int], middle: list[int]) -> list[int]:
        begin, hole, end = self.tokens
        return [begin, *prefix, hole, *suffix, end, *middle]


def fill_in_middle(rate: float, seed: int, tokenizer: Tokenizer) -> FillInMiddle | None:
    """None at a rate of 0. DataError where the tokenizer lacks the tokens."""
    if not rate:
        return None
    if tokenizer.fim_ids is None:
        raise DataError(
            f"fim_rate = {rate:g} needs a tokenizer with the special tokens {', '.join(FIM)} (DeepSeek's and Qwen's are known "
            "too), and this one has none. Train one with `farthing data tokenizer`, or set fim_rate = 0"
        )
    return FillInMiddle(rate, seed, tokenizer.fim_ids)
