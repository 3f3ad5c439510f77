"""Packed attention: values and gradients equal those of every row computed alone; nothing leaks between segments."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farthing.models.attention import attend_causally
from farthing.models.fused import library
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


@pytest.mark.skipif(library() is None, reason="no compiler here, or FARTHING_KERNELS=off")
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("width", [(H, H), (64, 64), (24, 16)], ids=str)
def test_the_kernel_equals_plain_pytorch(dtype: torch.dtype, atol: float, width: tuple[int, int]) -> None:
    """Against the same layout in fp64, which never takes the kernel; lengths cross its blocks of 32 and tiles of 64."""
    roots, children = [70, 33, 64, 131, 1], [[40, 0, 65], [1, 130], [9], [], []]
    num_tokens = sum(roots) + sum(map(sum, children))
    attend = pack_attention(roots, children, num_tokens + 5, 8)
    generator = torch.Generator().manual_seed(0)
    sizes = ((N, width[0]), (K, width[0]), (K, width[1]))
    qkv = [torch.randn(1, num_tokens + 5, h, w, generator=generator).to(dtype).requires_grad_() for h, w in sizes]
    exact = [x.detach().double().requires_grad_() for x in qkv]
    got, wanted = attend(0, *qkv)[:, :num_tokens], attend(0, *exact)[:, :num_tokens]
    assert not torch.equal(got, wanted), "fp64 has no kernel"
    torch.testing.assert_close(got.double(), wanted, atol=atol, rtol=atol)
    weights = torch.randn(got.shape, generator=generator)
    grads = torch.autograd.grad((got * weights).sum(), qkv)
    for a, b in zip(grads, torch.autograd.grad((wanted * weights).sum(), exact), strict=True):
        torch.testing.assert_close(a.double(), b, atol=5 * atol, rtol=5 * atol)
        assert not a[:, num_tokens:].any()


@pytest.mark.skipif(library() is None, reason="no compiler here, or FARTHING_KERNELS=off")
def test_the_kernel_repeats_to_the_bit_on_any_number_of_threads() -> None:
    attend = pack_attention([30, 20], [[40, 10], []], 128, 8)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            qkv = [x.detach().float().requires_grad_() for x in tensors(128)]
            out = attend(0, *qkv)
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), qkv)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
