"""A Hugging Face config.json <-> our ModelShape, and our parameter names <-> theirs, for Llama, Qwen2 and Qwen3.

Format: transformers' `LlamaConfig`, `Qwen2Config`, `Qwen3Config`; version 5 writes `rope_parameters`, older ones
`rope_theta` and `rope_scaling`. Both are read; the older form is written, because every version reads it.
Anything that would change the numbers and is not in our decoder is refused, never dropped.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError
from torch import Tensor

from farthing.errors import ModelError
from farthing.models.decoder import Decoder
from farthing.models.shape import Family, ModelShape, RopeScaling

FAMILIES: tuple[str, ...] = get_args(Family)
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

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


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a Hugging Face tensor lives in our decoder: rows [start, start + size[0]) of `parameter`."""

    parameter: str
    start: int
    size: tuple[int, ...]

    def view(self, parameter: Tensor) -> Tensor:
        """The slot's rows, sharing memory with the parameter."""
        return parameter[self.start : self.start + self.size[0]]


def slots(model: Decoder) -> dict[str, Slot]:
    """Every Hugging Face tensor name of this decoder -> its slot. Works on the meta device."""
    found: dict[str, Slot] = {}
    for name, parameter in model.named_parameters():
        start = 0
        for theirs, rows in zip(_hf_names(name), _rows(model.shape, name, parameter), strict=True):
            found[theirs] = Slot(name, start, (rows, *parameter.shape[1:]))
            start += rows
    return found


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
    _refuse_unsupported(config, family)
    theta, scaling = _rope(config)
    width, num_heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    # Qwen3's own config class falls back to 128 whatever the width; the other two divide.
    head_width = config.get("head_dim") or (128 if family == "qwen3" else width // num_heads)
    try:
        return ModelShape(
            family=family,
            vocab_size=_number(config, "vocab_size"),
            width=width,
            num_layers=_number(config, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_width=head_width,
            ffn_width=_number(config, "intermediate_size"),
            max_positions=config.get("max_position_embeddings", 2048 if family == "llama" else 32768),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=config.get("rms_norm_eps", 1e-6),
            tie_embeddings=config.get("tie_word_embeddings", False),
            init_std=config.get("initializer_range", 0.02),
        )
    except ValidationError as error:
        raise ModelError(f"config.json does not describe a {family} model: {_first_error(error)}") from error


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ModelError(f"config.json must give {key} as a positive integer, got {value!r}; copy it from its source")
    return value


def _refuse_unsupported(config: Mapping[str, Any], family: str) -> None:
    layer_types = set(config.get("layer_types") or ["full_attention"])
    has_window = bool(config.get("use_sliding_window") or (family == "llama" and config.get("sliding_window")))
    checks = (
        ("hidden_act", config.get("hidden_act", "silu"), "silu", config.get("hidden_act", "silu") == "silu"),
        ("attention_bias", config.get("attention_bias"), "false", not config.get("attention_bias")),
        ("mlp_bias", config.get("mlp_bias"), "false", not config.get("mlp_bias")),
        ("use_sliding_window", has_window, "full attention", not has_window),
        ("layer_types", sorted(map(str, layer_types)), "full_attention", layer_types == {"full_attention"}),
        (
            "quantization_config",
            config.get("quantization_config"),
            "float32, float16 or bfloat16 weights",
            not config.get("quantization_config"),
        ),
    )
    for key, value, allowed, is_fine in checks:
        if not is_fine:
            raise ModelError(f"{key} = {value!r} is not supported for {family} models; supported is {allowed}")


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ModelError(f"rope_parameters must be an object, got {rope!r}; copy config.json from its source")
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelError("partial_rotary_factor is not supported; supported is 1.0, rotation of whole heads")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ModelError(f"rope type {kind!r} is not supported; supported are default and llama3")
    try:
        return theta, RopeScaling(
            factor=rope["factor"],
            low_freq_factor=rope["low_freq_factor"],
            high_freq_factor=rope["high_freq_factor"],
            original_max_positions=rope["original_max_position_embeddings"],
        )
    except KeyError as error:
        raise ModelError(f"llama3 rope scaling needs {error}; copy config.json from its source") from error
    except ValidationError as error:
        raise ModelError(f"llama3 rope scaling cannot be read: {_first_error(error)}") from error


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'shape'}: {first['msg']}, got {first['input']!r}"


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
        "head_dim": shape.head_width,
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
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": shape.rope_scaling.factor,
            "low_freq_factor": shape.rope_scaling.low_freq_factor,
            "high_freq_factor": shape.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": shape.rope_scaling.original_max_positions,
        }
    return config
