"""Keys and values of every token in flight, preallocated: [layers, 2, slots, kv heads, positions, head width].

A slot holds one sequence from position 0. Active sequences always sit in slots 0..n-1, so a decode step reads one
contiguous block; when a sequence ends, the last one moves into its slot. A group's prompt is prefilled once and copied.

Shapes: S slots, K key/value heads, N query heads, T tokens, H head width, P prompts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from farthing.models.attention import attend_causally
from farthing.models.shape import ModelShape


class PromptCache(NamedTuple):
    """Prefilled keys and values of some prompts, [layers, 2, P, K, T, H], right-padded."""

    kv: Tensor
    lengths: list[int]


class KVCache:
    """The engine's working memory. `attend_decode` is an `Attend` for one new token per slot."""

    def __init__(self, shape: ModelShape, num_slots: int, num_positions: int, like: Tensor) -> None:
        self.num_slots, self.num_positions = num_slots, num_positions
        size = (shape.num_layers, 2, num_slots, shape.num_kv_heads, num_positions, shape.head_width)
        self.kv = torch.zeros(size, dtype=like.dtype, device=like.device)
        self._slot_index = torch.arange(num_slots, device=like.device)
        self._position_index = torch.arange(num_positions, device=like.device)
        self._mask: Tensor | None = None
        self._positions_S = self._slot_index

    def place_prompt(self, slots: list[int], prompts: PromptCache, row: int) -> None:
        """Copies one prefilled prompt into `slots`: the completions of a group share its prefill."""
        length = prompts.lengths[row]
        self.kv[:, :, slots, :, :length] = prompts.kv[:, :, row : row + 1, :, :length]

    def move(self, sources: list[int], targets: list[int], num_positions: int) -> None:
        """Moves whole sequences between slots; sources and targets are disjoint."""
        self.kv[:, :, targets, :, :num_positions] = self.kv[:, :, sources, :, :num_positions]

    def begin_step(self, positions_S: Tensor, longest: int) -> None:
        """Sets where this step's tokens go: slot i writes at positions_S[i] and sees positions up to it."""
        self._positions_S = positions_S
        visible = self._position_index[:longest] <= positions_S[:, None]
        dtype = self.kv.dtype
        self._mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        self._mask.masked_fill_(~visible, -torch.inf)
        self._mask = self._mask[:, None, None, :]

    def attend_decode(self, layer: int, q_S1NH: Tensor, k_S1KH: Tensor, v_S1KH: Tensor) -> Tensor:
        """Writes the new keys and values, then attends; the query heads of one KV head form the query axis."""
        assert self._mask is not None, "begin_step must come before a decode forward"
        slots, _, num_heads, width = q_S1NH.shape
        num_kv_heads = k_S1KH.shape[2]
        keys, values = self.kv[layer, 0], self.kv[layer, 1]
        index = (self._slot_index[:slots], slice(None), self._positions_S)
        keys[index] = k_S1KH[:, 0]
        values[index] = v_S1KH[:, 0]
        q = q_S1NH.view(slots, num_kv_heads, num_heads // num_kv_heads, width)
        longest = self._mask.shape[-1]
        out = F.scaled_dot_product_attention(q, keys[:slots, :, :longest], values[:slots, :, :longest], attn_mask=self._mask)
        return out.reshape(slots, 1, num_heads, width)


class Prefill:
    """An `Attend` that attends causally and keeps what it was given, for `PromptCache`."""

    def __init__(self) -> None:
        self._layers: list[Tensor] = []

    def __call__(self, layer: int, q_PTNH: Tensor, k_PTKH: Tensor, v_PTKH: Tensor) -> Tensor:
        self._layers.append(torch.stack((k_PTKH, v_PTKH)).transpose(2, 3))
        return attend_causally(layer, q_PTNH, k_PTKH, v_PTKH)

    def finish(self, lengths: list[int]) -> PromptCache:
        return PromptCache(torch.stack(self._layers), lengths)
