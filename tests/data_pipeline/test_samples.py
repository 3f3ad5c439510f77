"""Lines of samples: whole completions, worked solutions, GSM8K's own files, and what is none of these."""

import json
from pathlib import Path

import pytest

from farthing.data.samples import Sample, iter_samples, sample_of
from farthing.errors import DataError

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "math" / "gsm8k_train.jsonl"


def of(record: object) -> Sample:
    return sample_of(json.dumps(record).encode(), "mine.jsonl:7")


def test_a_whole_completion_stays_as_it_is() -> None:
    assert of({"question": "2 + 2?", "completion": "<think>#### 5</think>"}).completion == "<think>#### 5</think>"


@pytest.mark.parametrize(
    "record",
    [
        {"question": "q", "answer": "He has 2*3 = <<2*3=6>>6.\nSo 6-1 = $<<6-1=5>>5.\n#### 5"},
        {"question": "q", "solution": "He has 2*3 = <<2*3=6>>6.\nSo 6-1 = $<<6-1=5>>5.\n#### 5", "answer": "5", "id": 3},
        {"question": "q", "solution": "He has 2*3 = 6.\nSo 6-1 = $5.", "answer": "5"},
    ],
)
def test_a_worked_solution_becomes_a_chain_and_an_answer(record: dict[str, str]) -> None:
    sample = of(record)
    assert sample.completion == "<think>He has 2*3 = 6.\nSo 6-1 = $5.</think><answer>5</answer>"
    assert (sample.question, sample.answer, sample.domain) == ("q", "5", "reasoning")


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"question": "q", "answer": "5"}, "'completion' is missing"),
        ({"question": "q", "answer": "no last line ####"}, "'completion' is missing"),
        ({"question": "q", "solution": "s"}, "'solution'"),
        ({"question": "q", "solution": ["s"], "answer": "5"}, "'solution'"),
        ({"question": "q", "solution": "s", "answer": " "}, "'solution'"),
        ({"question": "", "answer": "x\n#### 5"}, "'question' is missing"),
        (["q"], "a JSON object is needed"),
    ],
)
def test_what_is_neither_is_named_with_its_line(record: object, named: str) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl:7") as raised:
        of(record)
    assert named in str(raised.value)


@pytest.mark.skipif(not GSM8K.is_file(), reason="the shared GSM8K file is not here")
def test_every_line_of_gsm8k_is_read() -> None:
    samples = list(iter_samples(GSM8K))
    assert len(samples) == 7473
    assert not any("<<" in s.completion or "####" in s.completion for s in samples)
    assert all(s.completion.endswith(f"<answer>{s.answer}</answer>") for s in samples)
