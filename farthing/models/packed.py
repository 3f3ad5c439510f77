"""Segments of many lengths in one flat row of tokens -> attention, each prompt's keys and values computed once.

The linear layers see [1, T] tokens without padding. Attention gathers them into two padded blocks: roots (whole rows, or
the prompt of a group) attend causally to themselves; children (a group's completions) attend to their root and, causally, to
themselves. So a group's prompt is forwarded once for all G of its completions, in training as in the engine.

Shapes: T flat tokens, R roots, C roots with children (the first C of the R), G children of each, U tokens of a root, W tokens
of a child, N query heads, K key/value heads, H head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from farthing.models.attention import attend_causally
from farthing.models.fused import attend_segments, can_fuse


@dataclass(frozen=True, slots=True)
class PackedAttention:
    """An `Attend` for one flat row."""

    roots: tuple[int, int]
    """R, U"""
    children: tuple[int, int, int]
    """C, G, W; C is 0 where no root has children."""
    index: Tensor
    """[R*U + C*G*W] -> place in the flat row; padding points at the flat row's last place, which holds no token."""
    inverse: Tensor
    """[T] -> place in the blocks; the flat row's padding points at 0, and gets no gradient from there."""
    num_tokens: int
    """Of the T, without padding."""
    hidden: Tensor
    """[C, 1, 1, 1, W, U + W] bool: what a child's token may not see."""
    segments: tuple[Tensor, Tensor, Tensor]
    """For the CPU kernel: starts and lengths of all segments in the flat row, and which of them are the roots, with the end."""

    def to(self, device: torch.device) -> "PackedAttention":
        """`segments` stay: only the CPU's kernel reads them."""
        moved = {name: getattr(self, name).to(device) for name in ("index", "inverse", "hidden")}
        return replace(self, **moved)

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """[1, T, ., .] -> [1, T, N, width of v]."""
        q, k, v = (x.squeeze(0) for x in (q_BTNH, k_BTKH, v_BTKH))
        if can_fuse(q, k, v):
            return attend_segments(q, k, v, self.segments).unsqueeze(0)
        (R, U), (C, G, W) = self.roots, self.children
        blocks = [_Reorder.apply(x, self.index, self.inverse, self.num_tokens) for x in (q, k, v)]  # type: ignore[no-untyped-call]
        roots = [x[: R * U].view(R, U, *x.shape[1:]) for x in blocks]
        out = attend_causally(layer, *roots).flatten(0, 1)
        if C:
            children = [x[R * U :].view(C, G, W, *x.shape[1:]) for x in blocks]
            out = torch.cat((out, self._attend_children(children, [x[:C] for x in roots[1:]]).flatten(0, 2)))
        attended: Tensor = _Reorder.apply(out, self.inverse, self.index, len(self.index))  # type: ignore[no-untyped-call]
        return attended.unsqueeze(0)

    def _attend_children(self, qkv: Sequence[Tensor], root_kv: Sequence[Tensor]) -> Tensor:
        """[C, G, W, N, .]. The root's keys and values are read once for all children: they form one query axis."""
        C, G, W = self.children
        num_heads, width = qkv[0].shape[3:]
        num_kv_heads = qkv[1].shape[3]
        repeat = num_heads // num_kv_heads
        q = qkv[0].view(C, G, W, num_kv_heads, repeat, width).permute(0, 3, 1, 4, 2, 5).contiguous()
        k, v = (x.permute(0, 3, 1, 2, 4) for x in qkv[1:])
        root_k, root_v = (x.transpose(1, 2) for x in root_kv)
        to_root = q.view(C, num_kv_heads, -1, width) @ root_k.transpose(-1, -2)
        to_self = q.view(C, num_kv_heads, G, -1, width) @ k.transpose(-1, -2)
        block = (C, num_kv_heads, G, repeat, W)
        scores = torch.cat((to_root.view(*block, -1), to_self.view(*block, W)), dim=-1) * width**-0.5
        weights = scores.masked_fill_(self.hidden, -torch.inf).softmax(dim=-1)
        to_root, to_self = weights.split((root_k.shape[2], W), dim=-1)
        out = (to_root.reshape(C, num_kv_heads, -1, root_k.shape[2]) @ root_v).view(*block, -1)
        out = out + (to_self.reshape(C, num_kv_heads, G, -1, W) @ v).view(*block, -1)
        attended: Tensor = out.permute(0, 2, 4, 1, 3, 5).reshape(C, G, W, num_heads, -1)
        return attended


class _Reorder(torch.autograd.Function):
    """Rows of x in another order. Every token has one place on either side, so the gradient is a gather too, not an add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, num_real: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.num_real = num_real
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        back = grad.index_select(0, inverse)
        back[ctx.num_real :] = 0
        return back, None, None, None


def pack_attention(roots: Sequence[int], children: Sequence[Sequence[int]], num_flat: int, round_to: int) -> PackedAttention:
    """The layout, on the CPU, of segments that lie in the flat row one after another: each root, then its children.

    `roots` are lengths; `children[r]` the lengths of root r's children, roots that have any before those that have none.
    `num_flat` must exceed the tokens, so that padding has a place of its own; block widths are multiples of `round_to`.
    """
    width = -(-max(roots) // round_to) * round_to
    longest = max((length for lengths in children for length in lengths), default=0)
    num_parents = sum(1 for lengths in children if lengths) if longest else 0
    group = max((len(lengths) for lengths in children), default=0)
    child_width = -(-longest // round_to) * round_to
    num_root_places = len(roots) * width
    index = torch.full((num_root_places + num_parents * group * child_width,), num_flat - 1, device="cpu")
    inverse = torch.zeros(num_flat, dtype=torch.int64, device="cpu")
    hidden = torch.ones(num_parents, child_width, width + child_width, dtype=torch.bool, device="cpu")
    at = 0
    starts: list[int] = []
    lengths: list[int] = []
    firsts: list[int] = []

    def place(first: int, length: int) -> None:
        nonlocal at
        starts.append(at)
        lengths.append(length)
        index[first : first + length] = torch.arange(at, at + length, device="cpu")
        inverse[at : at + length] = torch.arange(first, first + length, device="cpu")
        at += length

    for r, length in enumerate(roots):
        firsts.append(len(starts))
        place(r * width, length)
        for g, child_length in enumerate(children[r]):
            place(num_root_places + (r * group + g) * child_width, child_length)
    for r in range(num_parents):
        hidden[r, :, : roots[r]] = False
    hidden[:, :, width:] = torch.ones(child_width, child_width, dtype=torch.bool, device="cpu").triu_(1)
    segments = (torch.tensor(x, device="cpu") for x in (starts, lengths, [*firsts, len(starts)]))
    return PackedAttention(
        roots=(len(roots), width),
        children=(num_parents, group, child_width),
        index=index,
        inverse=inverse,
        num_tokens=at,
        hidden=hidden.view(num_parents, 1, 1, 1, child_width, width + child_width),
        segments=(next(segments), next(segments), next(segments)),
    )
