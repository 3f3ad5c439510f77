"""config.json and weights of transformers' own tiny models -> our decoder gives the same logits; others are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from farthing.errors import ModelError
from farthing.models.decoder import Decoder
from farthing.models.families import config_from_shape, shape_from_config, slots
from farthing.models.huggingface import load_model

QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "sliding_window": 4096,
    "use_sliding_window": False,
}
LLAMA = QWEN2 | {"model_type": "llama", "sliding_window": None}
OLD_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_logits_equal_those_of_transformers(theirs: Any, their_folder: Path) -> None:
    ours = load_model(their_folder)
    tokens = torch.randint(0, 97, (3, 200), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, got = theirs(tokens).logits, ours.logits(ours(tokens))
    assert expected.abs().max() > 1.0  # else the tolerance below would say nothing
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert sum(p.numel() for p in ours.parameters()) == ours.shape.num_params() == theirs.num_parameters()


def test_every_weight_is_covered_exactly_once(their_folder: Path) -> None:
    ours = load_model(their_folder)
    covered = {name: torch.zeros_like(tensor) for name, tensor in ours.state_dict().items()}
    for slot in slots(ours).values():
        assert not slot.read(covered[slot.parameter]).any()
        slot.write(covered[slot.parameter], torch.ones(slot.size))
    assert all(tensor.eq(1).all() for tensor in covered.values())


def test_old_and_new_rope_keys_mean_the_same() -> None:
    old = shape_from_config(LLAMA | {"rope_theta": 5e5, "rope_scaling": OLD_SCALING})
    without = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    new = shape_from_config(without | {"rope_parameters": OLD_SCALING | {"rope_theta": 5e5}})
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_scaling is not None
    assert old.rope_scaling.factor == 32.0


def test_config_of_a_shape_reads_back_as_that_shape_by_us_and_by_transformers(tmp_path: Path) -> None:
    for config in (QWEN2, LLAMA | {"rope_scaling": OLD_SCALING}, QWEN2 | {"model_type": "qwen3", "head_dim": 32}):
        shape = shape_from_config(config)
        written = config_from_shape(shape, dtype="float32", eos_id=1, bos_id=None)
        assert shape_from_config(written) == shape
        (tmp_path / "config.json").write_text(json.dumps(written))
        assert shape_from_config(AutoConfig.from_pretrained(tmp_path).to_dict()) == shape


def test_absent_keys_take_the_defaults_of_transformers() -> None:
    bare = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    shape = shape_from_config(bare)
    assert (shape.head_width, shape.num_kv_heads, shape.tie_embeddings) == (16, 4, False)
    assert shape_from_config(QWEN2 | {"model_type": "qwen3"}).head_width == 128


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mistral"}, "llama, qwen2, qwen3, deepseek_v2, deepseek_v3"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"sliding_window": 1024}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_attention_heads": 5}, "multiple of num_kv_heads"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rms_norm_eps": -1.0}, "norm_eps"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        shape_from_config(LLAMA | change)


DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
    },
}
V2_LITE = DEEPSEEK | {
    "model_type": "deepseek_v2",
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "q_lora_rank": None,
    "n_group": 1,
    "topk_group": 1,
}


@pytest.mark.parametrize("config", [DEEPSEEK, V2_LITE, V2_LITE | {"topk_method": "group_limited_greedy", "n_group": 4}])
def test_deepseek_configs_read_back_as_the_same_shape_by_us_and_by_transformers(config: dict[str, Any], tmp_path: Path) -> None:
    shape = shape_from_config(config)
    written = config_from_shape(shape, dtype="float32", eos_id=1, bos_id=None)
    assert shape_from_config(written) == shape
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert shape_from_config(AutoConfig.from_pretrained(tmp_path).to_dict()) == shape


@pytest.mark.parametrize("config", [DEEPSEEK, V2_LITE])
def test_keys_left_out_of_a_deepseek_config_are_what_transformers_takes(config: dict[str, Any], tmp_path: Path) -> None:
    keys = ("n_group", "topk_group", "first_k_dense_replace", "routed_scaling_factor", "norm_topk_prob")
    cut = {key: value for key, value in config.items() if key not in keys}
    # as many layers and experts as the defaults need
    cut |= {"num_hidden_layers": 4, "n_routed_experts": 16, "num_experts_per_tok": 4, "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps(cut))
    assert shape_from_config(cut) == shape_from_config(AutoConfig.from_pretrained(tmp_path).to_dict())


def test_v2s_greedy_method_looks_at_no_groups() -> None:
    moe = shape_from_config(V2_LITE | {"n_group": 4, "topk_group": 1}).moe
    assert moe is not None
    assert (moe.n_group, moe.topk_group) == (1, 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scoring_func": "softmax"}, "scoring_func = 'softmax'.*sigmoid"),
        ({"topk_method": "greedy"}, "topk_method = 'greedy'"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"rope_interleave": False}, "rope_interleave"),
        ({"num_key_value_heads": 2}, r"num_key_value_heads = 2.*num_attention_heads \(4\)"),
        ({"n_shared_experts": None}, "n_shared_experts"),
        ({"kv_lora_rank": None}, "kv_lora_rank"),
        ({"num_experts_per_tok": 9}, "experts_per_token"),
        ({"rope_scaling": OLD_SCALING}, "'llama3'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "original_max_position_embeddings"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 2.0}}, "attention_factor"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weight_block_size"),
        ({"quantization_config": {"quant_method": "gptq", "weight_block_size": [128, 128]}}, "quantization_config"),
        ({"model_type": "deepseek_v2", "scoring_func": "softmax", "topk_method": "greedy"}, "norm_topk_prob"),
        ({"model_type": "deepseek_v4"}, "deepseek_v2, deepseek_v3"),
    ],
)
def test_what_a_deepseek_decoder_does_not_compute_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        shape_from_config(DEEPSEEK | change)


def test_parameter_count_needs_no_weights() -> None:
    shape = shape_from_config(QWEN2)
    with torch.device("meta"):
        decoder = Decoder(shape)
    assert sum(p.numel() for p in decoder.parameters()) == shape.num_params()
