"""Hidden states -> attended hidden states: grouped-query attention (arXiv:2305.13245) of Llama, Qwen2 and Qwen3.

How keys and values of earlier tokens are kept is not this file's business: it computes q, k, v and hands them to
`attend`. Training attends causally inside each row; the engine's cache brings its own (`engine/cache.py`).

Shapes: B rows, T tokens, D width, N query heads, K key/value heads, H head width.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farthing.models.fused import rms_norm, rotate
from farthing.models.linear import Linear
from farthing.models.shape import ModelShape


class Attend(Protocol):
    """Attention of one layer's new queries against its new, and perhaps its cached, keys and values."""

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, /) -> Tensor:
        """Returns the attended values [B, T, N, H]; values may be of another width than keys."""


def attend_causally(layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
    """Every row is one sequence from position 0; padding on the right is never seen by a real token."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTNH, k_BTKH, v_BTKH))
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return _attend_by_matmul(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def _attend_by_matmul(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
    """The same from two matmuls. On CPUs the fused kernel's bf16 backward is 3 to 10 times slower than this (torch 2.13)."""
    rows, num_heads, tokens, width = q_BNTH.shape
    v_width = v_BKTH.shape[-1]
    num_kv_heads = k_BKTH.shape[1]
    grouped = (rows, num_kv_heads, num_heads // num_kv_heads * tokens, width)
    scores = torch.matmul(q_BNTH.reshape(grouped), k_BKTH.transpose(-1, -2)) * width**-0.5
    future = torch.full((tokens, tokens), -torch.inf, dtype=q_BNTH.dtype, device=q_BNTH.device).triu_(1)
    weights = torch.softmax(scores.view(rows, num_heads, tokens, tokens) + future, dim=-1)
    return torch.matmul(weights.view(*grouped[:3], tokens), v_BKTH).view(rows, num_heads, tokens, v_width)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (arXiv:1910.07467) in fp32, result in the input's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class GroupedQueryAttention(nn.Module):
    """q, k and v come from one fused projection: rows [N*H | K*H | K*H] of `qkv.weight`."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads, self.num_kv_heads, self.head_width = shape.num_heads, shape.num_kv_heads, shape.head_width
        num_all = shape.num_heads + 2 * shape.num_kv_heads
        self.qkv = Linear(shape.width, num_all * shape.head_width, bias=shape.has_qkv_bias)
        self.out = Linear(shape.num_heads * shape.head_width, shape.width, bias=False)
        self.q_norm = RMSNorm(shape.head_width, shape.norm_eps) if shape.has_qk_norm else None
        self.k_norm = RMSNorm(shape.head_width, shape.norm_eps) if shape.has_qk_norm else None

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        rows, tokens, _ = x_BTD.shape
        N, K = self.num_heads, self.num_kv_heads
        heads = self.qkv(x_BTD).view(rows, tokens, N + 2 * K, self.head_width)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, v = torch.split(heads, [N, K, K], dim=2)
            q, k = rotate(self.q_norm(q), *rope), rotate(self.k_norm(k), *rope)
        else:
            qk, v = torch.split(heads, [N + K, K], dim=2)
            q, k = torch.split(rotate(qk, *rope), [N, K], dim=2)
        attended = attend(self.layer, q, k, v)
        out_BTD: Tensor = self.out(attended.reshape(rows, tokens, N * self.head_width))
        return out_BTD
