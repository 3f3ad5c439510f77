"""A completion and an extraction mode -> the text the verifier reads, or None.

"tags" reads the one <answer>, "boxed" the last \\boxed{}, "last_number" the last number, "text" everything. Ambiguity
is None, never a guess: several <answer> tags would let a policy list every candidate. All but "tags" read only what
follows </think>, so a number tried inside the chain is never mistaken for the answer.
"""

import re
from collections.abc import Callable

from farthing.errors import DataError
from farthing.rewards.format import after_thinking, parse

MAX_ANSWER_CHARS = 1_000
BOXED = r"\boxed{"

# Linear: the grouped alternative can only fail at its first comma, at most three digits in.
NUMBER = re.compile(r"(?:(?<![\w)])[-+\u2212])?(?:[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))+|[0-9]+)(?:\.[0-9]+)?")


def boxed(text: str) -> str | None:
    """Content of the last \\boxed{...}; None if its braces do not balance."""
    found = text.rfind(BOXED)
    if found == -1:
        return None
    start, depth = found + len(BOXED), 1
    # A longer content is refused anyway, so a megabyte of braces is never walked.
    for at in range(start, min(len(text), start + MAX_ANSWER_CHARS + 1)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at].strip()
    return None


def last_number(text: str) -> str | None:
    """The last number, written plainly: "+1,234." -> "1234"; a Unicode minus becomes "-"."""
    last = None
    for last in NUMBER.finditer(text):  # noqa: B007  (only the last one is wanted, without holding a megabyte of them)
        pass
    if last is None:
        return None
    return last.group().replace(",", "").replace("\u2212", "-").removeprefix("+")


MODES: dict[str, Callable[[str], str | None]] = {"boxed": boxed, "last_number": last_number, "text": str.strip}


def extract(completion: str, mode: str) -> str | None:
    """The answer of a completion; None if there is none, if it is ambiguous, or if it is over 1,000 characters."""
    if mode == "tags":
        answer = parse(completion).answer
    elif mode in MODES:
        text = after_thinking(completion)
        answer = None if text is None else MODES[mode](text)
    else:
        raise DataError(
            f"unknown extraction mode {mode!r}; allowed: tags, {', '.join(MODES)}. "
            "Set the recipe's extraction mode to one of them."
        )
    return answer if answer is not None and len(answer) <= MAX_ANSWER_CHARS else None
