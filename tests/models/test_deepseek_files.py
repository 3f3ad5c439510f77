"""Folders of DeepSeek models: FP8 blocks, multi-token prediction kept, biases in fp32, and every damaged one named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from farthing.errors import ModelError
from farthing.models.decoder import Decoder
from farthing.models.fp8 import dequantise
from farthing.models.huggingface import load_model, save_model, weights_sha256
from farthing.tokenizer import Tokenizer
from tests.models.deepseek_shapes import tiny_model

WEIGHTS = "model.safetensors"
BLOCK = (16, 8)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.characters("0123456789+-*/=() \nabc")


@pytest.fixture
def model() -> Decoder:
    return tiny_model()


@pytest.fixture
def saved(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(model, tokenizer, tmp_path / "saved")
    return tmp_path / "saved"


def change_config(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E4M3 in blocks, every block scaled so that its largest value is 448."""
    rows, columns = (-(-size // step) for size, step in zip(weight.shape, BLOCK, strict=True))
    scale, quantised = torch.zeros(rows, columns), torch.zeros_like(weight)
    for i in range(rows):
        for j in range(columns):
            part = (slice(i * BLOCK[0], (i + 1) * BLOCK[0]), slice(j * BLOCK[1], (j + 1) * BLOCK[1]))
            scale[i, j] = weight[part].abs().max() / 448
            quantised[part] = weight[part] / scale[i, j]
    return quantised.to(torch.float8_e4m3fn), scale


def to_fp8(folder: Path) -> None:
    """What DeepSeek publishes: projections in FP8 blocks; norms, gates, embedding and head as they are."""
    tensors = load_file(folder / WEIGHTS)
    for name in [n for n in tensors if "_proj" in n]:
        tensors[name], tensors[name + "_scale_inv"] = quantise(tensors[name])
    save_file(tensors, folder / WEIGHTS)
    change_config(folder, quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(BLOCK)})


def test_saved_and_loaded_weights_are_bit_identical(saved: Path, model: Decoder) -> None:
    loaded = load_model(saved)
    assert loaded.shape == model.shape
    assert weights_sha256(loaded) == weights_sha256(model)


def test_multi_token_prediction_is_in_the_file_as_deepseek_writes_it(saved: Path, model: Decoder) -> None:
    tensors = load_file(saved / WEIGHTS)
    own = {name.removeprefix("model.layers.3.") for name in tensors if name.startswith("model.layers.3.")}
    top = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}
    assert {*top, "embed_tokens.weight", "shared_head.head.weight", "mlp.gate.e_score_correction_bias"} <= own
    assert torch.equal(tensors["model.layers.3.shared_head.head.weight"], tensors["lm_head.weight"])
    assert torch.equal(tensors["model.layers.3.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    mtp = sum(
        tensors[f"model.layers.3.{name}"].numel() for name in own if "embed_tokens" not in name and "head.head" not in name
    )
    assert mtp - 8 == model.shape.mtp_params() == sum(p.numel() for p in model.mtp.parameters())


def test_transformers_reads_the_main_model_past_the_prediction_module(saved: Path, model: Decoder) -> None:
    theirs: Any = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager")
    tokens = torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(model.logits(model(tokens)), expected, atol=1e-4, rtol=0)
    assert expected.abs().max() > 1


def test_a_file_without_the_announced_prediction_module_gives_a_model_without(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    save_file({n: t for n, t in tensors.items() if not n.startswith("model.layers.3.")}, saved / WEIGHTS)
    assert load_model(saved).shape.mtp_depth == 0
    save_file({n: t for n, t in tensors.items() if n != "model.layers.3.eh_proj.weight"}, saved / WEIGHTS)
    with pytest.raises(ModelError, match=r"lacks the tensor model\.layers\.3\.eh_proj\.weight"):
        load_model(saved)


def test_a_model_in_bf16_keeps_its_balancing_biases_in_fp32(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    before = model.layers[1].get_buffer("ffn.router.bias").clone()
    half = model.to(torch.bfloat16)
    save_model(half, tokenizer, tmp_path / "half")
    for loaded in (half, load_model(tmp_path / "half", torch.bfloat16)):
        bias = loaded.layers[1].get_buffer("ffn.router.bias")
        assert bias.dtype == torch.float32
        assert torch.equal(bias, before)
    assert load_file(tmp_path / "half" / WEIGHTS)["model.layers.1.mlp.gate.e_score_correction_bias"].dtype == torch.float32


def test_fp8_blocks_are_dequantised(saved: Path, model: Decoder) -> None:
    to_fp8(saved)
    loaded = load_model(saved)
    worst = 0.0
    for name, weight in model.state_dict().items():
        error = (loaded.state_dict()[name] - weight).abs().max() / weight.abs().max()
        worst = max(worst, float(error))
        # E4M3 keeps 3 bits of mantissa: half a unit in the last place is 1/16 of the value
        assert error <= 1 / 16 + 1e-6, name
    assert worst > 0.01
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        exact, got = (m.logits(m(tokens)) for m in (model, loaded))
    assert torch.corrcoef(torch.stack((exact.flatten(), got.flatten())))[0, 1] > 0.9


def test_a_scale_may_lie_in_another_shard(saved: Path) -> None:
    to_fp8(saved)
    whole = weights_sha256(load_model(saved))
    tensors = load_file(saved / WEIGHTS)
    (saved / WEIGHTS).unlink()
    names = sorted(tensors, key=lambda n: n.endswith("_scale_inv"))
    shards = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, saved / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_sha256(load_model(saved)) == whole


def test_dequantised_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0, 4.0], [-1.0, 0.5, 8.0], [3.0, 1.0, 2.0]]).to(torch.float8_e4m3fn)
    scale = torch.tensor([[2.0, 10.0], [0.5, 1.0]])
    expected = torch.tensor([[2.0, 4.0, 40.0], [-2.0, 1.0, 80.0], [1.5, 0.5, 2.0]])
    assert torch.equal(dequantise("w", weight, scale, (2, 2)), expected)
    with pytest.raises(ModelError, match=r"w_scale_inv is \[2, 2\]; w of \[3, 3\] in blocks of \[1, 2\] needs \[3, 2\]"):
        dequantise("w", weight, scale, (1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.layers.1.mlp.experts.5.up_proj.weight": None}, r"lacks the tensor model\.layers\.1\.mlp\.experts\.5\.up_proj"),
        ({"model.layers.2.mlp.gate.e_score_correction_bias": None}, r"lacks .*layers\.2\.mlp\.gate\.e_score_correction_bias"),
        ({"model.layers.1.mlp.experts.8.up_proj.weight": torch.ones(12, 24)}, r"holds .*experts\.8.*no place for"),
        (
            {"model.layers.0.self_attn.kv_b_proj.weight": torch.ones(5, 14)},
            r"kv_b_proj\.weight in .* is \[5, 14\].* \[56, 14\]",
        ),
        ({"model.layers.0.self_attn.q_b_proj.weight": torch.ones(40, 10).to(torch.float8_e4m3fn)}, "weight_block_size"),
    ],
)
def test_wrong_tensors_are_named(saved: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    tensors: dict[str, Any] = load_file(saved / WEIGHTS) | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, saved / WEIGHTS)
    with pytest.raises(ModelError, match=message):
        load_model(saved)


def test_fp8_without_its_scale_is_named(saved: Path) -> None:
    to_fp8(saved)
    tensors = load_file(saved / WEIGHTS)
    gone = "model.layers.0.self_attn.o_proj.weight_scale_inv"
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, saved / WEIGHTS)
    with pytest.raises(ModelError, match=r"lacks the tensor model\.layers\.0\.self_attn\.o_proj\.weight_scale_inv"):
        load_model(saved)


@pytest.mark.parametrize("keep", [0.001, 0.5, 0.999])
def test_a_file_cut_short_is_named(saved: Path, keep: float) -> None:
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        load_model(saved)
