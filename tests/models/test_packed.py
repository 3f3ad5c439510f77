"""Packed attention: values and gradients equal those of every row computed alone; nothing leaks between segments."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farthing.models.attention import attend_causally
from farthing.models.packed import pack_attention

Lengths = list[tuple[int, list[int]]]
N, K, H = 4, 2, 6

layouts = st.lists(st.tuples(st.integers(1, 12), st.lists(st.integers(0, 9), max_size=3)), min_size=1, max_size=5).map(
    lambda found: sorted(found, key=lambda unit: not unit[1])
)


def tensors(num_flat: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_flat)
    return [torch.randn(1, num_flat, heads, H, generator=generator, dtype=dtype).requires_grad_() for heads in (N, K, K)]


def alone(layout: Lengths, qkv: list[Tensor]) -> Tensor:
    """Each root by itself, and each child behind its root; the flat row's tokens in their order."""
    out, at = [], 0
    for root, children in layout:
        rows = [torch.arange(at, at + root)]
        at += root
        for length in children:
            rows.append(torch.cat((rows[0], torch.arange(at, at + length))))
            at += length
        for number, row in enumerate(rows):
            attended = attend_causally(0, *(x[:, row] for x in qkv))
            out.append(attended[:, 0 if number == 0 else root :])
    return torch.cat(out, dim=1)


@settings(deadline=None, max_examples=60)
@given(layout=layouts)
def test_equal_to_every_row_alone(layout: Lengths) -> None:
    num_tokens = sum(root + sum(children) for root, children in layout)
    num_flat = num_tokens + 3
    attend = pack_attention([root for root, _ in layout], [children for _, children in layout], num_flat, 8)
    qkv = tensors(num_flat)
    got, wanted = attend(0, *qkv)[:, :num_tokens], alone(layout, qkv)
    torch.testing.assert_close(got, wanted)
    weights = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), qkv), torch.autograd.grad((wanted * weights).sum(), qkv), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_nothing_is_seen_of_other_segments() -> None:
    """Other values in one child and in the single row change those two and nothing else, to the bit."""
    attend = pack_attention([5, 4, 6], [[3, 2], [2, 2], []], 32, 8)
    qkv = [x.detach() for x in tensors(32)]
    clean = attend(0, *qkv)
    second_child, single = slice(8, 10), slice(18, 24)
    for x in qkv:
        x[:, second_child] = 100.0
        x[:, single] = -100.0
    changed = (attend(0, *qkv) != clean).flatten(2).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [8, 9, *range(18, 24)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_gets_no_gradient(dtype: torch.dtype) -> None:
    attend = pack_attention([5, 3], [[3, 2], []], 20, 8)
    qkv = tensors(20, dtype)
    grads = torch.autograd.grad(attend(0, *qkv)[:, :13].float().square().sum(), qkv)
    assert all(bool(g[:, :13].abs().sum() > 0) and not g[:, 13:].any() for g in grads)
