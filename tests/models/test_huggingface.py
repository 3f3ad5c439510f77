"""Model folders: what we save transformers loads, what it saves we load, and every damaged folder is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from farthing.errors import DiskFull, ModelError
from farthing.files import atomic_folder
from farthing.models.decoder import Decoder
from farthing.models.huggingface import (
    empty_decoder,
    load_model,
    save_model,
    weights_sha256,
    write_safetensors,
)
from farthing.models.shape import ModelShape
from farthing.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.characters("0123456789+-*/=() \nabc")


@pytest.fixture
def saved(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(model, tokenizer, tmp_path / "saved", {"step": "7"})
    return tmp_path / "saved"


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    for name, tensor in change.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / WEIGHTS)


def test_transformers_loads_what_we_save_of_what_it_saved(
    theirs: Any, their_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_model(load_model(their_folder), tokenizer, tmp_path / "ours")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    again, report = loaded
    assert not any(report.values()), report
    assert type(again) is type(theirs)
    expected = theirs.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    tokens = torch.arange(90)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, theirs(tokens).logits, atol=1e-5, rtol=0)


def test_auto_tokenizer_gives_our_ids(saved: Path, tokenizer: Tokenizer) -> None:
    auto = AutoTokenizer.from_pretrained(saved)
    for text in ("12+30=42", "a\n\nb", "<think>1 + 1</think>\n<answer>2</answer><|endoftext|>", ""):
        assert auto(text)["input_ids"] == tokenizer.encode(text)
    assert auto.eos_token_id == auto.pad_token_id == tokenizer.eos_id


def test_saved_and_loaded_weights_are_bit_identical(saved: Path, model: Decoder) -> None:
    loaded = load_model(saved)
    assert loaded.shape == model.shape
    assert weights_sha256(loaded) == weights_sha256(model)
    with safe_open(saved / WEIGHTS, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "step": "7"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_round_trip(model: Decoder, tokenizer: Tokenizer, tmp_path: Path, dtype: torch.dtype) -> None:
    half = model.to(dtype)
    save_model(half, tokenizer, tmp_path / "half")
    assert weights_sha256(load_model(tmp_path / "half", dtype)) == weights_sha256(half)
    assert load_model(tmp_path / "half").embed.weight.dtype == torch.float32
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == dtype


def test_digest_sees_one_flipped_bit_and_the_type(model: Decoder) -> None:
    before = weights_sha256(model)
    with torch.no_grad():
        model.layers[1].get_parameter("ffn.down.weight").view(torch.int32)[3, 5] ^= 1
    after = weights_sha256(model)
    assert after != before
    assert weights_sha256(model.to(torch.bfloat16)) != after


def test_shards_load_like_one_file(theirs: Any, their_folder: Path, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert weights_sha256(load_model(tmp_path / "shards")) == weights_sha256(load_model(their_folder))


def test_empty_decoder_computes_like_a_built_one(model: Decoder, shape: ModelShape) -> None:
    empty = empty_decoder(shape, torch.float32)
    empty.load_state_dict(model.state_dict())
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(empty(tokens), model(tokens))


def test_a_tied_head_stored_twice_is_fine(saved: Path, model: Decoder) -> None:
    rewrite(saved, {"lm_head.weight": load_file(saved / WEIGHTS)["model.embed_tokens.weight"].clone()})
    assert weights_sha256(load_model(saved)) == weights_sha256(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, r"model\.safetensors lacks the tensor model\.norm\.weight"),
        ({"model.layers.1.self_attn.k_proj.weight": None}, r"lacks the tensor model\.layers\.1\.self_attn\.k_proj"),
        ({"model.layers.9.mlp.up_proj.weight": torch.ones(2, 2)}, r"holds model\.layers\.9\.mlp\.up_proj\.weight"),
        ({"model.norm.weight": torch.ones(25)}, r"model\.norm\.weight in .*model\.safetensors is \[25\].* \[24\]"),
        ({"model.norm.weight": torch.ones(24).int()}, r"model\.norm\.weight in .* is torch\.int32; allowed are"),
    ],
)
def test_wrong_tensors_are_named(saved: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(ModelError, match=message):
        load_model(saved)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_named(saved: Path, keep: float) -> None:
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        load_model(saved)


def test_absent_files_are_named(saved: Path, tmp_path: Path) -> None:
    (saved / WEIGHTS).rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model\.safetensors.*pickle"):
        load_model(saved)
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)
    (saved / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_model(saved)


def test_an_index_cannot_point_outside_its_folder(saved: Path, tmp_path: Path) -> None:
    (saved / WEIGHTS).rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="must lie in the folder itself"):
        load_model(saved)


def test_saving_replaces_the_folder_whole_and_leaves_nothing_beside_it(
    saved: Path, model: Decoder, tokenizer: Tokenizer
) -> None:
    (saved / "old.txt").write_text("from before")
    with torch.no_grad():
        model.norm.weight.add_(1.0)
    save_model(model, tokenizer, saved)
    assert weights_sha256(load_model(saved)) == weights_sha256(model)
    assert not (saved / "old.txt").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_an_error_while_saving_keeps_the_old_folder(saved: Path, model: Decoder) -> None:
    unequal = [("a", torch.float32, (2,)), ("b", torch.float32, (2,))]
    with pytest.raises(ValueError, match="shorter"), atomic_folder(saved) as partial:
        write_safetensors(partial / WEIGHTS, unequal, [torch.zeros(2)])
    assert weights_sha256(load_model(saved)) == weights_sha256(model)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_full_disk_is_named_and_keeps_the_old_folder(saved: Path, model: Decoder) -> None:
    with pytest.raises(DiskFull, match=r"no space left for .*saved"), atomic_folder(saved):
        Path("/dev/full").write_bytes(b"x")
    assert weights_sha256(load_model(saved)) == weights_sha256(model)


def test_a_partial_folder_of_a_killed_attempt_does_not_stand_in_the_way(saved: Path, model: Decoder) -> None:
    (saved.parent / ".saved.partial").mkdir()
    (saved.parent / ".saved.partial" / "junk").write_text("half")
    with atomic_folder(saved) as partial:
        assert not list(partial.iterdir())


def test_the_writer_refuses_tensors_other_than_announced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was announced as"):
        write_safetensors(tmp_path / WEIGHTS, [("a", torch.float32, (2, 3))], [torch.zeros(3, 2)])
