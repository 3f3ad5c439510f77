"""A tiny DeepSeek-V3 and V2 for tests: every part is there, no two widths are equal."""

from typing import Any

import torch

from farthing.models.decoder import Decoder, init_weights
from farthing.models.moe import moe_layers
from farthing.models.shape import ModelShape

TINY: dict[str, Any] = {
    "family": "deepseek_v3",
    "vocab_size": 61,
    "width": 24,
    "num_layers": 3,
    "num_heads": 4,
    "ffn_width": 40,
    "max_positions": 96,
    "tie_embeddings": False,
    "init_std": 0.3,
    "mtp_depth": 1,
    "mla": {"kv_lora_rank": 14, "q_lora_rank": 10, "qk_nope_head_width": 6, "qk_rope_head_width": 4, "v_head_width": 8},
    "moe": {
        "num_experts": 8,
        "experts_per_token": 3,
        "expert_width": 12,
        "num_shared_experts": 2,
        "first_k_dense": 1,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling": 1.5,
    },
}


def tiny_shape(**changes: Any) -> ModelShape:
    """`moe={"n_group": 1}` changes entries of a table."""
    merged = {key: TINY[key] | value if isinstance(TINY.get(key), dict) else value for key, value in changes.items()}
    return ModelShape.model_validate(TINY | merged)


def tiny_model(seed: int = 1, **changes: Any) -> Decoder:
    """Random weights, norms and balancing biases."""
    model = Decoder(tiny_shape(**changes))
    init_weights(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0, 0.3, generator=generator)
        for layer in moe_layers(model).values():
            if layer.router.bias is not None:
                layer.router.bias.normal_(0.0, 0.1, generator=generator)
    return model
