"""A completion -> whether a person can read it, by rules, and which of them it breaks.

After the filters of DeepSeek-R1 (arXiv:2501.12948, sections 2.3.1 and 2.3.3): chains in mixed languages, with long paragraphs
or code blocks are dropped, and what is kept has a readable format. The paper has no thresholds: see `ReadabilityConfig`.
"""

import re
from dataclasses import dataclass

from farthing.config import ReadabilityConfig
from farthing.rewards.extract import extract
from farthing.rewards.format import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, after_thinking, chain_of
from farthing.rewards.language import language_consistency

REASONS = ("length", "tags", "code", "conclusion", "chain", "gibberish", "repetition", "paragraph", "language")
"""What can be wrong, in the order in which it is looked for."""
FENCE = "```"
UNIT = re.compile(
    r"[\u0e01-\u0e4e\u3041-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"  # one letter of a script without spaces
    r"|[^\W\d_]+|\d+|[^\w\s]|_"
)
"""What a chain repeats: words, numbers, and signs one by one."""
PARAGRAPH_END = re.compile(r"\n\s*\n")
SPACELESS = re.compile(r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]+")


@dataclass(frozen=True, slots=True)
class Readability:
    ok: bool
    reasons: tuple[str, ...] = ()
    """Of REASONS, all that apply; of a completion that is too long nothing else is looked at."""


def readability(
    completion: str, config: ReadabilityConfig, target: str = "en", identify: bool = False, consistency: float | None = None
) -> Readability:
    """Judges a whole completion, tags included; time is linear in its length, which `max_chars` bounds.

    `target` and `identify` are of `language_consistency`; `consistency` is its result, where it is known.
    """
    if len(completion) > config.max_chars:
        return Readability(False, ("length",))
    chain = chain_of(completion)
    if consistency is None:
        consistency = language_consistency(chain, target, identify)
    is_broken = {
        "tags": not (is_balanced(completion, THINK_OPEN, THINK_CLOSE) and is_balanced(completion, ANSWER_OPEN, ANSWER_CLOSE)),
        "code": chain.count(FENCE) % 2 == 1 or (FENCE in chain and not config.code_blocks),
        "conclusion": not has_conclusion(completion),
        "chain": len(chain.strip()) < config.min_chain_chars,
        "gibberish": is_gibberish(completion, config),
        "repetition": repeated_share(chain, config.ngram) > config.max_repeated,
        "paragraph": longest_paragraph(chain) > config.max_paragraph_chars,
        "language": consistency < config.min_language,
    }
    reasons = tuple(reason for reason in REASONS if is_broken.get(reason))
    return Readability(not reasons, reasons)


def is_balanced(text: str, opening: str, closing: str) -> bool:
    """Neither tag, or each once and in order: chains and answers do not nest."""
    num_open, num_close = text.count(opening), text.count(closing)
    return num_open == num_close <= 1 and text.find(opening) <= text.find(closing)


def has_conclusion(completion: str) -> bool:
    """Something is said after the chain: inside <answer> where that tag is used, anywhere else where it is not."""
    if ANSWER_OPEN in completion:
        return bool(extract(completion, "tags"))
    after = after_thinking(completion)
    return after is not None and bool(after.strip())


def is_gibberish(text: str, config: ReadabilityConfig) -> bool:
    """Too many characters that cannot be shown (controls, private use, the mark of broken UTF-8), or a word without an end."""
    if not text.isprintable() or "\ufffd" in text:
        shown = sum(char.isprintable() or char in "\n\t" for char in text) - text.count("\ufffd")
        if shown < config.min_printable * len(text):
            return True
    endless = re.compile(rf"[^\W\d_]{{{config.max_word_chars + 1}}}")
    return endless.search(text) is not None and endless.search(SPACELESS.sub(" ", text)) is not None


def repeated_share(text: str, ngram: int) -> float:
    """Share of the text's n-grams that were there before: 0 in most prose, near 1 in a loop; 0 of fewer than 2n of them."""
    units = UNIT.findall(text)
    total = len(units) - ngram + 1
    if total < 2 * ngram:
        return 0.0
    return 1 - len(set(zip(*(units[i:] for i in range(ngram)), strict=False))) / total


def longest_paragraph(text: str) -> int:
    """Characters of the longest stretch without an empty line."""
    return max(len(part.strip()) for part in PARAGRAPH_END.split(text))
