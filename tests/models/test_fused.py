"""The built kernels and plain PyTorch are the same functions: values and gradients, fp32 and bf16, odd sizes, strides."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from farthing.models import fused

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])

pytestmark = pytest.mark.skipif(fused.library() is None, reason="no C++ compiler here: plain PyTorch is what runs")


def both(function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, *inputs: Tensor) -> list[tuple[Tensor, ...]]:
    """(value, gradients) from the kernels and from PyTorch, the same gradient flowing in."""
    results = []
    for kernels in (True, False):
        if not kernels:
            monkeypatch.setattr(fused, "library", lambda: None)
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        flow = torch.linspace(-1, 1, value.numel()).view(value.shape).to(value.dtype)
        results.append((value.detach(), *torch.autograd.grad(value, leaves, flow)))
    return results


def assert_same(results: list[tuple[Tensor, ...]], dtype: torch.dtype) -> None:
    for built, plain in zip(*results, strict=True):
        assert built.dtype == plain.dtype == dtype
        scale = plain.float().abs().max().clamp(min=1)
        assert (built.float() - plain.float()).abs().max() <= TOLERANCE[dtype] * scale


@DTYPES
@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 33), (130, 160)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape).to(dtype), (1 + 0.1 * torch.randn(shape[-1])).to(dtype)
    assert_same(both(lambda a, w: fused.rms_norm(a, w, 1e-5), monkeypatch, x, weight), dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(3, 10), (2, 7, 66), (130, 864)])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(shape)).to(dtype)
    x[0, ..., :2] = torch.tensor([120.0, -120.0], dtype=dtype)
    assert_same(both(fused.swiglu, monkeypatch, x), dtype)


@DTYPES
@pytest.mark.parametrize("batch_of_angles", [1, 3])
def test_rotate(batch_of_angles: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    heads = torch.randn(3, 5, 6, 8).to(dtype)
    angles = torch.randn(batch_of_angles, 5, 4)

    def function(x: Tensor) -> Tensor:
        return fused.rotate(x.split([4, 2], dim=2)[0], angles.cos(), angles.sin())

    assert_same(both(function, monkeypatch, heads), dtype)


@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("width", "out_width"), [(5, 3), (33, 6), (160, 163)])
@torch.no_grad()
def test_linear_of_few_rows(rows: int, width: int, out_width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((rows, 1, width), (out_width, width), (out_width,)))
    for given in (bias, None):
        wanted = torch.nn.functional.linear(x.double(), weight.double(), None if given is None else given.double())
        found = fused.linear_few(x, weight, given)
        assert found.dtype == dtype
        assert found.shape == (rows, 1, out_width)
        assert (found.double() - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


@DTYPES
def test_nan_is_not_hidden(dtype: torch.dtype) -> None:
    x = torch.ones(2, 8, dtype=dtype)
    x[1, 3] = torch.nan
    normed, gated = fused.rms_norm(x, torch.ones(8, dtype=dtype), 1e-5), fused.swiglu(x)
    assert torch.isfinite(normed[0]).all()
    assert torch.isnan(normed[1]).all()
    assert torch.isnan(gated[1, 3])


def test_results_repeat_to_the_bit() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(999, 64, requires_grad=True), torch.randn(64, requires_grad=True)
    first, second = (torch.autograd.grad(fused.rms_norm(x, weight, 1e-5).sum(), (x, weight)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARTHING_KERNELS", "off")
    fused.library.cache_clear()
    assert fused.library() is None
    monkeypatch.undo()
    fused.library.cache_clear()
    assert fused.library() is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_norms_side_by_side(dtype: torch.dtype) -> None:
    left, right = torch.randn(2, 3, 19).to(dtype), torch.randn(2, 3, 19).to(dtype)
    weights = torch.rand(19).to(dtype), torch.rand(19).to(dtype)
    with torch.no_grad():
        found = fused.rms_norm_pair(left, right, weights, 1e-6)
    wanted = torch.cat((fused.rms_norm(left, weights[0], 1e-6), fused.rms_norm(right, weights[1], 1e-6)), dim=-1)
    assert torch.equal(found, wanted)
