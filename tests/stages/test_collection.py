"""What becomes of each completion, by hand; general samples with their cursor; held-out questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from farthing.config import ColdStartConfig, GeneralConfig, RejectionSamplingConfig, RewardConfig
from farthing.data.general import GeneralSamples
from farthing.data.sample_rows import SampleRows, place_of, tokenise_samples
from farthing.data.samples import Sample
from farthing.engine.engine import Completion, StopReason
from farthing.errors import DataError
from farthing.renderer import Renderer
from farthing.rollout import Rollout, score_groups
from farthing.stages.collection import Collection, shingles
from farthing.stages.rejection_sampling import general_due, own_limit
from farthing.tasks.problem import Problem
from farthing.tokenizer import Tokenizer

SUM, LETTER = Problem("4+5?", "9", "sums"), Problem("ak?", "k", "letters")
CHAIN = "first i take four, then i add five to it, which gives nine"


BASE = {"num_steps": 1, "tasks": [{"spec": "toy:letter_walk"}], "max_completion_tokens": 9}


def config(**changed: Any) -> ColdStartConfig:
    return ColdStartConfig.model_validate({"kind": "cold_start", **BASE, **changed})


def rejection(**changed: Any) -> RejectionSamplingConfig:
    return RejectionSamplingConfig.model_validate({"kind": "rejection_sampling", **BASE, **changed})


def thought(chain: str, answer: str = "9") -> str:
    return f"<think>{chain}</think><answer>{answer}</answer>"


def group(problem: Problem, *texts: str, stop_reason: StopReason = StopReason.END_OF_TEXT) -> list[Rollout]:
    rollouts = [Rollout(problem, [1], Completion([1], [0.0], [1.0], stop_reason, 0, 0), text) for text in texts]
    return score_groups([rollouts], RewardConfig())[0]


def collection(folder: Path, limit: int = 0, **changed: Any) -> Collection:
    kept = Collection(folder / "data.jsonl", config(**changed), "here", limit)
    kept.open()
    return kept


def take(kept: Collection, rollouts: list[Rollout]) -> None:
    kept.add([(r, r.text) for r in kept.wanted(kept.sift(rollouts))])


def counts(kept: Collection) -> dict[str, int]:
    return {what: n for what in dict.fromkeys(what for _, what in kept.counts) if (n := kept.total(what))}


def test_each_completion_meets_one_fate(tmp_path: Path) -> None:
    kept = collection(tmp_path)
    take(kept, group(SUM, "<think>so", stop_reason=StopReason.LENGTH))
    take(
        kept,
        group(
            SUM,
            thought("a", "8"),
            thought("四加五"),
            thought("b5=52" * 12),
            thought(CHAIN),
            thought(CHAIN + " "),
            thought(CHAIN.replace("nine", "nine, i think")),
            thought("five and four are nine"),
        ),
    )
    take(kept, group(LETTER, thought("ak", "k")))
    assert counts(kept) == {
        "sampled": 9, "truncated": 1, "wrong": 1, "language": 1, "repetition": 1, "duplicate": 1, "enough": 2, "kept": 2,
    }  # fmt: skip
    assert kept.per_task()["letters"] == {"kept": 1, "sampled": 1}
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in rows] == [thought(CHAIN), thought("ak", "k")]
    assert rows[0] == Sample("4+5?", thought(CHAIN), "sums", "reasoning", "here", "9").to_json()


def test_only_what_keeps_the_format_where_that_is_asked_for(tmp_path: Path) -> None:
    """An answer in its tags is right and readable whatever the tags around the chain are called."""
    texts = (f"<check>{CHAIN}</check><answer>9</answer>", f"so {thought('four and five')}", thought("nine it is"))
    kept = collection(tmp_path, keep_per_problem=3, well_formed=True)
    take(kept, group(SUM, *texts))
    assert counts(kept) == {"sampled": 3, "format": 2, "kept": 1}
    (tmp_path / "loose").mkdir()
    loose = collection(tmp_path / "loose", keep_per_problem=3)
    take(loose, group(SUM, *texts))
    assert counts(loose) == {"sampled": 3, "kept": 3}


def test_near_duplicates_share_most_of_their_ngrams(tmp_path: Path) -> None:
    """22 units make 18 five-grams; a word in the middle is in 5 of them: 13 of 23 are shared."""
    a, b = (thought(f"one two three four five six {last}") for last in ("seven", "eight"))
    assert (len(shingles(a)), len(shingles(a) & shingles(b)), len(shingles(a) | shingles(b))) == (18, 13, 23)
    assert shingles("k") == {("k",)}
    for threshold, num_kept in ((13 / 23, 1), (0.57, 2), (1.0, 2)):
        kept = collection(tmp_path / str(threshold), keep_per_problem=4, near_duplicate=threshold)
        assert len(kept.sift(group(SUM, a, b, a))) == num_kept


def test_a_problem_that_comes_again_has_its_limit_still(tmp_path: Path) -> None:
    kept = collection(tmp_path, keep_per_problem=2)
    take(kept, group(SUM, thought(CHAIN)))
    take(kept, group(SUM, thought(CHAIN), thought("five and four are nine"), thought("nine is the sum of both")))
    assert counts(kept) == {"sampled": 4, "kept": 2, "duplicate": 1, "enough": 1}
    full = collection(tmp_path / "full", limit=1)
    take(full, group(SUM, thought(CHAIN)))
    assert full.is_full()
    take(full, group(LETTER, thought("ak", "k")))
    assert counts(full) == {"sampled": 2, "kept": 1, "enough": 1}


def test_a_resumed_collection_cuts_its_file_and_knows_what_is_in_it(tmp_path: Path) -> None:
    kept = collection(tmp_path)
    take(kept, group(SUM, thought(CHAIN)))
    state = json.loads(json.dumps(kept.state_dict()))
    whole = (tmp_path / "data.jsonl").read_bytes()
    take(kept, group(LETTER, thought("ak", "k")))
    again = Collection(tmp_path / "data.jsonl", config(), "here")
    again.load_state_dict(state)
    again.open()
    assert (tmp_path / "data.jsonl").read_bytes() == whole
    take(again, group(SUM, thought(CHAIN), thought("five and four are nine")))
    assert counts(again) == {"sampled": 3, "kept": 1, "duplicate": 1, "enough": 1}
    (tmp_path / "data.jsonl").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="shorter than the checkpoint says"):
        Collection(tmp_path / "data.jsonl", config(), "here").load_state_dict(state)


def test_of_judged_tasks_the_rule_says_nothing(tmp_path: Path) -> None:
    kept = collection(tmp_path)
    found = kept.sift(group(SUM, thought("a", "nine"), "no tags"), judged=["su"])
    assert [r.text for r in found] == [thought("a", "nine")]
    assert counts(kept) == {"sampled": 2, "wrong": 1}


@pytest.mark.parametrize(
    ("share", "num_samples", "own", "due"),
    [(0.25, 0, 0, [0, 0, 0, 1, 33]), (0.25, 800, 600, [0, 0, 0, 1, 33]), (0.5, 11, 6, [0, 1, 2, 3, 5])],
)
def test_the_proportion_of_general_samples(share: float, num_samples: int, own: int, due: list[int]) -> None:
    wanted = rejection(num_samples=num_samples, general={"tasks": [{"spec": "toy:harm"}], "share": share})
    assert own_limit(wanted) == own
    assert [general_due(wanted, n) for n in (0, 1, 2, 3, 100)] == due
    assert general_due(rejection(), 100) == 0
    if num_samples == 800:
        assert general_due(wanted, 600) == 200, "as published, in thousands"


def test_files_of_general_samples_come_first_and_tasks_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"question": "who?", "completion": "me"}\n{"question": "what?", "completion": "it", "source": "mine"}\n'
    )
    table = GeneralConfig(files=[str(tmp_path / "a.jsonl")], tasks=[{"spec": "toy:harm"}], chain="hm")  # type: ignore[list-item]
    source = GeneralSamples(table, 3, 0.1, has_tags=True)
    first = [source.next() for _ in range(4)]
    assert [(s.question, s.source) for s in first[:2] if s] == [("who?", "a.jsonl"), ("what?", "mine")]
    assert all(s is not None and s.domain == "general" for s in first)
    assert first[2] is not None
    assert first[2].completion == f"<think>hm</think><answer>{first[2].answer}</answer>"
    state = source.state_dict()
    rest = [source.next() for _ in range(3)]
    again = GeneralSamples(table, 3, 0.1, has_tags=True)
    again.load_state_dict(state)
    assert [again.next() for _ in range(3)] == rest
    early = GeneralSamples(table, 3, 0.1, has_tags=True)
    early.load_state_dict({"num_read": 1, "stream": {"cursor": 0, "curricula": []}})
    assert [early.next() for _ in range(3)] == first[1:]
    alone = GeneralSamples(table.model_copy(update={"tasks": []}), 3, 0.1, has_tags=True)
    assert [alone.next() is None for _ in range(3)] == [False, False, True]
    plain = GeneralSamples(table.model_copy(update={"files": []}), 3, 0.1, has_tags=False).next()
    assert plain is not None
    assert plain.completion == f"hm\n\n{plain.answer}"


def test_held_out_questions_are_never_trained_on(tmp_path: Path) -> None:
    lines = [{"question": f"q{n % 20}", "completion": f"c{n}"} for n in range(60)]
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    tokenizer = Tokenizer.characters("qc0123456789\n")
    tokenise_samples({tmp_path / "s.jsonl": "x"}, Renderer(tokenizer), tmp_path / "rows", 32)
    samples = SampleRows(tmp_path / "rows", 5, held_out_share=0.3)
    texts = [tokenizer.decode(row.tokens) for row in samples.take(len(samples))]
    held_out = [tokenizer.decode(row.tokens) for row in samples.held_out(60)]
    assert len(set(texts)) == len(samples) == 60 - samples.num_held_out
    assert sorted(texts + held_out) == sorted(f"{line['question']}\n{line['completion']}" for line in lines)
    assert not {t.split("\n")[0] for t in texts} & {t.split("\n")[0] for t in held_out}
    assert {t.split("\n")[0] for t in held_out} == {f"q{n}" for n in range(20) if place_of(f"q{n}") < 0.3}
    assert place_of("a  b") == place_of("a b")
    with pytest.raises(DataError, match="all 60 samples are held out"):
        SampleRows(tmp_path / "rows", 5, held_out_share=0.999)
