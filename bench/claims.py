"""Claims: the shipped library against its sources, and sentences that the reader was not made on."""

import argparse
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from bench.results import HERE, Figure, write
from farthing.ledger.prices import load_price_book
from farthing.planner.library import library
from farthing.planner.sentence import read_sentence
from farthing.planner.verdict import judge

FIELDS = {"devices": "num_devices"}
GOLDEN = HERE.parent / "tests" / "planner" / "library.json"
FIRST = {
    ("every quantity", 1): "39 before the reader was mended on two of them",
    ("verdict", 1): "37 before that",
    ("every quantity", 2): "23 before the reader was mended on two of them",
    ("verdict", 2): "24 before that too",
    ("every quantity", 3): "29 before the reader was mended on three kinds of them",
    ("verdict", 3): "24 before that",
}
"""Of the sentences as they were first met."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(measure=measure)


def measure(_args: argparse.Namespace) -> Path:
    book = load_price_book()
    verdicts = {claim.text: judge(claim, book).verdict for claim in library()}
    expected = json.loads(GOLDEN.read_text())
    agree = sum(expected.get(text) == verdict for text, verdict in verdicts.items())
    sentences = tomllib.loads((HERE / "held_out_claims.toml").read_text())["sentence"]
    totals, read, judged = Counter[int](), Counter[int](), Counter[int]()
    wrong = []
    for sentence in sentences:
        batch = sentence["set"]
        judgement = judge(read_sentence(sentence["text"]), book)
        missed = _missed(judgement.claim, sentence)
        totals[batch] += 1
        read[batch] += not missed
        judged[batch] += judgement.verdict == sentence["verdict"]
        if missed or judgement.verdict != sentence["verdict"]:
            wrong.append(f"{sentence['text']} -> {judgement.verdict}, expected {sentence['verdict']}{missed or ''}")
    figures = [
        Figure(
            "library: verdicts as in the table that was gone through by hand",
            agree,
            "",
            len(verdicts),
            "all",
            agree == len(verdicts),
        ),
        *(
            Figure(f"held-out sentences, set {batch}: {what} right", right[batch], "", totals[batch], note=FIRST[what, batch])
            for batch in sorted(totals)
            for what, right in (("every quantity", read), ("verdict", judged))
        ),
    ]
    return write("claims", "python -m bench claims", figures, "Not right: " + "; ".join(wrong) if wrong else "")


def _missed(claim: Any, sentence: dict[str, Any]) -> list[str]:
    """Names of the quantities that were not read, or read with another value (1% apart)."""
    missed = []
    for name in set(sentence) - {"text", "verdict", "set"}:
        got = getattr(claim, FIELDS.get(name, name))
        if got is None or abs(float(got.middle) / sentence[name] - 1) > 0.01:
            missed.append(name)
    return sorted(missed)
