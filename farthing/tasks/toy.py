"""Random numbers -> small problems with chains of thought, for models of 1 to 10M parameters.

Each family has a wide answer that a small model cannot give in one step, and a chain whose steps it can learn: what
arXiv:2510.11495 shows to be needed for RL to lengthen chains. A generator is a pure function of its random source.
"""

import random
from collections.abc import Callable

from farthing.tasks.problem import Problem

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def running_total(rng: random.Random, min_terms: int = 5, max_terms: int = 8, modulus: int = 100) -> Problem:
    """`a47 b+5 c-8 d+3` : follow a number through signed one-digit changes, modulo 100. The chain is one total a letter."""
    start = rng.randrange(modulus)
    total, question, chain = start, [f"a{start:02d}"], [f"a{start:02d}"]
    for letter in LETTERS[1 : rng.randint(min_terms, max_terms)]:
        change = rng.choice([-1, 1]) * rng.randint(1, 9)
        total = (total + change) % modulus
        question.append(f"{letter}{change:+d}")
        chain.append(f"{letter}{total:02d}")
    return Problem(f"total {' '.join(question)}?", f"{total:02d}", "running_total", chains=(" ".join(chain),))


MOVES: dict[str, Callable[[str], str]] = {
    "L": lambda word: word[1:] + word[0],
    "R": lambda word: word[-1] + word[:-1],
    "V": lambda word: word[::-1],
    "S": lambda word: word[-1] + word[1:-1] + word[0],
}
"""Rotate left, rotate right, reverse, swap the ends."""


def letter_moves(rng: random.Random, min_moves: int = 4, max_moves: int = 7, length: int = 4) -> Problem:
    """`moves kdpw aL bV cS` : apply moves to a word in turn. The chain is the word after each move."""
    word = "".join(rng.choice(LETTERS) for _ in range(length))
    start, question, chain = word, [], []
    for letter in LETTERS[: rng.randint(min_moves, max_moves)]:
        move = rng.choice(sorted(MOVES))
        word = MOVES[move](word)
        question.append(f"{letter}{move}")
        chain.append(f"{letter}{move}{word}")
    return Problem(f"moves {start} {' '.join(question)}?", word, "letter_moves", chains=(" ".join(chain),))


GENERATORS: dict[str, Callable[..., Problem]] = {"running_total": running_total, "letter_moves": letter_moves}

ALPHABET = LETTERS + "LRVS" + "0123456789+- ?\n"
"""Every character these generators write, for a character tokenizer."""
