"""JSONL files and toy tasks -> pairs (which of two completions is better) and labels (is one safe), to learn and held out.

A line of pairs is {"question", "chosen", "rejected"}, one of labels {"question", "completion", "is_safe"}. Any other key is an
error, and every bad line is one with its number. Held out is what its question says, by the same rule as problems are.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from farthing.config import PreferenceSource, RewardModelConfig
from farthing.errors import DataError
from farthing.tasks.problem import Problem
from farthing.tasks.source import open_task
from farthing.tasks.spec import parse_spec
from farthing.tasks.task import Split, draw, is_test
from farthing.tasks.toy_pairs import RULES, require_toy, rules_of, toy_label, toy_pair


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one question, <think> and <answer> tags included where they have any."""

    question: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Label:
    """A completion as a whole, reasoning included."""

    question: str
    completion: str
    is_safe: bool


Example = Pair | Label
ExampleT = TypeVar("ExampleT", Pair, Label)
KEYS: Mapping[type[Example], Mapping[str, type]] = {
    Pair: {"question": str, "chosen": str, "rejected": str},
    Label: {"question": str, "completion": str, "is_safe": bool},
}
MAY_BE_EMPTY = ("rejected", "completion")


@dataclass
class Examples:
    """What a reward model learns from and is judged by, with what was left out."""

    train: list[Example] = field(default_factory=list)
    held_out: list[Example] = field(default_factory=list)
    num_repeated: int = 0

    def add(self, other: Sequence[Example], test_share: float) -> None:
        """Sorts them by what their questions say; those that are there already are counted."""
        known = {*self.train, *self.held_out}
        for example in other:
            if example in known:
                self.num_repeated += 1
                continue
            known.add(example)
            (self.held_out if is_held_out(example, test_share) else self.train).append(example)


def load_examples(config: RewardModelConfig, seed: int) -> Examples:
    """Everything that `data` names. DataError where a source cannot be used."""
    found, kind = Examples(), Pair if config.learns == "helpfulness" else Label
    for source in config.data:
        spec = parse_spec(source.spec, source.config)
        if spec.source == "jsonl":
            path = Path(spec.name)
            found.add(read_examples(path, Pair) if kind is Pair else read_examples(path, Label), config.test_share)
        elif spec.source == "toy":
            require_toy(spec.name, "general" if kind is Pair else "harm")
            found.add(toy_examples(source, "train", seed, source.num, config.test_share), config.test_share)
            held_out = math.ceil(source.num * config.test_share)
            found.add(toy_examples(source, "test", 0, held_out, config.test_share), config.test_share)
        else:
            raise DataError(f"{source.spec}: a {spec.source} task gives neither pairs nor labels; use jsonl: or toy:.")
    return found


def require_both_sides(examples: Sequence[Example], what: str) -> None:
    """DataError where there is nothing to learn, or every label is alike."""
    if not examples:
        raise DataError(f"there are no {what} examples: give more data, or another test_share")
    labels = {example.is_safe for example in examples if isinstance(example, Label)}
    if len(labels) == 1:
        word = "safe" if labels == {True} else "unsafe"
        raise DataError(
            f"all {len(examples):,} {what} labels say {word}: a model cannot learn the difference. Add the other side"
        )


def is_held_out(example: Example, test_share: float) -> bool:
    return is_test(Problem(example.question, "", ""), test_share)


def toy_examples(source: PreferenceSource, split: Split, seed: int, count: int, test_share: float) -> list[Example]:
    """`count` of a toy source; the n-th of a split and a seed is the same in every process."""
    spec = parse_spec(source.spec, source.config)
    config = dict(spec.config)
    rules = rules_of(str(config.pop("rules", ",".join(RULES)))) if spec.name == "general" else []
    task = open_task(f"toy:{spec.name}", config)
    examples: list[Example] = []
    for index in range(count):
        problem, rng = draw(task, split, index, seed, test_share), random.Random(f"{seed}/{split}/{index}")
        if spec.name == "general":
            examples.append(Pair(problem.question, *toy_pair(rng, problem, rules)))
        else:
            examples.append(Label(problem.question, *toy_label(rng, problem)))
    return examples


# files -----------------------------------------------------------------------------------------------------------------


def read_examples(path: Path, kind: type[ExampleT]) -> list[ExampleT]:
    """Every line of a file. DataError names the first bad line; an empty file is one too."""
    found: list[ExampleT] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found.append(example_of(line, kind, f"{path}:{number}"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path of the file.") from error
    if not found:
        raise DataError(f"{path} is empty: there is nothing to learn. Its lines are objects with {', '.join(KEYS[kind])}.")
    return found


def example_of(line: bytes, kind: type[ExampleT], where: str) -> ExampleT:
    """One line; DataError, led by `where`, says what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a line of UTF-8 JSON: {error}. Mend or remove the line.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON object is needed, got {type(record).__name__}. Mend or remove the line.")
    _check(record, KEYS[kind], where)
    if kind is Pair and record["chosen"] == record["rejected"]:
        raise DataError(f"{where}: chosen and rejected are the same text: it prefers nothing. Remove the line.")
    return kind(**record)


def _check(record: dict[str, Any], keys: Mapping[str, type], where: str) -> None:
    for key in record:
        if key not in keys:
            raise DataError(f"{where}: unknown key {key!r}; allowed: {', '.join(keys)}. Rename or remove it.")
    for key, wanted in keys.items():
        if key not in record:
            raise DataError(f"{where}: the key {key!r} is missing; needed: {', '.join(keys)}. Mend the line.")
        if type(record[key]) is not wanted:
            name = {str: "a text", bool: "true or false"}[wanted]
            raise DataError(f"{where}: {key!r} is {type(record[key]).__name__}, {name} is needed. Mend the line.")
        if wanted is str and key not in MAY_BE_EMPTY and not record[key].strip():
            raise DataError(f"{where}: {key!r} is empty. Mend or remove the line.")


def lines_of(examples: Sequence[Example]) -> str:
    """The text of a file that `read_examples` reads."""
    return "".join(json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in examples)


# lengths ---------------------------------------------------------------------------------------------------------------


def match_lengths(differences: Sequence[int]) -> list[int]:
    """Length of chosen minus rejected of each pair -> which pairs to keep, so that length says nothing about which is better.

    Within differences of like size (1, 2 to 3, 4 to 7, ...) as many stay in which the longer one is chosen as the shorter one:
    the first of each. Pairs of equal length all stay.
    """
    sides: dict[tuple[int, bool], list[int]] = {}
    for index, difference in enumerate(differences):
        sides.setdefault((abs(difference).bit_length(), difference > 0), []).append(index)
    kept = list(sides.pop((0, False), []))
    for size in {size for size, _ in sides}:
        longer, shorter = sides.get((size, True), []), sides.get((size, False), [])
        count = min(len(longer), len(shorter))
        kept += longer[:count] + shorter[:count]
    return sorted(kept)
