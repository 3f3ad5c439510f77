"""DeepSeek-V2 and V3 in Hugging Face format <-> our ModelShape and parameter names.

Format: transformers' `DeepseekV2Config` and `DeepseekV3Config`; and the published checkpoints, whose multi-token prediction
modules are the layers from `num_hidden_layers` on, each with a copy of the embedding and of the head.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from farthing.models.hf_config import number, require, rope
from farthing.models.shape import MlaShape, ModelShape, MoeShape
from farthing.models.slot import Slot

LAYER_NAMES: dict[str, tuple[str, ...]] = {
    "attention_norm": ("input_layernorm",),
    "attention.q_down": ("self_attn.q_a_proj",),
    "attention.q_norm": ("self_attn.q_a_layernorm",),
    "attention.q_up": ("self_attn.q_b_proj",),
    "attention.kv_down": ("self_attn.kv_a_proj_with_mqa",),
    "attention.kv_norm": ("self_attn.kv_a_layernorm",),
    "attention.kv_up": ("self_attn.kv_b_proj",),
    "attention.out": ("self_attn.o_proj",),
    "ffn_norm": ("post_attention_layernorm",),
    "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "ffn.down": ("mlp.down_proj",),
    "ffn.shared.gate_up": ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
    "ffn.shared.down": ("mlp.shared_experts.down_proj",),
    "ffn.router": ("mlp.gate",),
}
"""Our module in a layer -> theirs, in the order their equal numbers of rows are stacked in ours."""
MTP_NAMES = {"embed_norm": "enorm", "hidden_norm": "hnorm", "project": "eh_proj", "norm": "shared_head.norm"}


def layer_slots(shape: ModelShape, name: str, size: tuple[int, ...]) -> Iterator[tuple[str, Slot]]:
    """Their names and places of one of our tensors inside a layer or a multi-token prediction module."""
    stack, index, rest = name.split(".", 2)
    number_of = int(index) + (shape.num_layers if stack == "mtp" else 0)
    prefix = f"model.layers.{number_of}."
    if stack == "mtp" and not rest.startswith("layer."):
        module, kind = rest.rsplit(".", 1)
        yield f"{prefix}{MTP_NAMES[module]}.{kind}", Slot(name, 0, size)
        return
    rest = rest.removeprefix("layer.")
    if rest.startswith("ffn.experts."):
        yield from _expert_slots(prefix, name, rest, size)
        return
    module, kind = rest.rsplit(".", 1)
    kind = "e_score_correction_bias" if rest == "ffn.router.bias" else kind
    theirs = LAYER_NAMES[module]
    if module == "attention.q_up" and shape.mla and shape.mla.q_lora_rank is None:
        theirs = ("self_attn.q_proj",)
    rows = size[0] // len(theirs)
    for i, their_module in enumerate(theirs):
        yield f"{prefix}{their_module}.{kind}", Slot(name, i * rows, (rows, *size[1:]), turning=_turning(shape, module))


def _expert_slots(prefix: str, name: str, rest: str, size: tuple[int, ...]) -> Iterator[tuple[str, Slot]]:
    parts = ("gate_proj", "up_proj") if rest.endswith("gate_up") else ("down_proj",)
    rows = size[1] // len(parts)
    for expert in range(size[0]):
        for i, part in enumerate(parts):
            yield f"{prefix}mlp.experts.{expert}.{part}.weight", Slot(name, i * rows, (rows, size[2]), expert)


def _turning(shape: ModelShape, module: str) -> tuple[int, int] | None:
    assert shape.mla is not None, "DeepSeek shapes have it"
    fixed = {"attention.q_up": shape.mla.qk_nope_head_width, "attention.kv_down": shape.mla.kv_lora_rank}
    return (fixed[module], shape.mla.qk_rope_head_width) if module in fixed else None


def shared_copies(shape: ModelShape) -> dict[str, str]:
    """Tensors that the files of multi-token prediction hold a second time -> the name of the first."""
    head = "model.embed_tokens.weight" if shape.tie_embeddings else "lm_head.weight"
    copies = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": head}
    layers = range(shape.num_layers, shape.num_layers + shape.mtp_depth)
    return {f"model.layers.{layer}.{name}": first for layer in layers for name, first in copies.items()}


LEFT_OUT: Mapping[str, dict[str, Any]] = {
    "deepseek_v2": {
        "first_k_dense_replace": 0, "n_group": None, "topk_group": None, "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    },
    "deepseek_v3": {
        "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    },
}  # fmt: skip
"""What transformers' own classes take where a config.json has left a key out, which must not change what a model says."""


def deepseek_entries(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The entries of a ModelShape that DeepSeek's families have of their own. Raises ModelError."""
    _refuse_unsupported(config, family)
    theta, scaling = rope(config, "yarn")
    q_rank = config.get("q_lora_rank")
    is_v3 = family == "deepseek_v3"
    # V2's method "greedy" looks at no groups, whatever n_group says
    has_groups = config.get("topk_method") != "greedy"
    given = {**LEFT_OUT[family], **config}
    return {
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "mla": MlaShape(
            kv_lora_rank=number(config, "kv_lora_rank"),
            q_lora_rank=None if q_rank is None else number(config, "q_lora_rank"),
            qk_nope_head_width=number(config, "qk_nope_head_dim"),
            qk_rope_head_width=number(config, "qk_rope_head_dim"),
            v_head_width=number(config, "v_head_dim"),
        ),
        "moe": MoeShape(
            num_experts=number(config, "n_routed_experts"),
            experts_per_token=number(config, "num_experts_per_tok"),
            expert_width=number(config, "moe_intermediate_size"),
            num_shared_experts=number(config, "n_shared_experts"),
            first_k_dense=given["first_k_dense_replace"] or 0,
            n_group=(given["n_group"] or 1) if has_groups else 1,
            topk_group=(given["topk_group"] or 1) if has_groups else 1,
            norm_topk=bool(given["norm_topk_prob"]),
            routed_scaling=given["routed_scaling_factor"],
        ),
        "mtp_depth": config.get("num_nextn_predict_layers", config.get("num_mtp_layers", 0)) if is_v3 else 0,
    }


def _refuse_unsupported(config: Mapping[str, Any], family: str) -> None:
    scoring, methods = (
        ("sigmoid", ("noaux_tc",)) if family == "deepseek_v3" else ("softmax", ("greedy", "group_limited_greedy"))
    )
    heads = config.get("num_attention_heads")
    got = {
        "scoring_func": config.get("scoring_func", scoring),
        "topk_method": config.get("topk_method", methods[0]),
        "moe_layer_freq": config.get("moe_layer_freq", 1),
        "rope_interleave": config.get("rope_interleave", True),
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
    }
    checks = (
        ("scoring_func", got["scoring_func"], scoring, got["scoring_func"] == scoring),
        ("topk_method", got["topk_method"], " or ".join(methods), got["topk_method"] in methods),
        ("moe_layer_freq", got["moe_layer_freq"], "1", got["moe_layer_freq"] == 1),
        ("rope_interleave", got["rope_interleave"], "true", got["rope_interleave"] is True),
        (
            "num_key_value_heads",
            got["num_key_value_heads"],
            f"num_attention_heads ({heads})",
            got["num_key_value_heads"] == heads,
        ),
        # transformers ignores it, DeepSeek's code drops the scaling with it: nothing to be equal to
        ("norm_topk_prob", config.get("norm_topk_prob"), "false", family == "deepseek_v3" or not config.get("norm_topk_prob")),
    )
    require(family, checks)


def config_entries(shape: ModelShape) -> dict[str, Any]:
    """What config.json of a DeepSeek shape has beside the entries that all families share."""
    mla, moe = shape.mla, shape.moe
    assert mla is not None and moe is not None, "DeepSeek shapes have both"  # noqa: PT018 - one fact about one shape
    entries: dict[str, Any] = {
        "kv_lora_rank": mla.kv_lora_rank,
        "q_lora_rank": mla.q_lora_rank,
        "qk_nope_head_dim": mla.qk_nope_head_width,
        "qk_rope_head_dim": mla.qk_rope_head_width,
        "v_head_dim": mla.v_head_width,
        "n_routed_experts": moe.num_experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.expert_width,
        "n_shared_experts": moe.num_shared_experts,
        "first_k_dense_replace": moe.first_k_dense,
        "moe_layer_freq": 1,
        "n_group": moe.n_group,
        "topk_group": moe.topk_group,
        "norm_topk_prob": moe.norm_topk,
        "routed_scaling_factor": moe.routed_scaling,
        "scoring_func": shape.expert_scoring,
    }
    if shape.family == "deepseek_v3":
        return entries | {"topk_method": "noaux_tc", "num_nextn_predict_layers": shape.mtp_depth, "rope_interleave": True}
    return entries | {"topk_method": "greedy" if moe.n_group == 1 else "group_limited_greedy"}
