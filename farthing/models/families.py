"""A Hugging Face config.json <-> our ModelShape, and our parameter names <-> theirs.

Llama, Qwen2 and Qwen3 here; what DeepSeek-V2 and V3 have of their own in `models/deepseek.py`.

Format: transformers' `LlamaConfig`, `Qwen2Config`, `Qwen3Config`; version 5 writes `rope_parameters`, older ones
`rope_theta` and `rope_scaling`. Both are read; the older form is written, because every version reads it.
Anything that would change the numbers and is not in our decoder is refused, never dropped.
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError
from torch import Tensor

from farthing.errors import ModelError
from farthing.models.decoder import Decoder
from farthing.models.deepseek import config_entries, deepseek_entries, layer_slots
from farthing.models.hf_config import first_error, number, refuse_unsupported, rope, rope_entry
from farthing.models.shape import Family, ModelShape
from farthing.models.slot import Slot

FAMILIES: tuple[str, ...] = get_args(Family)
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}

OUTER_NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
LAYER_NAMES: dict[str, tuple[str, ...]] = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "ffn_norm": ("post_attention_layernorm",),
    "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "ffn.down": ("mlp.down_proj",),
}
"""Our module in `layers.N.` -> theirs in `model.layers.N.`, in the order their rows are stacked in ours."""


def slots(model: Decoder) -> dict[str, Slot]:
    """Every Hugging Face tensor name of this decoder -> its slot. Works on the meta device."""
    return {
        theirs: slot for name, tensor in model.state_dict().items() for theirs, slot in _slots_of(model.shape, name, tensor)
    }


def _slots_of(shape: ModelShape, name: str, tensor: Tensor) -> Iterator[tuple[str, Slot]]:
    if shape.mla is not None and name not in OUTER_NAMES:
        yield from layer_slots(shape, name, tuple(tensor.shape))
        return
    start = 0
    for theirs, rows in zip(_hf_names(name), _rows(shape, name, tensor), strict=True):
        yield theirs, Slot(name, start, (rows, *tensor.shape[1:]))
        start += rows


def _hf_names(name: str) -> Iterator[str]:
    if name in OUTER_NAMES:
        yield OUTER_NAMES[name]
        return
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    for theirs in LAYER_NAMES[module]:
        yield f"model.layers.{layer}.{theirs}.{kind}"


def _rows(shape: ModelShape, name: str, parameter: Tensor) -> tuple[int, ...]:
    if ".attention.qkv." in name:
        key_rows = shape.num_kv_heads * shape.head_width
        return (shape.num_heads * shape.head_width, key_rows, key_rows)
    if ".ffn.gate_up." in name:
        return (shape.ffn_width, shape.ffn_width)
    return (parameter.shape[0],)


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """Raises ModelError for a config our decoder would compute differently from its authors."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(f"model_type {family!r} is not supported; supported are {', '.join(FAMILIES)}")
    refuse_unsupported(config, family)
    width, num_heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    try:
        own = deepseek_entries(config, family) if family.startswith("deepseek") else _dense_entries(config, family)
        return ModelShape(
            family=family,
            vocab_size=number(config, "vocab_size"),
            width=width,
            num_layers=number(config, "num_hidden_layers"),
            num_heads=num_heads,
            ffn_width=number(config, "intermediate_size"),
            max_positions=config.get("max_position_embeddings", 32768 if family.startswith("qwen") else 2048),
            norm_eps=config.get("rms_norm_eps", 1e-6),
            init_std=config.get("initializer_range", 0.02),
            **own,
        )
    except ValidationError as error:
        raise ModelError(f"config.json does not describe a {family} model: {first_error(error)}") from error


def _dense_entries(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    width, num_heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    theta, scaling = rope(config, "llama3")
    return {
        "num_kv_heads": config.get("num_key_value_heads") or num_heads,
        # Qwen3's own config class falls back to 128 whatever the width; the other two divide.
        "head_width": config.get("head_dim") or (128 if family == "qwen3" else width // num_heads),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_embeddings": config.get("tie_word_embeddings", False),
    }


def config_from_shape(shape: ModelShape, *, dtype: str, eos_id: int, bos_id: int | None) -> dict[str, Any]:
    """config.json of the shape; `dtype` is torch's name of the saved weights' type, such as "float32"."""
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[shape.family]],
        "model_type": shape.family,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tie_embeddings,
        "initializer_range": shape.init_std,
        "attention_dropout": 0.0,
        "torch_dtype": dtype,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
    }
    if shape.family != "qwen2":
        config["attention_bias"] = False
    if shape.rope_scaling is not None:
        config["rope_scaling"] = rope_entry(shape.rope_scaling)
    return config | (config_entries(shape) if shape.mla else {"head_dim": shape.head_width})
