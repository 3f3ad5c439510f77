"""A JSONL file of questions and answers -> a task; every bad line is an error with its number, or counted if asked.

One object a line: "question", "answer" and "verifier", optionally "id", "chain" (a chain of thought to train on) and
"choices" (a list of texts, which are put
under the question as (A), (B), ... and verified by "choice"). With the verifier "none" there is no answer: such requests are
for stages that a reward model judges.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from farthing.errors import DataError
from farthing.tasks.problem import Problem

KEYS: Mapping[str, type] = {"question": str, "answer": str, "verifier": str}
OPTIONAL_KEYS: Mapping[str, type] = {"id": str, "choices": list, "chain": str}
VERIFIERS = ("choice", "exact", "math", "none", "number")
"""Those that need nothing but the answer, or not even that."""
NO_ANSWER = "(none)"
MAX_CHOICES = 26


class BadLine(ValueError):
    """What is wrong with one line."""


class JsonlTask:
    """Problems of a file, each distinct question once. `skipped` lists (line, reason), `num_duplicates` the repeats."""

    def __init__(self, path: str | Path, on_error: str = "error") -> None:
        if on_error not in ("error", "skip"):
            raise DataError(f'{path}: on_error is {on_error!r}; allowed: "error", "skip".')
        self.path = Path(path)
        self.name = f"jsonl:{path}"
        self.skipped: list[tuple[int, str]] = []
        self.num_duplicates = 0
        found: dict[str, Problem] = {}
        for line_number, problem in self.read(on_error):
            first = found.setdefault(problem.content_hash, problem)
            if first is not problem:
                self.count_duplicate(first, problem, line_number, on_error)
        self.problems = tuple(found.values())
        if not self.problems:
            raise DataError(f"{path}: no problems, {len(self.skipped)} bad lines skipped. Give at least one good line.")

    def count_duplicate(self, first: Problem, again: Problem, line_number: int, on_error: str) -> None:
        self.num_duplicates += 1
        if first.answer != again.answer:
            reason = f"repeats a question with another answer: {again.answer!r}, before {first.answer!r}"
            self.refuse(line_number, reason, on_error)

    def refuse(self, line_number: int, reason: str, on_error: str) -> None:
        if on_error == "error":
            raise DataError(f'{self.path}:{line_number}: {reason}. Mend the line, or set on_error="skip".')
        self.skipped.append((line_number, reason))

    def read(self, on_error: str) -> Iterator[tuple[int, Problem]]:
        """Good lines with their numbers, from 1."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}). Check the path of the file.") from error
        for line_number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield line_number, problem_of(line, self.name)
            except BadLine as error:
                self.refuse(line_number, str(error), on_error)

    def draw(self, key: str) -> Problem:
        return self.problems[int(key, 16) % len(self.problems)]


def problem_of(line: bytes, task: str) -> Problem:
    """One line as a problem; BadLine says what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadLine(f"invalid UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise BadLine("invalid JSON: nested too deep") from error
    except ValueError as error:
        raise BadLine(f"invalid JSON: {error}") from error
    if isinstance(record, dict) and record.get("verifier") == "none":
        if "answer" in record:
            raise BadLine("'answer' is given, and the verifier \"none\" reads none")
        record["answer"] = NO_ANSWER
    check_record(record)
    choices = record.get("choices")
    question = record["question"]
    if choices is not None:
        question += "\n" + "\n".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices))
    metadata = {key: record[key] for key in ("id", "choices") if key in record}
    chains = (record["chain"],) if "chain" in record else ()
    return Problem(question, record["answer"], task, record["verifier"], metadata, chains)


def check_record(record: Any) -> None:
    """BadLine unless the keys, their types and their contents are right."""
    if not isinstance(record, dict):
        raise BadLine(f"a JSON object is needed, got {type(record).__name__}")
    for key in KEYS:
        if key not in record:
            raise BadLine(f"the key {key!r} is missing; present: {', '.join(sorted(record)) or 'none'}")
    allowed = {**KEYS, **OPTIONAL_KEYS}
    for key, value in record.items():
        if key not in allowed:
            raise BadLine(f"unknown key {key!r}; allowed: {', '.join(allowed)}")
        if not isinstance(value, allowed[key]):
            raise BadLine(f"{key!r} is {type(value).__name__}, {allowed[key].__name__} is needed")
    for key in KEYS:
        if not record[key].strip():
            raise BadLine(f"{key!r} is empty")
    if record["verifier"] not in VERIFIERS:
        raise BadLine(f"unknown verifier {record['verifier']!r}; allowed: {', '.join(VERIFIERS)}")
    check_choices(record)


def check_choices(record: Mapping[str, Any]) -> None:
    choices = record.get("choices")
    if choices is None:
        return
    if not 2 <= len(choices) <= MAX_CHOICES or not all(isinstance(choice, str) for choice in choices):
        raise BadLine(f"'choices' needs 2 to {MAX_CHOICES} texts")
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    if record["verifier"] != "choice" or record["answer"] not in letters:
        raise BadLine(f"with 'choices' the verifier is \"choice\" and the answer one of {', '.join(letters)}")
