"""Token rows of many lengths -> padded microbatches of few shapes.

Rows are sorted by length, so little is padding, and shapes are rounded up to multiples of a few: the matmul kernels
of CPUs (oneDNN) and compiled graphs are built anew for every shape they have not seen.

Shapes: B rows, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ROUND_TOKENS = 8
ROUND_ROWS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence whose tokens from `num_prompt` on carry loss."""

    tokens: list[int]
    num_prompt: int

    @property
    def num_loss_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt


class Microbatch(NamedTuple):
    rows: list[int]
    """Which of the given rows these are, in order; the batch may hold empty rows behind them."""
    tokens_BT: Tensor
    loss_mask_BT: Tensor
    """True at t where token t + 1 is a target."""


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def microbatches(rows: Sequence[Row], max_tokens: int) -> list[Microbatch]:
    """All rows, longest first (a too big batch fails at once), each microbatch at most `max_tokens` with padding."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), i))
    batches: list[Microbatch] = []
    while order:
        width = round_up(len(rows[order[0]].tokens), ROUND_TOKENS)
        count = max(1, max_tokens // width)
        count = max(count // ROUND_ROWS * ROUND_ROWS, 1)
        batches.append(_collate(rows, order[:count], width))
        order = order[count:]
    return batches


def _collate(rows: Sequence[Row], chosen: list[int], width: int) -> Microbatch:
    num_rows = len(chosen) if len(chosen) < ROUND_ROWS else round_up(len(chosen), ROUND_ROWS)
    tokens_BT = torch.zeros(num_rows, width, dtype=torch.int64)
    loss_mask_BT = torch.zeros(num_rows, width, dtype=torch.bool)
    for b, i in enumerate(chosen):
        row = rows[i]
        tokens_BT[b, : len(row.tokens)] = torch.tensor(row.tokens)
        loss_mask_BT[b, max(row.num_prompt, 1) - 1 : len(row.tokens) - 1] = True
    return Microbatch(chosen, tokens_BT, loss_mask_BT)


def lay_out(values: Sequence[Sequence[float]], batch: Microbatch) -> Tensor:
    """Per-token values of each completion -> fp32 [B, T], where the loss mask has that completion's tokens."""
    flat = torch.tensor([v for i in batch.rows for v in values[i]], dtype=torch.float32)
    return torch.zeros(batch.loss_mask_BT.shape).masked_scatter(batch.loss_mask_BT, flat)


def padding_share(batches: Sequence[Microbatch], rows: Sequence[Row]) -> float:
    """Share of the batches' positions that hold no token."""
    held = sum(b.tokens_BT.numel() for b in batches)
    return 1 - sum(len(r.tokens) for r in rows) / held if held else 0.0
