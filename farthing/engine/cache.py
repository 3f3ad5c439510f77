"""What every token in flight leaves behind, preallocated: [layers, parts, slots, heads, positions, width].

Grouped-query attention leaves two parts, the keys and values of its heads. Latent attention leaves one, the latent, and
attends to it as if it were one key/value head whose values are the first part of its keys (`attend_latent`).

A slot holds one sequence from position 0. Active sequences always sit in slots 0..n-1, so a decode step reads one
contiguous block; when a sequence ends, the last one moves into its slot. A group's prompt is prefilled once and copied.

Shapes: S slots, K key/value heads, N query heads, T tokens, H head width, P prompts; L latent with the rotated key, V value
width of a head.
"""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from farthing.models.attention import attend_causally
from farthing.models.fused import can_decode_latents, can_fuse, decode_attention, decode_latents
from farthing.models.mla import LatentAttend, LatentAttention
from farthing.models.shape import ModelShape


class PromptCache(NamedTuple):
    """What some prefilled prompts left, [layers, parts, P, heads, T, width], right-padded."""

    kv: Tensor
    lengths: list[int]


class KVCache(LatentAttend):
    """The engine's working memory, and an `Attend` for one new token per slot."""

    def __init__(self, shape: ModelShape, num_slots: int, num_positions: int, like: Tensor) -> None:
        self.num_slots, self.num_positions = num_slots, num_positions
        layout = shape.cache_layout
        size = (shape.num_layers, layout.parts, num_slots, layout.heads, num_positions, layout.width)
        self.kv = torch.zeros(size, dtype=like.dtype, device=like.device)
        self._slot_index = torch.arange(num_slots, device=like.device)
        self._position_index = torch.arange(num_positions, device=like.device)
        self.has_kernel = can_fuse(self.kv) and (shape.mla is None or can_decode_latents(shape.mla.kv_lora_rank))
        """Whether the CPU kernel attends, which needs `_groups` and no `_mask`; else it is the other way round."""
        self._mask: Tensor | None = None
        self._positions_S = self._slot_index
        self._prompts = [(-1, 0)] * num_slots
        """Per slot: which prompt it holds, and its length."""
        self._groups: tuple[Tensor, Tensor, Tensor] | None = None

    def clear(self) -> None:
        """Forgets which slots share a prompt; to be called before prompts are numbered anew."""
        self._prompts = [(-1, 0)] * self.num_slots

    def place_prompt(self, slots: list[int], prompts: PromptCache, row: int, number: int) -> None:
        """Copies one prefilled prompt into `slots`: the completions of a group share its prefill, and its `number`."""
        length = prompts.lengths[row]
        for slot in slots:
            self._prompts[slot] = number, length
        self.kv[:, :, slots, :, :length] = prompts.kv[:, :, row : row + 1, :, :length]

    def move(self, sources: list[int], targets: list[int], num_positions: int) -> None:
        """Moves whole sequences between slots; sources and targets are disjoint."""
        self.kv[:, :, targets, :, :num_positions] = self.kv[:, :, sources, :, :num_positions]
        for source, target in zip(sources, targets, strict=True):
            self._prompts[target] = self._prompts[source]

    def begin_step(self, positions_S: Tensor, longest: int) -> None:
        """Sets where this step's tokens go: slot i writes at positions_S[i] and sees positions up to it."""
        self._positions_S = positions_S
        if self.has_kernel:
            self._groups = self._sharing(positions_S.tolist())
            return
        hidden = self._position_index[:longest] > positions_S[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.kv.dtype, device=hidden.device)
        self._mask = mask.masked_fill_(hidden, -torch.inf)[:, None, None, :]

    def _sharing(self, positions: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """For the CPU kernel: slots in the order of their prompts, where each prompt's begin, and the prompts' lengths.

        A slot that rides along idle writes over the first position, so it shares nothing.
        """
        members: dict[tuple[int, int], list[int]] = {}
        for slot, position in enumerate(positions):
            number, length = self._prompts[slot]
            key = (number, length) if position >= length else (-2 - slot, 0)
            members.setdefault(key, []).append(slot)
        slots = [slot for found in members.values() for slot in found]
        firsts = [0, *itertools.accumulate(len(found) for found in members.values())]
        lengths = [length for _, length in members]
        slots_S, firsts_G, lengths_G = (torch.tensor(x, device="cpu") for x in (slots, firsts, lengths))
        return slots_S, firsts_G, lengths_G

    def __call__(self, layer: int, q_S1NH: Tensor, k_S1KH: Tensor, v_S1KH: Tensor) -> Tensor:
        """Writes the new keys and values, then attends; the query heads of one KV head form the query axis."""
        slots, _, num_heads, width = q_S1NH.shape
        num_kv_heads = k_S1KH.shape[2]
        keys, values = self.kv[layer, 0], self.kv[layer, 1]
        if self._groups is not None:
            new = (q_S1NH.squeeze(1), k_S1KH.squeeze(1), v_S1KH.squeeze(1))
            return decode_attention(*new, keys, values, self._positions_S, self._groups).unsqueeze(1)
        assert self._mask is not None, "begin_step must come before a decode forward"
        index = (self._slot_index[:slots], slice(None), self._positions_S)
        keys[index] = k_S1KH[:, 0]
        values[index] = v_S1KH[:, 0]
        q = q_S1NH.view(slots, num_kv_heads, num_heads // num_kv_heads, width)
        longest = self._mask.shape[-1]
        out = F.scaled_dot_product_attention(q, keys[:slots, :, :longest], values[:slots, :, :longest], attn_mask=self._mask)
        return out.reshape(slots, 1, num_heads, width)

    def attend_latent(self, mla: LatentAttention, q_S1NH: Tensor, latent_S1L: Tensor) -> Tensor:
        """Writes the new latents, then attends to latents: no key or value is ever expanded. Returns [S, 1, N, V]."""
        latents = self.kv[mla.layer, 0, :, 0]
        if self._groups is not None:
            new = q_S1NH[:, 0], latent_S1L[:, 0], mla.up()
            return decode_latents(*new, latents, self._positions_S, self._groups).unsqueeze(1)
        assert self._mask is not None, "begin_step must come before a decode forward"
        slots, longest = len(q_S1NH), self._mask.shape[-1]
        latents[self._slot_index[:slots], self._positions_S] = latent_S1L[:, 0]
        seen_STL = latents[:slots, :longest]
        scores_SNT = torch.matmul(mla.absorb(q_S1NH[:, 0]), seen_STL.transpose(1, 2)) + self._mask[:, 0]
        weights_SNT = scores_SNT.float().softmax(dim=-1).to(scores_SNT.dtype)
        return mla.values(torch.matmul(weights_SNT, seen_STL[..., : mla.mla.kv_lora_rank])).unsqueeze(1)


class Prefill(LatentAttend):
    """An `Attend` that attends causally and keeps what it was given, for `PromptCache`."""

    def __init__(self) -> None:
        self._layers: list[Tensor] = []

    def __call__(self, layer: int, q_PTNH: Tensor, k_PTKH: Tensor, v_PTKH: Tensor) -> Tensor:
        self._layers.append(torch.stack((k_PTKH, v_PTKH)).transpose(2, 3))
        return attend_causally(layer, q_PTNH, k_PTKH, v_PTKH)

    def attend_latent(self, mla: LatentAttention, q_PTNH: Tensor, latent_PTL: Tensor) -> Tensor:
        """Keeps the latent, and attends to the keys and values it stands for."""
        self._layers.append(latent_PTL[None, :, None])
        return attend_causally(mla.layer, q_PTNH, *mla.expand(latent_PTL))

    def finish(self, lengths: list[int]) -> PromptCache:
        return PromptCache(torch.stack(self._layers), lengths)
