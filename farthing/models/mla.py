"""Hidden states -> attended hidden states: multi-head latent attention of DeepSeek-V2 and V3 (arXiv:2405.04434, section 2.1).

A token's keys and values, of all heads, come from one latent; position is in a small rotated key beside it that all heads
share. Training expands the latent (`expand`). An engine keeps the latent alone, and folds the two up-projections into
the query and the output (`absorb`, `values`): it then attends as if there were one key/value head, the latent.

Rotated parts are in half-split layout, as everywhere here; DeepSeek's files interleave them (see `models/deepseek.py`).

Shapes: B rows, T tokens, D width, N heads, H head width (without position | rotated), L latent with the rotated key,
C latent alone, V value width.
"""

import torch
from torch import Tensor, nn

from farthing.models.attention import Attend, RMSNorm
from farthing.models.fused import can_fuse, rotate, turn_latents
from farthing.models.linear import Linear, PackedWeight, multiply_both
from farthing.models.rope import yarn_softmax_scale
from farthing.models.shape import MlaShape, ModelShape, YarnScaling

LATENT_NORM_EPS = 1e-6
"""DeepSeek's own code, and everybody's after it, norms the latents with this whatever the config's rms_norm_eps."""


class LatentAttend:
    """An `Attend` that keeps what it is given, and so asks for the latent instead of keys and values."""

    def attend_latent(self, mla: "LatentAttention", q_BTNH: Tensor, latent_BTL: Tensor) -> Tensor:
        """Returns the attended values [B, T, N, V]."""
        raise NotImplementedError


class LatentAttention(nn.Module):
    """`kv_down` gives [latent | rotated key]; `kv_up` has rows [key without position | value] of each head in turn."""

    def __init__(self, shape: ModelShape, mla: MlaShape, layer: int) -> None:
        super().__init__()
        self.layer, self.mla, self.num_heads, self.head_width = layer, mla, shape.num_heads, shape.head_width
        q_rank, N = mla.q_lora_rank, shape.num_heads
        self.q_down = Linear(shape.width, q_rank, bias=False) if q_rank else None
        self.q_norm = RMSNorm(q_rank, LATENT_NORM_EPS) if q_rank else None
        self.q_up = Linear(q_rank or shape.width, N * shape.head_width, bias=False)
        self.kv_down = Linear(shape.width, mla.kv_lora_rank + mla.qk_rope_head_width, bias=False)
        self.kv_norm = RMSNorm(mla.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_up = Linear(mla.kv_lora_rank, N * (mla.qk_nope_head_width + mla.v_head_width), bias=False)
        self.out = Linear(N * mla.v_head_width, shape.width, bias=False)
        self.packed = PackedWeight()
        """Of both of `from_x`."""
        yarn = shape.rope_scaling
        self.softmax_scale = yarn_softmax_scale(yarn) if isinstance(yarn, YarnScaling) else 1.0

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q_BTNH, latent_BTL = self._project(x_BTD, rope)
        if isinstance(attend, LatentAttend):
            attended = attend.attend_latent(self, q_BTNH, self._as_seen(latent_BTL))
        else:
            attended = attend(self.layer, q_BTNH, *self.expand(latent_BTL))
        out_BTD: Tensor = self.out(attended.flatten(2))
        return out_BTD

    @property
    def from_x(self) -> tuple[Linear, Linear]:
        """What multiplies the hidden states themselves: for queries, for latents."""
        return self.q_down or self.q_up, self.kv_down

    def latents(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """What an engine caches of these tokens, where nothing is to be attended to from them: [B, T, L]."""
        nobody_BT0H = x_BTD.new_empty(*x_BTD.shape[:2], 0, self.head_width)
        return self._as_seen(self._turn(nobody_BT0H, self.kv_down(x_BTD), rope)[1])

    def _project(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Queries [B, T, N, H] and latents [B, T, L]."""
        queries, latent_BTL = multiply_both(x_BTD, *self.from_x, self.packed)
        if self.q_norm is not None:
            queries = self.q_up(self.q_norm(queries))
        return self._turn(queries.view(*x_BTD.shape[:2], self.num_heads, self.head_width), latent_BTL, rope)

    def _turn(self, q_BTNH: Tensor, latent_BTL: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Just projected, both its own -> normed, rotated and scaled."""
        if not torch.is_grad_enabled() and can_fuse(q_BTNH, latent_BTL, self.kv_norm.weight):
            turn_latents(q_BTNH, latent_BTL, self.kv_norm.weight, rope, self.kv_norm.eps, self.softmax_scale)
            return q_BTNH, latent_BTL
        if self.softmax_scale != 1.0:
            q_BTNH = q_BTNH * self.softmax_scale
        fixed, turning = torch.split(q_BTNH, [self.mla.qk_nope_head_width, self.mla.qk_rope_head_width], dim=-1)
        latent, turning_key = torch.split(latent_BTL, [self.mla.kv_lora_rank, self.mla.qk_rope_head_width], dim=-1)
        turned_key = rotate(turning_key.unsqueeze(2), *rope).squeeze(2)
        return torch.cat((fixed, rotate(turning, *rope)), dim=-1), torch.cat((self.kv_norm(latent), turned_key), dim=-1)

    def _as_seen(self, latent_BTL: Tensor) -> Tensor:
        """What `kv_up` would round (it may multiply in fp8) is cached rounded, so that attending to latents sees the same."""
        if self.kv_up.is_plain:
            return latent_BTL
        latent, turned = torch.split(latent_BTL, [self.mla.kv_lora_rank, self.mla.qk_rope_head_width], dim=-1)
        return torch.cat((self.kv_up.packed.seen_input(latent), turned), dim=-1)

    def expand(self, latent_BTL: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B, T, N, H] and values [B, T, N, V] of every head."""
        latent, turned = torch.split(latent_BTL, [self.mla.kv_lora_rank, self.mla.qk_rope_head_width], dim=-1)
        heads = self.kv_up(latent).view(*latent.shape[:2], self.num_heads, -1)
        fixed, v_BTNV = torch.split(heads, [self.mla.qk_nope_head_width, self.mla.v_head_width], dim=-1)
        turned = turned.unsqueeze(2).expand(-1, -1, self.num_heads, -1)
        return torch.cat((fixed, turned), dim=-1), v_BTNV

    def absorb(self, q_BNH: Tensor) -> Tensor:
        """Queries that meet latents: [B, N, L], scaled so that `q @ latent` is the score itself."""
        fixed, turned = torch.split(q_BNH, [self.mla.qk_nope_head_width, self.mla.qk_rope_head_width], dim=-1)
        fixed = torch.matmul(fixed.transpose(0, 1), self.up()[:, : self.mla.qk_nope_head_width]).transpose(0, 1)
        absorbed_BNL: Tensor = torch.cat((fixed, turned), dim=-1) * self.head_width**-0.5
        return absorbed_BNL

    def values(self, latent_BNC: Tensor) -> Tensor:
        """Attended latents -> attended values [B, N, V]."""
        v_up = self.up()[:, self.mla.qk_nope_head_width :]
        return torch.matmul(latent_BNC.transpose(0, 1), v_up.transpose(1, 2)).transpose(0, 1)

    def up(self) -> Tensor:
        """The weight of `kv_up` as it is seen, by heads: [N, key without position | value, C]."""
        weight = self.kv_up.weight
        return self.kv_up.packed.seen_weight(weight).to(weight.dtype).view(self.num_heads, -1, self.mla.kv_lora_rank)
