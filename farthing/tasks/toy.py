"""Random numbers -> small problems with chains of thought, for models of 1 to 10M parameters.

Each family has a wide answer that a small model cannot give in one step, and a chain whose steps it can learn: what
arXiv:2510.11495 shows to be needed for RL to lengthen chains. A generator is a pure function of its random source.
"""

import random
import re
from collections.abc import Callable
from dataclasses import replace

from farthing.tasks.problem import Problem

LETTERS = "abcdefghijklmnopqrstuvwxyz"
HAN_DIGITS = "〇一二三四五六七八九"
TO_HAN = str.maketrans("0123456789", HAN_DIGITS)


def running_total(rng: random.Random, min_terms: int = 5, max_terms: int = 8, mixed: float = 0.0) -> Problem:
    """`a47b5c8?` -> `a47b5=52c8=60`: add one-digit terms to a number, 99 being followed by 00.

    The chain names each term before it gives the new total, so that no step has to look up and add at once. `mixed` is the
    share of chains that change language on the way (see `mix_languages`).
    """
    numbers = [f"{n:02d}" for n in range(100)]
    return mix_languages(rng, _walk(rng, numbers, _count(rng, min_terms, max_terms), 0.0, "running_total"), mixed)


def letter_walk(
    rng: random.Random, min_terms: int = 5, max_terms: int = 8, mirrors: float = 0.3, mixed: float = 0.0
) -> Problem:
    """`akb5c0d8?` -> `akb5=pc0=kd8=s`: go along the alphabet, z being followed by a; 0 mirrors it, a to z and b to y.

    The mirror (this share of the terms) is what keeps the end from being guessed: without it a base learns to add the terms up
    at once, for a third of the problems.
    """
    return mix_languages(rng, _walk(rng, list(LETTERS), _count(rng, min_terms, max_terms), mirrors, "letter_walk"), mixed)


def _count(rng: random.Random, least: int, most: int) -> int:
    if not 1 <= least <= most <= len(LETTERS):
        raise ValueError(f"min_terms={least}, max_terms={most}; 1 <= min_terms <= max_terms <= {len(LETTERS)} is needed")
    return rng.randint(least, most)


def _walk(rng: random.Random, places: list[str], num_terms: int, mirrors: float, task: str) -> Problem:
    """Start at one of `places` and go 1 to 9 forward, term after term, round and round; 0 goes to the mirror place."""
    at = rng.randrange(len(places))
    question = [f"a{places[at]}"]
    chain = list(question)
    for label in LETTERS[1:num_terms]:
        term = 0 if rng.random() < mirrors else rng.randint(1, 9)
        at = (at + term) % len(places) if term else len(places) - 1 - at
        question.append(f"{label}{term}")
        chain.append(f"{label}{term}={places[at]}")
    return Problem(f"{''.join(question)}?", places[at], task, chains=("".join(chain),))


def mix_languages(rng: random.Random, problem: Problem, mixed: float) -> Problem:
    """With chance `mixed`, writes some of the chain's steps with Chinese numerals: `a47b5=52c8=60` -> `a47b五=五二c8=60`.

    What DeepSeek saw in R1-Zero, in small: a chain that changes language and is right all the same. Answers stay as they are.
    """
    if not mixed or rng.random() >= mixed:
        return problem
    steps = re.split(r"(?=[a-z]\d=)", problem.chains[0])
    chosen = {rng.randrange(len(steps)), *(i for i in range(len(steps)) if rng.random() < 0.5)}
    chain = "".join(step.translate(TO_HAN) if i in chosen else step for i, step in enumerate(steps))
    return replace(problem, chains=(chain,))


GENERATORS: dict[str, Callable[..., Problem]] = {"running_total": running_total, "letter_walk": letter_walk}

ALPHABET = LETTERS + "0123456789=?\n"
"""Every character these generators write without `mixed`, for a character tokenizer; HAN_DIGITS come on top with it."""
