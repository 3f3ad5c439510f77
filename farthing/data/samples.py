"""JSONL rows of questions with whole completions -> samples to fine-tune on, and back; what data stages leave as data.jsonl.

One object a line: "question" and "completion" (the whole text, <think> and <answer> tags included), and optionally "task",
"domain" (reasoning or general), "source" (the stage or file it comes from) and "answer". Any other key is an error.

Worked solutions are read too: "question", "solution" and "answer", or GSM8K's own files (arXiv:2110.14168), whose "answer" is
the solution with "#### 42" as its last line. The solution becomes the chain, without GSM8K's marks for a calculator.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from farthing.errors import DataError

Domain = Literal["reasoning", "general"]
DATA_FILE = "data.jsonl"
"""What a stage that collects leaves in its folder."""


CALCULATOR = re.compile(r"<<[^<>]*>>")
FINAL = re.compile(r"\n*####[ \t]*(\S[^\n]*)\s*$")
"""GSM8K's last line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with one completion to learn."""

    question: str
    completion: str
    task: str = ""
    domain: Domain = "reasoning"
    source: str = ""
    answer: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def iter_samples(path: Path) -> Iterator[Sample]:
    """Every line of a file. DataError names the first bad line; an empty file is one too."""
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield sample_of(line, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path of the file.") from error
    if not number:
        raise DataError(f"{path} is empty: there is nothing to train on. Check the stage or the tool that made it.")


def sample_of(line: bytes, where: str) -> Sample:
    """One line; DataError, led by `where`, says what is wrong with it."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a line of UTF-8 JSON: {error}. Mend or remove the line.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON object is needed, got {type(record).__name__}. Mend or remove the line.")
    if "completion" not in record:
        record = from_solution(record)
    allowed = Sample.__dataclass_fields__
    for key, value in record.items():
        if key not in allowed:
            raise DataError(f"{where}: unknown key {key!r}; allowed: {', '.join(allowed)}. Rename or remove it.")
        if not isinstance(value, str):
            raise DataError(f"{where}: {key!r} is {type(value).__name__}, a text is needed. Mend the line.")
    for key in ("question", "completion"):
        if not str(record.get(key, "")).strip():
            instead = ", or give a worked solution: 'solution' and 'answer'" if key == "completion" else ""
            raise DataError(f"{where}: {key!r} is missing or empty. Mend or remove the line{instead}.")
    if record.get("domain", "reasoning") not in get_args(Domain):
        raise DataError(f"{where}: domain {record['domain']!r}; allowed: {', '.join(get_args(Domain))}.")
    return Sample(**record)


def from_solution(record: Mapping[str, Any]) -> dict[str, Any]:
    """A worked solution as a sample; any other record as it is, for the checks to name what is missing."""
    solution, answer = record.get("solution"), record.get("answer")
    if solution is None and isinstance(answer, str):
        final = FINAL.search(answer)
        solution, answer = (answer, final[1].strip()) if final else (None, answer)
    if not isinstance(solution, str) or not isinstance(answer, str) or not answer.strip():
        return dict(record)
    chain = CALCULATOR.sub("", FINAL.sub("", solution)).strip()
    rest = {key: value for key, value in record.items() if key not in ("solution", "id")}
    return {**rest, "answer": answer, "completion": f"<think>{chain}</think><answer>{answer}</answer>"}
