"""Windows of a tokenised corpus: every token is a target once, order by seed, exact cursor, held-out documents apart."""

import json
from pathlib import Path

import pytest

from farthing.data.batches import Row
from farthing.data.documents import DocumentStream, tokenise
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
    num_windows = int(stream._last_window[-1])
    rows = stream.take(num_windows)
    assert max(len(r.tokens) for r in rows) <= 16
    assert min(len(r.tokens) for r in rows) >= 2
    held = _texts(held_rows)
    wanted = [window for text in TEXTS if text not in held for window in _windows(text)]
    assert sorted(r.tokens for r in rows) == sorted(wanted)
    assert {r.num_prompt for r in rows} == {1}
    targets = sum(r.num_loss_tokens for r in (*rows, *held_rows))
    assert targets == sum(len(t) + 1 for t in TEXTS)  # each character, and the end of text
    assert num_bytes == sum(len(t) for t in held)
    assert 0 < len(held) < 30


def _windows(text: str) -> list[list[int]]:
    """By hand: 16 tokens, the first being the last of the window before."""
    tokens = [TOKENIZER.eos_id, *TOKENIZER.encode(text), TOKENIZER.eos_id]
    return [tokens[at : at + 16] for at in range(0, len(tokens) - 1, 15)]


def _texts(rows: list[Row]) -> list[str]:
    """Documents from windows in order; a window that does not begin with the end of text goes on with the last."""
    out: list[str] = []
    for row in rows:
        if row.tokens[0] == TOKENIZER.eos_id:
            out.append("")
        out[-1] += TOKENIZER.decode(row.tokens[1:])
    return out


def test_the_cursor_is_the_whole_state(folder: Path) -> None:
    stream = DocumentStream(folder, 16, seed=3, test_share=0.2)
    first = stream.take(50)
    state = stream.state_dict()
    later = stream.take(200)  # over the end of an epoch
    again = DocumentStream(folder, 16, seed=3, test_share=0.2)
    again.load_state_dict(state)
    assert again.take(200) == later
    other = DocumentStream(folder, 16, seed=4, test_share=0.2)
    assert other.take(50) != first
    num_windows = int(stream._last_window[-1])
    twice = DocumentStream(folder, 16, seed=3, test_share=0.2)
    one, two = twice.take(num_windows), twice.take(num_windows)
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
