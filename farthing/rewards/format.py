"""A completion -> its chain of thought, its answer, and whether it keeps the <think>/<answer> format.

Source: the R1-Zero template, DeepSeek-R1 (arXiv 2501.12948), table 1. Every scan is a `str.find` or `str.count`, so a
hostile megabyte costs linear time; there is no regex to backtrack.
"""

from dataclasses import dataclass

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


@dataclass(frozen=True, slots=True)
class Parsed:
    """`think` and `answer` are None where their tags are absent, repeated or out of order."""

    think: str | None
    answer: str | None
    is_well_formed: bool


def between(text: str, opening: str, closing: str) -> tuple[int, int] | None:
    """Start and end of what one pair of tags encloses; None unless each tag occurs exactly once, in order."""
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.find(opening) + len(opening), text.find(closing)
    return (start, end) if start <= end else None


def parse(text: str) -> Parsed:
    """Read one completion, with what of it the prompt opened (a prefilled <think>)."""
    think = between(text, THINK_OPEN, THINK_CLOSE)
    answer = between(text, ANSWER_OPEN, ANSWER_CLOSE)
    if answer is not None and text.find(THINK_CLOSE, answer[0]) != -1:
        answer = None  # an answer inside the chain is a thought, not an answer
    is_well_formed = (
        think is not None
        and answer is not None
        and not text[: think[0] - len(THINK_OPEN)].strip()
        and not text[think[1] + len(THINK_CLOSE) : answer[0] - len(ANSWER_OPEN)].strip()
        and not text[answer[1] + len(ANSWER_CLOSE) :].strip()
    )
    return Parsed(
        think=None if think is None else text[slice(*think)],
        answer=None if answer is None else text[slice(*answer)].strip(),
        is_well_formed=is_well_formed,
    )


def after_thinking(completion: str) -> str | None:
    """What follows the chain of thought; the whole text if there is no chain; None if the chain never ends."""
    close = completion.rfind(THINK_CLOSE)
    if close != -1:
        return completion[close + len(THINK_CLOSE) :]
    return None if THINK_OPEN in completion else completion


def chain_of(completion: str) -> str:
    """The chain of thought; all but the answer where no one pair of <think> tags encloses it, so that nothing hides by
    breaking the tags or by being cut short."""
    think = between(completion, THINK_OPEN, THINK_CLOSE)
    if think is not None:
        return completion[slice(*think)]
    answer = between(completion, ANSWER_OPEN, ANSWER_CLOSE)
    text = completion if answer is None else completion[: answer[0]] + completion[answer[1] :]
    for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE):
        text = text.replace(tag, " ")
    return text


def final_answer(completion: str) -> str:
    """What a reader of the reply sees: what follows </think>, without the tags around it; empty if the chain never ends.

    Text outside the tags is part of the reply, so that nothing can be hidden beside a good answer.
    """
    text = (after_thinking(completion) or "").strip()
    inside = between(text, ANSWER_OPEN, ANSWER_CLOSE)
    is_whole = inside is not None and text.startswith(ANSWER_OPEN) and text.endswith(ANSWER_CLOSE)
    return text[slice(*inside)].strip() if is_whole and inside is not None else text
