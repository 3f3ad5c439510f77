"""Problems of toy:general and toy:harm -> replies that are better and worse by rule, and completions labelled safe or unsafe.

In small what DeepSeek-R1's 66,000 pairs and 106,000 labels are (arXiv:2501.12948v2, section 3.1), so that a reward model of a
million parameters has something to learn without a file. A function of the problem and the random source alone.
"""

import random
from collections.abc import Callable, Sequence

from farthing.errors import DataError
from farthing.tasks.problem import Problem
from farthing.tasks.spec import unknown
from farthing.tasks.toy import HAN_DIGITS, LETTERS
from farthing.tasks.toy_general import HARMS, HELPS, REFUSAL, general

DIGITS = "0123456789"
RUDE = ("{}. you fool", "you fool, {}", "who asks that")


def as_completion(reply: str, chain: str = "") -> str:
    """The whole text that a policy would have to write to give `reply`."""
    return f"<think>{chain}</think><answer>{reply}</answer>"


# pairs -----------------------------------------------------------------------------------------------------------------


def wrong(rng: random.Random, problem: Problem) -> str:
    """One character is another of its kind: `d, e, f` -> `d, k, f`."""
    reply = problem.answer
    at = rng.choice([i for i, char in enumerate(reply) if any(char in kind for kind in (LETTERS, DIGITS, HAN_DIGITS))])
    kind = next(kind for kind in (LETTERS, DIGITS, HAN_DIGITS) if reply[at] in kind)
    return reply[:at] + rng.choice([char for char in kind if char != reply[at]]) + reply[at + 1 :]


def cut(rng: random.Random, problem: Problem) -> str:
    return problem.answer[: rng.randrange(1, len(problem.answer))]


def other(rng: random.Random, problem: Problem) -> str:
    """A good reply to another question."""
    while (drawn := general(rng)).answer == problem.answer:
        pass
    return drawn.answer


def rude(rng: random.Random, problem: Problem) -> str:
    return rng.choice(RUDE).format(problem.answer)


def empty(rng: random.Random, problem: Problem) -> str:
    return ""


def repeated(rng: random.Random, problem: Problem) -> str:
    return ", ".join([problem.answer] * rng.randint(2, 3))


RULES: dict[str, Callable[[random.Random, Problem], str]] = {
    "wrong": wrong, "cut": cut, "other": other, "rude": rude, "empty": empty, "repeated": repeated,
}  # fmt: skip
"""How a rejected reply is made from a good one. All by themselves, cut and empty would teach that longer is better."""


def rules_of(names: str) -> list[str]:
    """ "wrong,cut" -> the rules; DataError where there is none of a name."""
    chosen = names.split(",")
    for name in chosen:
        if name not in RULES:
            raise unknown("rule of toy:general", name, RULES, "Correct `rules`.")
    return chosen


def toy_pair(rng: random.Random, problem: Problem, rules: Sequence[str] = tuple(RULES)) -> tuple[str, str]:
    """(chosen, rejected) completions of a toy:general problem."""
    return as_completion(problem.answer), as_completion(RULES[rng.choice(rules)](rng, problem))


# labels ----------------------------------------------------------------------------------------------------------------


def toy_label(rng: random.Random, problem: Problem) -> tuple[str, bool]:
    """(completion, is_safe) of a toy:harm problem, as often safe as not. What is judged is all that the model wrote:

    safe      help where the deed does no harm; a refusal, to whatever question; with or without a chain that weighs the deed
    unsafe    help to harm, to whatever question; a chain that plans harm, whatever the answer says
    """
    *_, name = problem.question.removesuffix("?").split()
    is_safe, is_harmful = rng.random() < 0.5, bool(problem.metadata["is_harmful"])
    harm = problem.question.split()[2] if is_harmful else rng.choice(HARMS)
    thought = rng.choice(["", f"to {harm} is to harm {name}"])
    if is_safe:
        refuses = is_harmful or rng.random() < 0.25
        return as_completion(REFUSAL if refuses else problem.answer, thought), True
    plan = f"first {harm} {name}"
    answers = [REFUSAL, _help(name, rng.choice(HELPS))] if rng.random() < 0.5 else []
    return (as_completion(rng.choice(answers), plan) if answers else as_completion(_help(name, harm), thought)), False


def _help(name: str, deed: str) -> str:
    return f"ask {name} first, then {deed} {name}"


def require_toy(name: str, wanted: str) -> None:
    """DataError where a toy source does not give what the reward model learns from."""
    if name != wanted:
        what = "pairs" if wanted == "general" else "labels"
        raise DataError(f'toy:{name} gives no {what}: use "toy:{wanted}", or a jsonl: file of {what}')
