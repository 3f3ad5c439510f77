"""Character tokenizer and tokenizer folders."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from farthing.errors import DataError, ModelError
from farthing.tokenizer import END_OF_TEXT, TAGS, Tokenizer

ALPHABET = "abcxyz0123456789+-*/=()., \n\té€"


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return Tokenizer.characters(ALPHABET)


@given(pieces=st.lists(st.one_of(st.text(ALPHABET, max_size=9), st.sampled_from(TAGS)), max_size=8))
def test_characters_round_trip(characters: Tokenizer, pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = characters.encode(text)
    assert characters.decode(ids) == text
    assert characters.encode_all([text, "a"]) == [ids, characters.encode("a")]


def test_one_token_a_character_one_a_tag(characters: Tokenizer) -> None:
    tokens = [characters.token(i) for i in characters.encode("<think>1\n\n2</think>")]
    assert tokens == ["<think>", "1", "\n", "\n", "2", "</think>"]
    assert characters.vocab_size == 1 + len(TAGS) + len(ALPHABET)
    assert characters.encode(f"1{END_OF_TEXT}") == [*characters.encode("1"), characters.eos_id]
    assert characters.decode([*characters.encode("12"), characters.eos_id]) == "12"


def test_load_and_auto_tokenizer_give_the_same_ids(characters: Tokenizer, tmp_path: Path) -> None:
    characters.chat_template = "{{ messages[0]['content'] }}"
    characters.save(tmp_path)
    loaded, auto = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("1 + 2 = 3", "a\n\n b\t", "  ", "x<answer>é</answer>", f"y{END_OF_TEXT}z"):
        assert loaded.encode(text) == auto(text)["input_ids"] == characters.encode(text)
        assert loaded.decode(loaded.encode(text)) == str(auto.decode(auto(text)["input_ids"])).replace(END_OF_TEXT, "")
    assert (loaded.eos_id, loaded.bos_id, loaded.chat_template) == (0, None, characters.chat_template)
    assert (auto.eos_token_id, len(auto), auto.chat_template) == (0, loaded.vocab_size, characters.chat_template)


def test_padding_and_truncation_kept_in_the_file_are_not_applied(characters: Tokenizer, tmp_path: Path) -> None:
    characters.save(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    stored["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    stored["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": END_OF_TEXT,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    assert Tokenizer.load(tmp_path).encode_all(["1+1", "2"]) == characters.encode_all(["1+1", "2"])


def test_the_end_of_text_may_stand_in_config_json(characters: Tokenizer, tmp_path: Path) -> None:
    characters.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<think>"}}')
    with pytest.raises(ModelError, match="names no end-of-text token"):
        Tokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": [0, 3]}')
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eos_id, loaded.bos_id) == (0, 1)


def test_of_several_chat_templates_the_default_counts(characters: Tokenizer, tmp_path: Path) -> None:
    characters.save(tmp_path)
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    config = {"eos_token": END_OF_TEXT, "chat_template": templates}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(tmp_path).chat_template == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert Tokenizer.load(tmp_path).chat_template == "J"


def test_a_folder_without_or_with_a_broken_tokenizer_is_named(characters: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)
    characters.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ModelError, match="must hold a JSON object"):
        Tokenizer.load(tmp_path)


def test_a_character_without_a_token_is_named() -> None:
    tokenizer = Tokenizer.characters("ab")
    with pytest.raises(DataError, match="no token for 'x'"):
        tokenizer.encode("abx")
