"""Samples as rows: every one once an epoch in a seeded order, an exact cursor, and nothing cut or lost in silence."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models

from farthing.attempt import file_sha256
from farthing.data.sample_rows import SampleRows, TooLong, tokenise_samples
from farthing.errors import DataError
from farthing.renderer import Renderer
from farthing.tasks.problem import Problem
from farthing.tokenizer import END_OF_TEXT, Tokenizer

CHARACTERS = Tokenizer.characters("0123456789+=? \nabc")
Lines = list[dict[str, str]]
Write = Callable[[Lines], Path]


def lines(count: int) -> Lines:
    return [{"question": f"{i}+0?", "completion": f"<think>{i}</think><answer>{i}</answer>"} for i in range(count)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(rows: Lines) -> Path:
        path = tmp_path / "samples.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def rows_from(path: Path, renderer: Renderer, max_positions: int = 64, too_long: TooLong = "error") -> SampleRows:
    folder = path.parent / "rows"
    tokenise_samples({path: file_sha256(path)}, renderer, folder, max_positions, too_long)
    return SampleRows(folder, seed=0)


def test_a_row_is_the_prompt_as_asked_the_completion_and_the_end(write: Write) -> None:
    samples = rows_from(write([{"question": "1+2?", "completion": "<answer>3</answer>"}]), Renderer(CHARACTERS))
    [row] = samples.take(1)
    assert row.tokens == [*CHARACTERS.encode("1+2?\n<answer>3</answer>"), CHARACTERS.eos_id]
    assert row.num_prompt == len("1+2?\n")


def test_every_sample_is_there_once_an_epoch_in_an_order_of_its_own(write: Write) -> None:
    path = write(lines(50))
    samples = rows_from(path, Renderer(CHARACTERS))
    epochs = [[tuple(row.tokens) for row in samples.take(50)] for _ in range(3)]
    assert all(Counter(epoch) == Counter(epochs[0]) and len(set(epoch)) == 50 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert samples.epochs == 3
    other = SampleRows(path.parent / "rows", seed=1)
    assert [tuple(row.tokens) for row in other.take(50)] != epochs[0]


def test_a_resumed_cursor_sees_what_it_would_have_seen(write: Write) -> None:
    path = write(lines(7))
    whole = rows_from(path, Renderer(CHARACTERS))
    whole.take(5)
    state, seen = whole.state_dict(), whole.take(11)  # on into the third epoch
    again = rows_from(path, Renderer(CHARACTERS))
    again.load_state_dict(state)
    assert again.take(11) == seen


def test_samples_of_a_question_are_held_out_together_and_never_trained_on(write: Write) -> None:
    path = write(lines(200) * 2)
    rows_from(path, Renderer(CHARACTERS))
    samples = SampleRows(path.parent / "rows", seed=0, held_out_share=0.25)
    held_out = {tuple(row.tokens) for row in samples.held_out(1000)}
    trained = {tuple(row.tokens) for row in samples.take(len(samples))}
    assert (len(samples) + samples.num_held_out, len(held_out) + len(trained)) == (400, 200)
    assert not held_out & trained
    assert 30 < len(held_out) < 70


@pytest.mark.parametrize(("epochs", "batch", "steps"), [(2.0, 4, 4), (3.0, 8, 3), (0.5, 64, 1), (1.0, 7, 1)])
def test_steps_of_epochs_by_hand(write: Write, epochs: float, batch: int, steps: int) -> None:
    """Of 7 samples."""
    assert rows_from(write(lines(7)), Renderer(CHARACTERS)).num_steps(epochs, batch) == steps


def test_samples_that_do_not_fit_are_an_error_or_counted(write: Write) -> None:
    """`1+0?`, a newline, <think>1</think><answer>1</answer> and the end: 12 tokens, and 15 from the eleventh sample on."""
    path = write(lines(11))
    with pytest.raises(DataError, match="1 of 11 samples have more tokens than the 13 positions"):
        rows_from(path, Renderer(CHARACTERS), 13)
    kept = rows_from(path, Renderer(CHARACTERS), 13, "drop")
    assert (len(kept), kept.num_dropped) == (10, 1)
    with pytest.raises(DataError, match="all 11 samples are longer than 8 tokens"):
        rows_from(path, Renderer(CHARACTERS), 8, "drop")


def test_a_prefill_is_part_of_the_prompt_and_not_said_twice(write: Write) -> None:
    renderer = Renderer(CHARACTERS, prefill="<think>")
    [row] = rows_from(write(lines(1)), renderer).take(1)
    assert CHARACTERS.decode(row.tokens) == "0+0?\n<think>0</think><answer>0</answer>"
    assert CHARACTERS.decode(row.tokens[: row.num_prompt]) == "0+0?\n<think>"
    with pytest.raises(DataError, match=r"does not begin with prompt\.prefill = '<think>'"):
        rows_from(write([{"question": "1+1?", "completion": "<answer>2</answer>"}]), renderer)


def test_other_files_another_tokenizer_or_another_prompt_are_tokenised_anew(write: Write) -> None:
    first = rows_from(write(lines(3)), Renderer(CHARACTERS)).take(3)
    assert rows_from(write(lines(3)), Renderer(Tokenizer.characters("!0123456789+=? \nabc"))).take(3) != first
    assert rows_from(write(lines(3)), Renderer(CHARACTERS, instruction="a")).take(3) != first
    assert len(rows_from(write(lines(4)), Renderer(CHARACTERS))) == 4


def test_characters_that_a_student_cannot_write_are_named_and_no_others(write: Write) -> None:
    with pytest.raises(DataError, match=r"no token for 'éö'.*Add them to the model's `alphabet`"):
        rows_from(write([{"question": "1?", "completion": "<think>é</think><answer>ö</answer>"}]), Renderer(CHARACTERS))


VOCAB = {END_OF_TEXT: 0, "<unk>": 1} | {char: i for i, char in enumerate("0123456789? \n<>/thinkaswer", start=2)}
WITHOUT_TAGS: dict[str, tuple[Any, str, str]] = {
    "tags in pieces": (models.BPE(VOCAB, [], unk_token="<unk>"), "<answer>7</answer>", ""),
    "an unknown token": (models.BPE(VOCAB, [], unk_token="<unk>"), "7ö", "ö"),
    "nothing in its place": (models.BPE(VOCAB, []), "7ö", "ö"),
    "characters alone": (models.WordLevel({c: i for c, i in VOCAB.items() if c not in "</>"}), "<answer>7", "<>"),
}


@pytest.mark.parametrize("name", WITHOUT_TAGS)
def test_a_tokenizer_without_tags_will_do_and_one_that_loses_text_is_refused(name: str, write: Write) -> None:
    model, completion, lost = WITHOUT_TAGS[name]
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    tokenizer, path = Tokenizer(backend, eos_id=0), write([{"question": "1?", "completion": completion}])
    if lost:
        with pytest.raises(DataError, match=f"{lost!r}"):
            rows_from(path, Renderer(tokenizer))
        return
    [row] = rows_from(path, Renderer(tokenizer)).take(1)
    assert tokenizer.decode(row.tokens) == f"1?\n{completion}"


def test_a_completion_that_spells_a_special_token_is_only_text(write: Write) -> None:
    bpe = Tokenizer.train_bpe(["some text <think> to learn from"], 300)
    text = f"a{END_OF_TEXT}b"
    [row] = rows_from(write([{"question": "1?", "completion": text}]), Renderer(bpe), 128).take(1)
    assert row.tokens.count(bpe.eos_id) == 1
    assert row.tokens[-1] == bpe.eos_id
    assert bpe.decode(row.tokens[row.num_prompt :]) == text


def test_what_differs_between_two_tokenizers_is_said() -> None:
    abc = Tokenizer.characters("abc")
    assert abc.difference(Tokenizer.characters("cba")) == ""
    assert abc.difference(Tokenizer.characters("ab")) == "8 tokens against 7"
    assert abc.difference(Tokenizer.characters("abd")) == "token 7 is 'c' in one and 'd' in the other, and 1 differ in all"
    assert "the end of text is" in abc.difference(Tokenizer(abc.backend, eos_id=1))


def test_questions_that_models_are_evaluated_on_are_left_out_and_counted(write: Write) -> None:
    path, folder = write(lines(10)), write(lines(10)).parent / "rows"
    asked = {Problem(f"{i}+0?", "", "t").content_hash for i in (3, 7, 99)}
    tokenise_samples({path: file_sha256(path)}, Renderer(CHARACTERS), folder, 64, held_out=asked)
    samples = SampleRows(folder, seed=0)
    assert (len(samples), samples.num_leaked, samples.num_dropped) == (8, 2, 0)
    assert not any(CHARACTERS.decode(row.tokens).startswith(("3+0", "7+0")) for row in samples.take(8))
    # other problems to evaluate on: made anew
    tokenise_samples({path: file_sha256(path)}, Renderer(CHARACTERS), folder, 64)
    assert SampleRows(folder, seed=0).num_leaked == 0
    everything = {Problem(f"{i}+0?", "", "t").content_hash for i in range(10)}
    with pytest.raises(DataError, match="all 10 samples are of questions that models of this recipe are evaluated on"):
        tokenise_samples({path: file_sha256(path)}, Renderer(CHARACTERS), folder, 64, held_out=everything)
