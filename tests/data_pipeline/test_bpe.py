"""The byte-level BPE: any text comes back, digits stand alone, special tokens hold, transformers agrees."""

import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from farthing.errors import DataError
from farthing.tokenizer import END_OF_TEXT, FIM, MIN_VOCAB, ROLES, TAGS, Tokenizer

CORPUS = Path(__file__).parent / "human_text.jsonl.xz"


def corpus() -> list[str]:
    with lzma.open(CORPUS, "rt") as file:
        return [json.loads(line)["text"] for line in file][:800]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.train_bpe(corpus(), 1000)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(bpe: Tokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == text.replace(END_OF_TEXT, "")


@given(st.binary())
@settings(max_examples=100, deadline=None)
def test_hostile_bytes_come_back_as_they_were_decoded(bpe: Tokenizer, data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    assert bpe.decode(bpe.encode(text)) == text


@given(st.lists(st.integers(0, 999), max_size=20))
@settings(deadline=None)
def test_any_ids_decode_to_text(bpe: Tokenizer, ids: list[int]) -> None:
    bpe.decode(ids).encode()


def test_digits_one_by_one_and_words_whole(bpe: Tokenizer) -> None:
    assert [bpe.token(i) for i in bpe.encode("12345")] == list("12345")
    assert len(bpe.encode(" the")) == 1
    assert not any(sum(c.isdigit() for c in token) and len(token) > 1 for token in bpe.backend.get_vocab())
    assert bpe.vocab_size == 1000
    sample = "\n".join(corpus())
    assert len(sample.encode()) / len(bpe.encode(sample)) > 2


def test_special_tokens_are_single_and_powerless_inside_documents(bpe: Tokenizer) -> None:
    for special in (*TAGS, *ROLES, *FIM, END_OF_TEXT):
        assert len(bpe.encode(special)) == 1
    [hostile] = bpe.encode_documents([f"a{END_OF_TEXT}b<|user|>c<|fim_hole|>"])
    assert not {bpe.eos_id, *(bpe.backend.token_to_id(token) for token in (*ROLES, *FIM))} & {*hostile}
    assert bpe.decode(hostile) == f"a{END_OF_TEXT}b<|user|>c<|fim_hole|>"
    assert bpe.encode_documents(["a <think>1</think>"]) == [bpe.encode("a <think>1</think>")]


def test_auto_tokenizer_loads_it_and_agrees(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    auto, loaded = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in (*corpus()[:20], "日本語 123 e\u0301 \x00 <think>x</think>", f"{ROLES[1]}hi{END_OF_TEXT}"):
        assert auto(text)["input_ids"] == loaded.encode(text) == bpe.encode(text)
        assert auto.decode(bpe.encode(text)) == text
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    rendered = auto.apply_chat_template(chat, tokenize=False)
    assert rendered == f"<|user|>hi<|assistant|>yo{END_OF_TEXT}"


def test_training_is_the_same_in_another_process(bpe: Tokenizer) -> None:
    code = (
        "import hashlib\nfrom tests.data_pipeline.test_bpe import corpus\nfrom farthing.tokenizer import Tokenizer\n"
        "print(hashlib.sha256(Tokenizer.train_bpe(corpus(), 1000).backend.to_str().encode()).hexdigest())"
    )
    import hashlib

    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert out.stdout.strip() == hashlib.sha256(bpe.backend.to_str().encode()).hexdigest()


def test_what_cannot_be_trained_or_encoded_is_said(bpe: Tokenizer) -> None:
    with pytest.raises(DataError, match="no text to learn a tokenizer from"):
        Tokenizer.train_bpe([], 1000)
    with pytest.raises(DataError, match=f"alone are {MIN_VOCAB}"):
        Tokenizer.train_bpe(["a"], MIN_VOCAB - 1)
    with pytest.raises(DataError, match="surrogate"):
        bpe.encode("\ud800")
