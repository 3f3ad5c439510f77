"""Counts of DeepSeek shapes against the published ones and against hand-worked small ones; what does not fit is named."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from farthing.models.shape import ModelShape

V3: dict[str, Any] = {
    "family": "deepseek_v3",
    "vocab_size": 129280,
    "width": 7168,
    "num_layers": 61,
    "num_heads": 128,
    "ffn_width": 18432,
    "max_positions": 163840,
    "tie_embeddings": False,
    "mtp_depth": 1,
    "mla": {
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_width": 128,
        "qk_rope_head_width": 64,
        "v_head_width": 128,
    },
    "moe": {
        "num_experts": 256,
        "experts_per_token": 8,
        "expert_width": 2048,
        "first_k_dense": 3,
        "n_group": 8,
        "topk_group": 4,
    },
}
SMALL: dict[str, Any] = {
    "family": "deepseek_v3",
    "vocab_size": 10,
    "width": 8,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_width": 6,
    "mla": {"kv_lora_rank": 5, "qk_nope_head_width": 3, "qk_rope_head_width": 2, "v_head_width": 4},
    "moe": {"num_experts": 4, "experts_per_token": 2, "expert_width": 3, "first_k_dense": 1},
}


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """`mla__kv_lora_rank=3` changes the entry of a table."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in changes.items():
        table, _, inner = key.partition("__")
        if inner:
            result[table][inner] = value
        else:
            result[table] = value
    return result


def test_v3_has_the_published_counts() -> None:
    """671B total, 37B active; the module of multi-token prediction apart, 14B with its copies of embedding and head.

    The checkpoint's 671,026,419,200 include 58 x 256 balancing biases, which no gradient trains and which we count as state.
    """
    shape = ModelShape.model_validate(V3)
    assert shape.num_params() == 671_026_419_200 - 58 * 256
    assert shape.num_params(active=True) == 37_552_282_624
    assert round((shape.mtp_params() + 2 * 129280 * 7168) / 1e9, 1) == 13.5
    assert shape.mtp_params() == 11_610_067_968


def test_v2_lite_has_the_published_counts() -> None:
    """15.7B total, 2.4B active without the embedding (arXiv:2405.04434, appendix B)."""
    moe = {"num_experts": 64, "num_shared_experts": 2, "experts_per_token": 6, "expert_width": 1408, "first_k_dense": 1}
    mla = {key: value for key, value in V3["mla"].items() if key != "q_lora_rank"}
    sizes = {"vocab_size": 102400, "width": 2048, "num_layers": 27, "num_heads": 16, "ffn_width": 10944, "mtp_depth": 0}
    shape = ModelShape.model_validate(V3 | sizes | {"family": "deepseek_v2", "mla": mla, "moe": moe | {"norm_topk": False}})
    assert shape.num_params() == 15_706_484_224
    assert (shape.num_params(active=True) - 102400 * 2048) / 1e9 == pytest.approx(2.4, abs=0.06)


def test_v3_caches_under_two_percent_of_multi_head_attention() -> None:
    shape = ModelShape.model_validate(V3)
    assert shape.cache_bytes_per_token(2) == 61 * 576 * 2
    multi_head, grouped = (shape.gqa_cache_bytes_per_token(2, heads) for heads in (128, 8))
    assert shape.cache_bytes_per_token(2) / multi_head == pytest.approx(0.01758, abs=1e-5)
    assert shape.cache_bytes_per_token(2) / grouped == pytest.approx(0.28125)


def test_worked_by_hand() -> None:
    shape = ModelShape.model_validate(SMALL)
    attention = 8 * 2 * 5 + (8 * (5 + 2) + 5) + 5 * 2 * (3 + 4) + 2 * 4 * 8  # q, latent with its norm, up, out
    assert shape.attention_params() == attention == 275
    assert shape.layer_params(0) == attention + 3 * 8 * 6 + 16
    assert shape.layer_params(1) == attention + (1 + 4) * 3 * 8 * 3 + 4 * 8 + 16
    assert shape.layer_params(1, active=True) == attention + (1 + 2) * 3 * 8 * 3 + 4 * 8 + 16
    assert shape.num_params() == 80 + shape.layer_params(0) + shape.layer_params(1) + 8
    assert (shape.num_kv_heads, shape.head_width, shape.rope_width) == (2, 5, 2)
    assert shape.cache_bytes_per_token(4) == 2 * 7 * 4
    per_token = shape.layer_params(0) + shape.layer_params(1, active=True) - 2 * 16
    assert shape.forward_flops(10, 3.0, 4) == 2 * (10 * (per_token + 2 * 2 * (5 + 4) * 3) + 80 * 4)


def test_queries_may_have_a_latent_of_their_own() -> None:
    direct = ModelShape.model_validate(SMALL)
    latent = ModelShape.model_validate(changed(SMALL, mla__q_lora_rank=3))
    assert latent.attention_params() - direct.attention_params() == (8 * 3 + 3 + 3 * 10) - 80


@settings(max_examples=30, deadline=None)
@given(dense=st.integers(0, 3), chosen=st.integers(1, 4), shared=st.integers(1, 2))
def test_active_weights_leave_out_exactly_the_experts_not_chosen(dense: int, chosen: int, shared: int) -> None:
    moe = {
        "num_experts": 4,
        "experts_per_token": chosen,
        "expert_width": 3,
        "num_shared_experts": shared,
        "first_k_dense": dense,
    }
    shape = ModelShape.model_validate(changed(SMALL, num_layers=3, moe=moe))
    assert shape.num_params() - shape.num_params(active=True) == (3 - dense) * (4 - chosen) * 3 * 8 * 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"moe": None}, "needs the tables mla and moe"),
        ({"family": "llama", "num_kv_heads": 2, "head_width": 5}, "belong to deepseek"),
        ({"head_width": 6}, "leave both out. Got 2 and 6"),
        ({"num_kv_heads": 1}, "leave both out"),
        ({"mla__qk_rope_head_width": 3}, "mla.qk_rope_head_width must be even"),
        ({"moe__experts_per_token": 5}, r"experts_per_token \(5\) exceeds the 4 experts"),
        ({"moe__n_group": 3}, r"n_group \(3\) must divide num_experts \(4\)"),
        ({"moe__n_group": 2, "moe__topk_group": 3}, "topk_group"),
        ({"moe__n_group": 4, "moe__topk_group": 4}, "two best experts"),
        ({"moe__first_k_dense": 3}, r"first_k_dense \(3\) exceeds num_layers \(2\)"),
        ({"family": "deepseek_v2"}, "neither normalised gates"),
        ({"mla__kv_rank": 3}, "kv_rank"),
        ({"rope_scaling": {"factor": 2, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_positions": 8}}, "YaRN"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ModelShape.model_validate(changed(SMALL, **changes))
