"""JSONL tasks: good files, and every kind of bad line with its number."""

import json
from pathlib import Path

import pytest

from farthing.config import RewardConfig
from farthing.errors import DataError
from farthing.rewards import score
from farthing.tasks.jsonl import JsonlTask

GOOD = {"question": "1+1?", "answer": "2", "verifier": "number"}


def write(path: Path, *lines: bytes | dict[str, object]) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def test_good_lines(tmp_path: Path) -> None:
    choice = {"question": "Sky?", "answer": "B", "verifier": "choice", "choices": ["red", "blue"], "id": "sky"}
    task = JsonlTask(write(tmp_path / "a.jsonl", GOOD, b"", choice))
    assert [problem.question for problem in task.problems] == ["1+1?", "Sky?\n(A) red\n(B) blue"]
    assert task.problems[1].metadata == {"id": "sky", "choices": ["red", "blue"]}
    assert score("(b)", task.problems[1], RewardConfig(extract="text")).accuracy == 1.0
    assert {task.draw(f"{i:x}").question for i in range(20)} == {problem.question for problem in task.problems}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "invalid JSON"),
        (b"[1]", "a JSON object is needed, got list"),
        (b"[" * 100_000, "invalid JSON"),
        (b'{"question": "\xff"}', "invalid UTF-8 at byte 14"),
        ({"question": "a", "answer": "b"}, "'verifier' is missing; present: answer, question"),
        ({**GOOD, "answer": 2}, "'answer' is int, str is needed"),
        ({**GOOD, "question": " "}, "'question' is empty"),
        ({**GOOD, "verifier": "numbr"}, "unknown verifier 'numbr'"),
        ({**GOOD, "extra": 1}, "unknown key 'extra'"),
        ({**GOOD, "choices": ["a", "b"]}, 'the verifier is "choice"'),
        ({**GOOD, "verifier": "choice", "choices": ["a"]}, "needs 2 to 26 texts"),
        ({**GOOD, "answer": "3"}, "with another answer"),
    ],
)
def test_bad_lines(tmp_path: Path, line: bytes | dict[str, object], message: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, line)
    with pytest.raises(DataError, match=f"a.jsonl:2: .*{message}"):
        JsonlTask(path)
    task = JsonlTask(path, on_error="skip")
    assert [number for number, _ in task.skipped] == [2]
    assert len(task.problems) == 1


def test_duplicates_are_counted_and_kept_once(tmp_path: Path) -> None:
    task = JsonlTask(write(tmp_path / "a.jsonl", GOOD, GOOD, {**GOOD, "question": "1+1? "}))
    assert (len(task.problems), task.num_duplicates) == (1, 2)


def test_empty_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no problems, 0 bad lines"):
        JsonlTask(write(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="no problems, 1 bad lines"):
        JsonlTask(write(tmp_path / "a.jsonl", b"{"), on_error="skip")
    with pytest.raises(DataError, match="cannot be read"):
        JsonlTask(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="on_error"):
        JsonlTask(tmp_path / "b.jsonl", on_error="ignore")
