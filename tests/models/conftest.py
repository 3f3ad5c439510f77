"""Tiny random models of every family we read, as ours and as transformers'."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from farthing.models.decoder import Decoder, init_weights
from farthing.models.shape import ModelShape

COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large, so that a wrong weight or rotation moves the logits far
    "attn_implementation": "eager",
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
    "tie_word_embeddings": False,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 8.0,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 32,
}
GROUPS = {"n_group": 4, "topk_group": 2}
NO_Q_LATENT = {"q_lora_rank": None, "n_group": 1, "topk_group": 1}
V2_SCALING = YARN | {"mscale": 0.7, "mscale_all_dim": 0.9}
THEIRS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama-tied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama-untied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "llama3-rope": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3_ROPE}),
    "qwen2-tied": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen2-untied": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": False}),
    "qwen3-tied": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": True, "head_dim": 16}),
    "qwen3-untied": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": False, "head_dim": 12}),
    "deepseek_v3": (DeepseekV3Config, DeepseekV3ForCausalLM, DEEPSEEK | GROUPS),
    "deepseek_v3-yarn": (
        DeepseekV3Config,
        DeepseekV3ForCausalLM,
        DEEPSEEK | GROUPS | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}, "norm_topk_prob": False},
    ),
    "deepseek_v3-tied": (DeepseekV3Config, DeepseekV3ForCausalLM, DEEPSEEK | NO_Q_LATENT | {"tie_word_embeddings": True}),
    "deepseek_v2-lite": (DeepseekV2Config, DeepseekV2ForCausalLM, DEEPSEEK | NO_Q_LATENT | {"rope_parameters": V2_SCALING}),
    "deepseek_v2-groups": (
        DeepseekV2Config,
        DeepseekV2ForCausalLM,
        DEEPSEEK | GROUPS | {"topk_method": "group_limited_greedy", "rope_parameters": YARN},
    ),
}


def random_theirs(kind: str) -> Any:
    """transformers' model with every weight random: biases and norms too, which it starts at 0 and 1."""
    config_class, model_class, options = THEIRS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**(COMMON | options))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.0 if name.endswith("bias") else 1.0, 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0.0, 0.1)
    return model


@pytest.fixture
def make_theirs() -> Callable[[str], Any]:
    return random_theirs


@pytest.fixture(params=sorted(THEIRS))
def theirs(request: pytest.FixtureRequest) -> Any:
    return random_theirs(request.param)


@pytest.fixture
def their_folder(theirs: Any, tmp_path: Path) -> Path:
    theirs.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


@pytest.fixture
def shape() -> ModelShape:
    return ModelShape(
        family="qwen3",
        vocab_size=61,
        width=24,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_width=8,
        ffn_width=40,
        max_positions=64,
        init_std=0.3,
    )


@pytest.fixture
def model(shape: ModelShape) -> Decoder:
    decoder = Decoder(shape)
    init_weights(decoder, seed=1)
    return decoder
