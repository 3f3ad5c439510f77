"""Traces of models: found in what models say of themselves, in two languages and more; not in what people wrote."""

import json
import lzma
import math
from pathlib import Path

import pytest

from farthing.data.provenance import CALIBRATION, ProvenanceReport, traces, wilson


@pytest.mark.parametrize(
    ("text", "kind", "vendor"),
    [
        ("As an AI language model, I cannot have opinions.", "self_identification", ""),
        ("I\u2019m ChatGPT, a large language model trained by OpenAI.", "self_identification", "OpenAI"),
        ("I am Claude, an AI assistant made by Anthropic.", "self_identification", "Anthropic"),
        ("I was created by DeepSeek to help.", "self_identification", "DeepSeek"),
        ("My knowledge cutoff is September 2021.", "self_identification", ""),
        ("作为一个人工智能语言模型，我无法回答。", "self_identification", ""),
        ("我是由OpenAI开发的语言模型。", "self_identification", "OpenAI"),
        ("我是通义千问，由阿里云研发。", "self_identification", "Alibaba"),
        ("En tant qu'IA, je ne peux pas répondre.", "self_identification", ""),
        ("Als KI-Sprachmodell kann ich das nicht.", "self_identification", ""),
        ("I'm sorry, but I can't assist with that.", "refusal", ""),
        ("I cannot provide instructions on how to do this.", "refusal", ""),
        ("很抱歉，我无法提供这些信息。", "refusal", ""),
        ("<|im_start|>user\nhi<|im_end|>", "template", ""),
        ("[INST] hi [/INST] hello", "template", ""),
        ("Human: hi\n\nAssistant: hello", "template", ""),
        ("<think>so</think>4", "template", ""),
    ],
)
def test_what_gives_a_model_away(text: str, kind: str, vendor: str) -> None:
    found = list(traces(text.lower()))
    assert kind in {t.kind for t in found}
    assert vendor in {t.vendor for t in found}


@pytest.mark.parametrize(
    "text",
    [
        "I am Claude, said the painter, and this is my garden.",
        "OpenAI released a language model in 2022; critics called it an AI assistant.",
        "I'm sorry, but I can't come to the party.",
        "I cannot help but wonder.",
        "As an artist, I cannot abide it.",
        "Gemini rises after Taurus. I am a Gemini.",
        "对不起，我不能去。",
        "我是老师。",
        "Assistant: hello",
    ],
)
def test_what_people_write(text: str) -> None:
    assert list(traces(text.lower())) == []


def test_no_false_alarm_on_human_text_that_ships() -> None:
    with lzma.open(Path(__file__).parent / "human_text.jsonl.xz", "rt") as file:
        texts = [json.loads(line)["text"] for line in file]
    assert [t for t in texts if list(traces(t.lower()))] == []
    assert wilson(0, len(texts))[1] < 0.002


def test_wilson_by_hand() -> None:
    low, high = wilson(1, 10)
    assert math.isclose(low, 0.01788, abs_tol=1e-4)
    assert math.isclose(high, 0.40415, abs_tol=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_report_says_when_a_share_is_above_false_positives() -> None:
    assert sum(c.num_documents for c in CALIBRATION) > 20_000
    report = ProvenanceReport()
    flagged = list(traces("i'm chatgpt, a large language model trained by openai."))
    for n in range(2000):
        report.add(f"f:{n}", flagged if n % 100 == 0 else [])
    told = report.to_json()
    assert (told["flagged"], told["share"], told["above_false_positives"]) == (20, 0.01, True)
    assert told["vendors"] == {"OpenAI": 20}
    assert report.examples[0]["where"] == "f:0"
    clean = ProvenanceReport()
    clean.add("f:0", [])
    assert clean.to_json()["above_false_positives"] is False
