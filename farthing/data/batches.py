"""Token rows of many lengths -> flat microbatches without padding, in which rows with the same prompt share it.

Every microbatch is one row of segments, one after another (see models/packed.py). A prompt that several rows begin with, as
the G rollouts of a group do, is there once; and the last token of a row predicts nothing, so it is not there at all.
Sizes are rounded up to multiples of a few: the matmul kernels of CPUs (oneDNN) and compiled graphs are built anew for every
shape they have not seen.

Shapes: S flat tokens, R tokens that carry loss, B rows of the batch, T the most loss tokens of any.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from farthing.models.packed import PackedAttention, pack_attention

ROUND_TOKENS = 8
ROUND_ROWS = 4
ROUND_FLAT = 64


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence whose tokens from `num_prompt` on carry loss."""

    tokens: list[int]
    num_prompt: int

    @property
    def num_loss_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Microbatch:
    """One forward pass."""

    rows: list[int]
    """Which of the given rows these are, in the order of the [B, T] tensors."""
    tokens_1S: Tensor
    positions_1S: Tensor
    attend: PackedAttention
    sources_R: Tensor
    """Place in the flat row whose hidden state predicts each loss token."""
    targets_R: Tensor
    loss_mask_BT: Tensor
    """True at [b, t] where row b has a t-th loss token; its True places, in order, are the R above."""
    num_tokens: int
    """Tokens in the flat row, without its padding."""
    num_context_tokens: int
    """Over all of them, how many tokens each attends to: what attention's FLOPs are counted from."""

    def to(self, device: torch.device) -> "Microbatch":
        """Laid out on the CPU, it goes to the model's device when its turn comes: a step's microbatches are never all there."""
        if self.tokens_1S.device == device:
            return self
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, attend=self.attend.to(device), **moved)


_TENSORS = ("tokens_1S", "positions_1S", "sources_R", "targets_R", "loss_mask_BT")


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows that stay together: one alone, or those that share a prompt."""

    rows: list[int]
    root: int
    """Tokens of the root: of the shared prompt, or of the whole row."""
    child: int
    """Tokens of the longest child; 0 where there is one row alone, or no completion has a second token."""

    @property
    def is_group(self) -> bool:
        return len(self.rows) > 1


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def microbatches(rows: Sequence[Row], max_tokens: int, share_prompts: bool = True) -> list[Microbatch]:
    """All rows, longest first (a too big batch fails at once), each at most `max_tokens` where no single row is longer.

    `share_prompts` off: equal prompts are there as often as rows have them, and every row is whole.
    """
    batches: list[Microbatch] = []
    chosen: list[_Unit] = []
    for unit in _units(rows, max_tokens, share_prompts):
        if chosen and (unit.is_group != chosen[0].is_group or _size([*chosen, unit]) > max_tokens):
            batches.append(_collate(rows, chosen))
            chosen = []
        chosen.append(unit)
    return [*batches, _collate(rows, chosen)] if chosen else batches


def _units(rows: Sequence[Row], max_tokens: int, share_prompts: bool) -> Iterator[_Unit]:
    """Groups first, then single rows; by length, so that blocks hold little padding."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        prompt = tuple(row.tokens[: row.num_prompt]) if share_prompts else ()
        by_prompt.setdefault(prompt or (-1, i), []).append(i)
    units = [unit for members in by_prompt.values() for unit in _split(rows, members, max_tokens)]
    return iter(sorted(units, key=lambda u: (not u.is_group, -u.child, -u.root, u.rows[0])))


def _split(rows: Sequence[Row], members: list[int], max_tokens: int) -> Iterator[_Unit]:
    """A group too big for one microbatch goes in parts, each with the prompt."""
    prompt = rows[members[0]].num_prompt
    members = sorted(members, key=lambda i: (-len(rows[i].tokens), i))
    while members:
        longest = len(rows[members[0]].tokens) - prompt - 1
        room = (max_tokens - round_up(prompt, ROUND_TOKENS)) // max(round_up(longest, ROUND_TOKENS), 1)
        part, members = members[: max(room, 1)], members[max(room, 1) :]
        yield _Unit(part, prompt, longest) if len(part) > 1 else _Unit(part, max(len(rows[part[0]].tokens) - 1, 1), 0)


def _size(units: Sequence[_Unit]) -> int:
    """Places of the attention blocks, padding included."""
    group = max(len(u.rows) for u in units) if units[0].is_group else 0
    root = round_up(max(u.root for u in units), ROUND_TOKENS)
    return len(units) * (root + group * round_up(max(u.child for u in units), ROUND_TOKENS))


def _collate(rows: Sequence[Row], units: Sequence[_Unit]) -> Microbatch:
    tokens: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    contexts = 0
    for unit in units:
        prompt = rows[unit.rows[0]].tokens[: unit.root]
        first = len(tokens)
        tokens += prompt
        positions += range(unit.root)
        contexts += unit.root * (unit.root + 1) // 2
        for i in unit.rows:
            row = rows[i]
            start = max(row.num_prompt, 1)
            targets += row.tokens[start:]
            if not unit.is_group:
                sources += range(first + start - 1, first + len(row.tokens) - 1)
                continue
            own = row.tokens[unit.root : -1]
            sources += [first + unit.root - 1, *range(len(tokens), len(tokens) + len(own))]
            tokens += own
            positions += range(unit.root, unit.root + len(own))
            contexts += len(own) * unit.root + len(own) * (len(own) + 1) // 2
    num_flat = round_up(len(tokens) + 1, ROUND_FLAT)
    padding = [0] * (num_flat - len(tokens))
    children = [[len(rows[i].tokens) - 1 - u.root for i in u.rows] if u.is_group else [] for u in units]
    chosen = [i for unit in units for i in unit.rows]
    counts = torch.tensor([len(rows[i].tokens) - max(rows[i].num_prompt, 1) for i in chosen], device="cpu")
    return Microbatch(
        rows=chosen,
        tokens_1S=torch.tensor([tokens + padding], device="cpu"),
        positions_1S=torch.tensor([positions + padding], device="cpu"),
        attend=pack_attention([u.root for u in units], children, num_flat, ROUND_TOKENS),
        sources_R=torch.tensor(sources, device="cpu"),
        targets_R=torch.tensor(targets, device="cpu"),
        loss_mask_BT=torch.arange(int(counts.max()), device="cpu") < counts[:, None],
        num_tokens=len(tokens),
        num_context_tokens=contexts,
    )


def lay_out(values: Sequence[Sequence[float]], batch: Microbatch) -> Tensor:
    """Per-token values of each completion -> fp32 [B, T] on the batch's device, where the loss mask has its tokens."""
    device = batch.loss_mask_BT.device
    flat = torch.tensor([v for i in batch.rows for v in values[i]], dtype=torch.float32, device=device)
    return torch.zeros(batch.loss_mask_BT.shape, device=device).masked_scatter(batch.loss_mask_BT, flat)


def padding_share(batches: Sequence[Microbatch]) -> float:
    """Share of the places in the linear layers that hold no token."""
    held = sum(b.tokens_1S.numel() for b in batches)
    return 1 - sum(b.num_tokens for b in batches) / held if held else 0.0
