"""Pairs and labels: every bad line named, held out by what the question says, lengths matched by counting."""

import json
from pathlib import Path
from typing import Any

import pytest

from farthing.config import RewardModelConfig
from farthing.data.preferences import (
    Example,
    Label,
    Pair,
    is_held_out,
    lines_of,
    load_examples,
    match_lengths,
    read_examples,
    require_both_sides,
)
from farthing.errors import DataError

PAIR = {"question": "q?", "chosen": "good", "rejected": "bad"}
LABEL = {"question": "q?", "completion": "no", "is_safe": True}


def config(learns: str, **changes: Any) -> RewardModelConfig:
    base = {"kind": "reward_model", "learns": learns, "num_steps": 1, "optim": {"learning_rate": 1e-3}}
    return RewardModelConfig.model_validate(base | changes)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    pairs = [Pair("q?", '<think>a "b"</think><answer>四</answer>', ""), Pair("q?", "x\ny", "z")]
    labels = [Label("q?", "", False), Label("q?", "no", True)]
    for examples, kind in ((pairs, Pair), (labels, Label)):
        (tmp_path / "file.jsonl").write_text(lines_of(examples))
        assert read_examples(tmp_path / "file.jsonl", kind) == examples


@pytest.mark.parametrize(
    ("kind", "line", "reason"),
    [
        (Pair, b"{", "not a line of UTF-8 JSON"),
        (Pair, b'"\xff"', "not a line of UTF-8 JSON"),
        (Pair, b"[" * 100_000, "not a line of UTF-8 JSON"),
        (Pair, b"[1]", "a JSON object is needed, got list"),
        (Pair, PAIR | {"winner": "a"}, "unknown key 'winner'; allowed: question, chosen, rejected"),
        (Pair, {"question": "q?", "chosen": "good"}, "the key 'rejected' is missing"),
        (Pair, PAIR | {"chosen": 3}, "'chosen' is int, a text is needed"),
        (Pair, PAIR | {"question": "  "}, "'question' is empty"),
        (Pair, PAIR | {"chosen": ""}, "'chosen' is empty"),
        (Pair, PAIR | {"rejected": "good"}, "chosen and rejected are the same text"),
        (Label, LABEL | {"is_safe": 1}, "'is_safe' is int, true or false is needed"),
        (Label, LABEL | {"is_safe": "yes"}, "'is_safe' is str, true or false is needed"),
        (Label, PAIR, "unknown key 'chosen'; allowed: question, completion, is_safe"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, kind: Any, line: Any, reason: str) -> None:
    good = json.dumps(PAIR if kind is Pair else LABEL).encode()
    bad = line if isinstance(line, bytes) else json.dumps(line).encode()
    (tmp_path / "file.jsonl").write_bytes(good + b"\n\n" + bad + b"\n")
    with pytest.raises(DataError) as raised:
        read_examples(tmp_path / "file.jsonl", kind)
    assert f"file.jsonl:3: {reason}" in str(raised.value)


def test_a_file_that_is_empty_or_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty: there is nothing to learn"):
        read_examples(tmp_path / "empty.jsonl", Pair)
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl", Pair)


def test_a_file_is_split_by_question_and_repeats_are_counted(tmp_path: Path) -> None:
    pairs = [Pair(f"question {i % 50}?", "good", f"bad {i}") for i in range(200)]
    (tmp_path / "pairs.jsonl").write_text(lines_of([*pairs, *pairs[:7]]))
    found = load_examples(config("helpfulness", data=[{"spec": f"jsonl:{tmp_path / 'pairs.jsonl'}"}], test_share=0.2), seed=0)
    assert found.num_repeated == 7
    assert len(found.train) + len(found.held_out) == 200
    assert not {e.question for e in found.train} & {e.question for e in found.held_out}
    assert all(is_held_out(e, 0.2) for e in found.held_out)
    assert 20 <= len(found.held_out) <= 60


@pytest.mark.parametrize(("learns", "spec"), [("helpfulness", "toy:general"), ("harmlessness", "toy:harm")])
def test_toy_sources_are_the_same_every_time_and_never_show_what_is_held_out(learns: str, spec: str) -> None:
    data = [{"spec": spec, "num": 300}]
    first, again = (load_examples(config(learns, data=data), seed=1) for _ in range(2))
    other = load_examples(config(learns, data=data), seed=2)
    assert (first.train, first.held_out) == (again.train, again.held_out)
    assert first.train != other.train
    assert first.held_out == other.held_out, "what is held out is the same for every seed"
    assert len(first.train) + len(first.held_out) + first.num_repeated == 330
    held_out = {e.question for e in first.held_out}
    assert not held_out & {e.question for e in (*first.train, *other.train)}
    if learns == "harmlessness":
        safe = [e.is_safe for e in first.train if isinstance(e, Label)]
        assert 0.4 < sum(safe) / len(safe) < 0.6


@pytest.mark.parametrize(
    ("learns", "spec", "reason"),
    [
        ("helpfulness", "toy:harm", "toy:harm gives no pairs"),
        ("harmlessness", "toy:general", "toy:general gives no labels"),
        ("helpfulness", "gym:chain_sum", "gives neither pairs nor labels"),
        ("helpfulness", "toy:general?rules=wrog", "Did you mean 'wrong'"),
    ],
)
def test_a_source_of_the_wrong_kind_is_refused(learns: str, spec: str, reason: str) -> None:
    with pytest.raises(DataError) as raised:
        load_examples(config(learns, data=[{"spec": spec}]), seed=0)
    assert reason in str(raised.value)


def test_one_sided_and_empty_sets_are_refused() -> None:
    with pytest.raises(DataError, match="there are no held-out examples"):
        require_both_sides([], "held-out")
    unsafe: list[Example] = [Label("q?", str(i), False) for i in range(3)]
    with pytest.raises(DataError, match="all 3 training labels say unsafe"):
        require_both_sides(unsafe, "training")
    require_both_sides([*unsafe, Label("q?", "no", True)], "training")


def test_matched_lengths_by_hand() -> None:
    # sizes 1 | 2..3 | 4..7: of +1 +1 -1 one of each; of +2 -3 both; +5 +7 +6 have no counterpart; 0 always stays
    differences = [1, 1, -1, 2, -3, 5, 7, 6, 0]
    assert match_lengths(differences) == [0, 2, 3, 4, 8]
    assert match_lengths([4, 9, 1]) == []
    assert match_lengths([]) == []
