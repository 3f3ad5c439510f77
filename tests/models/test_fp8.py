"""E4M3 in blocks: worked by hand, against torch's own cast, and what a block's scale may and may not reach."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farthing.models import fused
from farthing.models.fp8 import Block, _round_e4m3, dequantise, quantise, round_blocks

BLOCKS = pytest.mark.parametrize("block", [(1, 128), (128, 1), (128, 128), (2, 3)], ids=str)
POWERS = pytest.mark.parametrize("power_of_two", [False, True], ids=["real scales", "powers of two"])


def wild(*size: int, seed: int = 0) -> Tensor:
    """Normal numbers over many orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * torch.exp(4 * torch.randn(size, generator=generator))


def test_a_tile_by_hand() -> None:
    """Largest 7, so the scale is 7 / 448 = 1 / 64. In units of it: 448; 6.4 (steps of 0.5); -211.2 (steps of 16); 0."""
    x = torch.tensor([[7.0, 0.1, -3.3, 0.0]])
    values, scale = quantise(x, (1, 4))
    assert scale.tolist() == [[1 / 64]]
    assert values.float().tolist() == [[448.0, 6.5, -208.0, 0.0]]
    assert round_blocks(x, (1, 4)).tolist() == [[7.0, 6.5 / 64, -3.25, 0.0]]


def test_ties_go_to_the_even_neighbour_and_small_numbers_have_even_steps() -> None:
    """With 448 in the tile the scale is 1. 17 and 19 lie between 16, 18 and 20; below 2^-6 the step is 2^-9."""
    step = 2.0**-9
    x = torch.tensor([[448.0, 17.0, 19.0, -17.0, 0.0019, 0.5 * step, 1.5 * step, 0.4 * step]])
    assert round_blocks(x, (1, 8)).tolist() == [[448.0, 16.0, 20.0, -16.0, step, 0.0, 2 * step, 0.0]]


def test_a_power_of_two_is_the_scale_itself_or_the_next_above() -> None:
    """5 / 448 is between 2^-7 and 2^-6; 7 / 448 is 2^-6."""
    _, scale = quantise(torch.tensor([[5.0], [7.0], [7.0001]]), (1, 1), power_of_two=True)
    assert scale.flatten().tolist() == [2.0**-6, 2.0**-6, 2.0**-5]


def test_rounding_equals_the_cast_for_every_code_and_between() -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    below, above = (torch.nextafter(middles, torch.tensor(to)) for to in (-math.inf, math.inf))
    points = torch.cat((codes, middles, below, above, torch.linspace(0, 448, 100_001)))
    points = torch.cat((points, -points))
    assert torch.equal(_round_e4m3(points), points.to(torch.float8_e4m3fn).float())


@BLOCKS
@POWERS
@pytest.mark.parametrize("size", [(256, 256), (130, 300), (1, 5), (3, 40, 200)], ids=str)
def test_rounded_is_what_quantised_stands_for(size: tuple[int, ...], block: Block, power_of_two: bool) -> None:
    x = wild(*size)
    values, scale = quantise(x, block, power_of_two)
    rounded = round_blocks(x, block, power_of_two)
    assert (values.dtype, values.shape, rounded.dtype) == (torch.float8_e4m3fn, x.shape, torch.float32)
    if x.ndim == 2:
        assert torch.equal(dequantise("x", values, scale, block), rounded)
    else:
        each = [round_blocks(matrix, block, power_of_two) for matrix in x]
        assert torch.equal(torch.stack(each), rounded)


@pytest.mark.skipif(fused.library() is None, reason="no C++ compiler here: plain PyTorch is what runs")
@BLOCKS
@POWERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_built_kernel_is_the_same_function(
    block: Block, power_of_two: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = wild(3, 130, 300).to(dtype)
    x[0, 0, :2] = torch.tensor([math.nan, math.inf])
    x[1, :128, :128] = 0
    x[2] *= 1e-38
    for matrices in (x, x.mT, x[0], x[:, ::2]):
        built = round_blocks(matrices, block, power_of_two)
        with monkeypatch.context() as patch:
            patch.setattr(fused, "library", lambda: None)
            plain = round_blocks(matrices, block, power_of_two)
        assert (built.dtype, built.shape) == (torch.float32, matrices.shape)
        assert torch.equal(built.nan_to_num(nan=-1), plain.nan_to_num(nan=-1))


@BLOCKS
def test_a_block_that_sticks_out_is_rounded_by_what_is_in_it(block: Block) -> None:
    x = wild(130, 300)
    rounded = round_blocks(x, block)
    for i in range(0, 130, block[0])[-2:]:
        for j in range(0, 300, block[1])[-2:]:
            part = (slice(i, i + block[0]), slice(j, j + block[1]))
            assert torch.equal(rounded[part], round_blocks(x[part], block))
            top = x[part].abs().max()
            # half a step of the largest numbers is 1/16 of 256/448 of the largest; the smallest step is 2^-9 of 1/448 of it
            assert ((rounded[part] - x[part]).abs() <= (x[part].abs() / 16 + top / 448 / 2**10) * (1 + 1e-6)).all()


@POWERS
@settings(max_examples=30, deadline=None)
@given(exponent=st.integers(-60, 60), seed=st.integers(0, 1000))
def test_a_power_of_two_passes_through_a_tile(power_of_two: bool, exponent: int, seed: int) -> None:
    x, factors = torch.randn(4, 200, generator=torch.Generator().manual_seed(seed)), torch.ones(4, 200)
    factors[2, 128:] = 2.0**exponent
    assert torch.equal(round_blocks(x * factors, (1, 128), power_of_two), round_blocks(x, (1, 128), power_of_two) * factors)


def test_an_outlier_harms_its_own_tile_alone() -> None:
    """What tiles are for: with one scale for all, everything else would be below the smallest step."""
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    spoilt = x.clone()
    spoilt[1, 200] = 1e6
    fine, coarse = round_blocks(spoilt, (1, 128)), round_blocks(spoilt, (4, 512))
    others = torch.ones_like(x, dtype=torch.bool)
    others[1, 128:256] = False
    assert torch.equal(fine[others], round_blocks(x, (1, 128))[others])
    error = (fine - x).abs()[others].mean() / x.abs().mean()
    assert error < 0.03
    assert (coarse[others] == 0).float().mean() > 0.7


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@POWERS
def test_what_is_not_finite_is_never_hidden(wrong: float, power_of_two: bool) -> None:
    """A cast to E4M3 makes infinity 448; a run that diverges must be seen to."""
    x = torch.ones(2, 256)
    x[0, 3] = wrong
    for rounded in (round_blocks(x, (1, 128), power_of_two), quantise(x, (1, 128), power_of_two)[0].float()):
        assert rounded[0, 3].isnan()
        assert rounded[0, 128:].isfinite().all()
        assert rounded[1].isfinite().all()


@POWERS
def test_zeros_and_the_smallest_numbers(power_of_two: bool) -> None:
    x = torch.zeros(3, 4)
    x[1] = 1e-30
    x[2] = 1e-42
    rounded = round_blocks(x, (1, 4), power_of_two)
    assert torch.equal(rounded[0], torch.zeros(4))
    torch.testing.assert_close(rounded[1], x[1], rtol=0.07, atol=0)
    assert rounded[2].abs().max() <= 2e-42
