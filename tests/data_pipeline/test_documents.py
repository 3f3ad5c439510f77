"""Pieces of a tokenised corpus: every token is a target once, order by seed, exact state, held-out documents apart."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from farthing.data.batches import Row
from farthing.data.documents import MOST_WAITING, DocumentStream, tokenise
from farthing.errors import DataError
from farthing.tokenizer import Tokenizer

TEXTS = [f"document {n} " + "abc " * (n % 9) for n in range(60)]
TOKENIZER = Tokenizer.characters("abcdefghijklmnopqrstuvwxyz 0123456789\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    tokenise([path], TOKENIZER, tmp_path / "cache", {"corpus": "1"})
    return tmp_path / "cache"


def test_an_epoch_holds_every_token_of_every_training_document_once(folder: Path) -> None:
    stream = DocumentStream(folder, 16, seed=0, test_share=0.2)
    held_rows, num_bytes = stream.held_out(1000)
    rows = epoch(stream)
    assert max(len(r.tokens) for r in rows) <= 16
    assert min(len(r.tokens) for r in rows) >= 2
    held = _texts(held_rows)
    wanted = [piece for text in TEXTS if text not in held for piece in _pieces(text)]
    assert sorted(r.tokens for r in rows) == sorted(wanted)
    assert {r.num_prompt for r in rows} == {1}
    targets = sum(r.num_loss_tokens for r in (*rows, *held_rows))
    assert targets == sum(len(t) + 1 for t in TEXTS)  # each character, and the end of text
    assert num_bytes == sum(len(t) for t in held)
    assert 0 < len(held) < 30


def epoch(stream: DocumentStream, number: int = 0) -> list[Row]:
    """The pieces of an epoch in their order."""
    count = int(stream._last_piece[-1])
    return [stream._row(n) for n in range(number * count, (number + 1) * count)]


def _pieces(text: str) -> list[list[int]]:
    """By hand: 16 tokens, the first being the last of the window before."""
    tokens = [TOKENIZER.eos_id, *TOKENIZER.encode(text), TOKENIZER.eos_id]
    return [tokens[at : at + 16] for at in range(0, len(tokens) - 1, 15)]


def _texts(rows: list[Row]) -> list[str]:
    """Documents from pieces in order; a piece that does not begin with the end of text goes on with the last."""
    out: list[str] = []
    for row in rows:
        if row.tokens[0] == TOKENIZER.eos_id:
            out.append("")
        out[-1] += TOKENIZER.decode(row.tokens[1:])
    return out


@pytest.mark.parametrize("window", [16, 40])
def test_windows_hold_whole_pieces_and_each_of_them_once(folder: Path, window: int) -> None:
    """Over three epochs: what was handed out and what waits are the first pieces of the order, none twice, none left out."""
    stream = DocumentStream(folder, window, seed=0, test_share=0.2)
    count = int(stream._last_piece[-1])
    taken: list[Row] = []
    while stream.cursor < 3 * count:
        rows = stream.take(1)
        assert rows
        assert sum(len(row.tokens) for row in rows) <= window
        taken += rows
    assert stream.cursor == len(taken)
    assert len(stream._waiting) <= MOST_WAITING
    began = [row for number in range(8) for row in epoch(stream, number)][: stream.cursor + len(stream._waiting)]
    assert sorted(r.tokens for r in (*taken, *stream._waiting.values())) == sorted(r.tokens for r in began)


def test_a_window_of_documents_worked_by_hand(tmp_path: Path) -> None:
    """In windows of 12: 7 and 5 tokens fill one, 9 leaves no room for 7, which waits for the next."""
    texts = ["abcde", "abc", "abcdefg", "bcdef", "z"]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenise([tmp_path / "c.jsonl"], TOKENIZER, tmp_path / "cache", {})
    np.save(tmp_path / "cache" / "places.npy", np.array([0.5, 0.5, 0.5, 0.5, 0.0]))
    stream = DocumentStream(tmp_path / "cache", 12, seed=0, test_share=0.1)
    stream._epoch, stream._order = 0, np.arange(4)
    assert [texts_of(stream.take(1)) for _ in range(2)] == [["abcde", "abc"], ["abcdefg"]]
    assert texts_of(list(stream._waiting.values()))[0] == "bcdef"
    assert stream.cursor == 3


def texts_of(rows: list[Row]) -> list[str]:
    return [TOKENIZER.decode(row.tokens) for row in rows]


def test_windows_are_full(tmp_path: Path) -> None:
    """Documents of 18 to 158 tokens, short ones more often, in windows of 128; one after another they would leave a quarter."""
    rng = random.Random(0)
    with (tmp_path / "c.jsonl").open("w") as file:
        for _ in range(400):
            file.write(json.dumps({"text": "a" * int(10 * 15 ** rng.random()) + str(rng.randrange(10**6))}) + "\n")
    tokenise([tmp_path / "c.jsonl"], TOKENIZER, tmp_path / "cache", {})
    stream = DocumentStream(tmp_path / "cache", 128, seed=0, test_share=0.1)
    rows = stream.take(300)
    assert sum(len(r.tokens) for r in rows) / (300 * 128) > 0.95


def test_cursor_and_what_waits_are_the_whole_state(folder: Path) -> None:
    stream = DocumentStream(folder, 40, seed=3, test_share=0.2)
    first = stream.take(20)
    state = json.loads(json.dumps(stream.state_dict()))
    assert state["waiting"]
    later = stream.take(100)  # over the end of an epoch
    again = DocumentStream(folder, 40, seed=3, test_share=0.2)
    again.load_state_dict(state)
    assert again.take(100) == later
    other = DocumentStream(folder, 40, seed=4, test_share=0.2)
    assert other.take(20) != first
    one, two = epoch(stream, 0), epoch(stream, 1)
    assert one != two
    assert sorted(r.tokens for r in one) == sorted(r.tokens for r in two)


def test_tokens_are_kept_until_inputs_or_tokenizer_change(folder: Path, tmp_path: Path) -> None:
    stamp = (folder / "tokens").stat().st_mtime_ns
    path = tmp_path / "corpus.jsonl"
    tokenise([path], TOKENIZER, folder, {"corpus": "1"})
    assert (folder / "tokens").stat().st_mtime_ns == stamp
    tokenise([path], TOKENIZER, folder, {"corpus": "2"})
    assert (folder / "tokens").stat().st_mtime_ns != stamp
    assert not list(tmp_path.glob("*.partial"))


def test_too_little_to_hold_out_and_empty_corpora_are_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="both are needed"):
        DocumentStream(folder, 16, seed=0, test_share=1e-9)
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError, match="the corpus has no documents"):
        tokenise([tmp_path / "none.jsonl"], TOKENIZER, tmp_path / "none", {})
