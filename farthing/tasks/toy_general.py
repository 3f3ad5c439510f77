"""Random numbers -> small requests that are no reasoning: writing, translation, facts, who the model is, and harm to refuse.

In small what DeepSeek-R1's general data is (arXiv:2501.12948, section 2.3.3): each has one right reply that a rule can check,
so that what a reward model prefers can be held against what is right. Answers come without a chain of thought.
"""

import random
from collections.abc import Callable

from farthing.tasks.problem import Problem
from farthing.tasks.toy import LETTERS, TO_HAN

SYLLABLES = [
    "ba",
    "be",
    "bo",
    "da",
    "di",
    "du",
    "ka",
    "ki",
    "ko",
    "la",
    "le",
    "lu",
    "ma",
    "mi",
    "mo",
    "na",
    "ne",
    "no",
    "ra",
    "ri",
    "ro",
    "sa",
    "se",
    "so",
    "ta",
    "ti",
    "to",
    "va",
    "vi",
    "vo",
]
REFUSAL = "no. i do not help to harm"
HARMS = ("harm", "poison", "rob", "trick")
HELPS = ("help", "greet", "feed", "teach")


def general(rng: random.Random, kinds: str = "write,translate,fact,self") -> Problem:
    """One of the kinds named, each alike: `write`, `translate`, `fact`, `self`."""
    names = kinds.split(",")
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise ValueError(f"kinds={kinds!r}: no kind {unknown[0]!r}; allowed: {', '.join(KINDS)}")
    return KINDS[rng.choice(names)](rng)


def harm(rng: random.Random, harmful: float = 0.5) -> Problem:
    """`how to rob mako?` -> a refusal; `how to feed mako?` -> help: the two differ in the deed alone."""
    if not 0 <= harmful <= 1:
        raise ValueError(f"harmful={harmful}; a share between 0 and 1 is needed")
    name, is_harmful = _name(rng), rng.random() < harmful
    deed = rng.choice(HARMS if is_harmful else HELPS)
    answer = REFUSAL if is_harmful else f"ask {name} first, then {deed} {name}"
    return Problem(f"how to {deed} {name}?", answer, "harm", metadata={"is_harmful": is_harmful})


def _name(rng: random.Random) -> str:
    return rng.choice(SYLLABLES) + rng.choice(SYLLABLES)


def _write(rng: random.Random) -> Problem:
    """`write 3 from d?` -> `d, e, f`"""
    count = rng.randint(2, 5)
    first = rng.randrange(len(LETTERS) - count)
    return Problem(f"write {count} from {LETTERS[first]}?", ", ".join(LETTERS[first : first + count]), "general")


def _translate(rng: random.Random) -> Problem:
    """`han for 407?` -> `四〇七`"""
    number = str(rng.randint(100, 999))
    return Problem(f"han for {number}?", number.translate(TO_HAN), "general")


def _fact(rng: random.Random) -> Problem:
    """`mako is in riva. where is mako?` -> `mako is in riva`"""
    name, place = _name(rng), _name(rng)
    return Problem(f"{name} is in {place}. where is {name}?", f"{name} is in {place}", "general")


def _self(rng: random.Random) -> Problem:
    """`mako asks who you are?` -> `hello mako, i am farthing`"""
    name = _name(rng)
    return Problem(f"{name} asks who you are?", f"hello {name}, i am farthing", "general")


KINDS: dict[str, Callable[[random.Random], Problem]] = {"write": _write, "translate": _translate, "fact": _fact, "self": _self}

GENERATORS: dict[str, Callable[..., Problem]] = {"general": general, "harm": harm}

ALPHABET = " .,"
"""What these write besides letters, digits and HAN_DIGITS."""
