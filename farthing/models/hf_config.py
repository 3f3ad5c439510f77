"""Entries of a Hugging Face config.json -> checked values; what our decoder would compute differently is refused by name."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from farthing.errors import ModelError
from farthing.models.shape import RopeScaling, YarnScaling


def number(config: Mapping[str, Any], key: str) -> int:
    """A positive integer that must be there."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ModelError(f"config.json must give {key} as a positive integer, got {value!r}; copy it from its source")
    return value


def refuse_unsupported(config: Mapping[str, Any], family: str) -> None:
    """ModelError for anything that would change the numbers and is not in our decoder."""
    layer_types = set(config.get("layer_types") or ["full_attention"])
    has_window = bool(config.get("use_sliding_window") or (family == "llama" and config.get("sliding_window")))
    quantization = config.get("quantization_config")
    checks = (
        ("hidden_act", config.get("hidden_act", "silu"), "silu", config.get("hidden_act", "silu") == "silu"),
        ("attention_bias", config.get("attention_bias"), "false", not config.get("attention_bias")),
        ("mlp_bias", config.get("mlp_bias"), "false", not config.get("mlp_bias")),
        ("use_sliding_window", has_window, "full attention", not has_window),
        ("layer_types", sorted(map(str, layer_types)), "full_attention", layer_types == {"full_attention"}),
        (
            "quantization_config",
            quantization,
            "float32, float16 or bfloat16 weights, and DeepSeek's fp8 in blocks (weight_block_size)",
            not quantization or is_block_fp8(quantization),
        ),
    )
    require(family, checks)


def is_block_fp8(quantization: Any) -> bool:
    """E4M3 weights with a scale for each block of rows x columns, as DeepSeek-V3 is published."""
    return (
        isinstance(quantization, Mapping)
        and quantization.get("quant_method") == "fp8"
        and quantization.get("fmt", "e4m3") == "e4m3"
        and block_size(quantization) is not None
    )


def block_size(quantization: Mapping[str, Any]) -> tuple[int, int] | None:
    size = quantization.get("weight_block_size")
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size):
        return size[0], size[1]
    return None


def require(family: str, checks: tuple[tuple[str, Any, str, bool], ...]) -> None:
    """Each check: key, value got, what is supported, whether it is fine."""
    for key, value, allowed, is_fine in checks:
        if not is_fine:
            raise ModelError(f"{key} = {value!r} is not supported for {family} models; supported is {allowed}")


def rope(config: Mapping[str, Any], scaled: str) -> tuple[float, RopeScaling | YarnScaling | None]:
    """(theta, scaling); `scaled` is the one kind of scaling that the family knows, "llama3" or "yarn"."""
    table = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(table, Mapping):
        raise ModelError(f"rope_parameters must be an object, got {table!r}; copy config.json from its source")
    theta = table.get("rope_theta", config.get("rope_theta", 10_000.0))
    if table.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ModelError("partial_rotary_factor is not supported; supported is 1.0, rotation of whole heads")
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != scaled:
        raise ModelError(f"rope type {kind!r} is not supported; supported are default and {scaled}")
    try:
        return theta, _yarn(table) if kind == "yarn" else _llama3(table)
    except KeyError as error:
        raise ModelError(f"{kind} rope scaling needs {error}; copy config.json from its source") from error
    except ValidationError as error:
        raise ModelError(f"{kind} rope scaling cannot be read: {first_error(error)}") from error


def _llama3(table: Mapping[str, Any]) -> RopeScaling:
    return RopeScaling(
        factor=table["factor"],
        low_freq_factor=table["low_freq_factor"],
        high_freq_factor=table["high_freq_factor"],
        original_max_positions=table["original_max_position_embeddings"],
    )


def _yarn(table: Mapping[str, Any]) -> YarnScaling:
    for key, default in (("attention_factor", None), ("truncate", True)):
        if table.get(key, default) != default:
            raise ModelError(f"yarn's {key} = {table[key]!r} is not supported; leave it out")
    return YarnScaling(
        factor=table["factor"],
        original_max_positions=table["original_max_position_embeddings"],
        beta_fast=table.get("beta_fast") or 32,
        beta_slow=table.get("beta_slow") or 1,
        mscale=table.get("mscale") or 0,
        mscale_all_dim=table.get("mscale_all_dim") or 0,
    )


def rope_entry(scaling: RopeScaling | YarnScaling) -> dict[str, Any]:
    """`rope_scaling` of a config.json."""
    if isinstance(scaling, RopeScaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {
        "rope_type": "yarn",
        "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_max_positions,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "mscale": scaling.mscale,
        "mscale_all_dim": scaling.mscale_all_dim,
    }


def first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'shape'}: {first['msg']}, got {first['input']!r}"
