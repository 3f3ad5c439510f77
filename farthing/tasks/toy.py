"""Random numbers -> small problems with chains of thought, for models of 1 to 10M parameters.

Each family has a wide answer that a small model cannot give in one step, and a chain whose steps it can learn: what
arXiv:2510.11495 shows to be needed for RL to lengthen chains. A generator is a pure function of its random source.
"""

import random
from collections.abc import Callable

from farthing.tasks.problem import Problem

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def running_total(rng: random.Random, min_terms: int = 5, max_terms: int = 8, modulus: int = 100) -> Problem:
    """`total a47 b5 c8?` -> `a47 b5 52 c8 60`: add one-digit terms to a number, modulo 100.

    The chain names each term before it gives the new total, so that no step has to look up and add at once.
    """
    total = rng.randrange(modulus)
    question, chain = [f"a{total:02d}"], [f"a{total:02d}"]
    for letter in LETTERS[1 : rng.randint(min_terms, max_terms)]:
        term = rng.randint(1, 9)
        total = (total + term) % modulus
        question.append(f"{letter}{term}")
        chain.append(f"{letter}{term} {total:02d}")
    return Problem(f"total {' '.join(question)}?", f"{total:02d}", "running_total", chains=(" ".join(chain),))


MOVES: dict[str, Callable[[str], str]] = {
    "L": lambda word: word[1:] + word[0],
    "V": lambda word: word[::-1],
    "S": lambda word: word[1] + word[0] + word[2:],
}
"""Rotate left, reverse, swap the first two letters: together they reach every order of the letters."""


def letter_moves(rng: random.Random, min_moves: int = 4, max_moves: int = 7, length: int = 3) -> Problem:
    """`moves kdp aL bV cS?` -> `aLdpk bVkpd cSpkd`: apply moves to a word in turn; the chain is the word after each."""
    word = "".join(rng.sample(LETTERS, length))
    start, question, chain = word, [], []
    for letter in LETTERS[: rng.randint(min_moves, max_moves)]:
        move = rng.choice(sorted(MOVES))
        word = MOVES[move](word)
        question.append(f"{letter}{move}")
        chain.append(f"{letter}{move}{word}")
    return Problem(f"moves {start} {' '.join(question)}?", word, "letter_moves", chains=(" ".join(chain),))


GENERATORS: dict[str, Callable[..., Problem]] = {"running_total": running_total, "letter_moves": letter_moves}

ALPHABET = LETTERS + "LVS" + "0123456789 ?\n"
"""Every character these generators write, for a character tokenizer."""
