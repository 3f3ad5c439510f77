"""Numbers <-> E4M3 with one scale per block: the format DeepSeek-V3 and R1 are published in, and multiply in when they train.

In a checkpoint `NAME.weight` is float8_e4m3fn and `NAME.weight_scale_inv` holds, in spite of its name, the factor that each
block of 128 x 128 is multiplied by (arXiv:2412.19437, section 3.3).

Shapes: leading axes may stand before rows and columns everywhere. Blocks at the lower and the right edge may be smaller.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from farthing.errors import ModelError
from farthing.models import fused
from farthing.models.fused import can_fuse

SCALE_SUFFIX = "_scale_inv"
LARGEST = 448.0
"""Of E4M3."""
Block = tuple[int, int]
"""Rows and columns that share a scale."""

_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def dequantise(name: str, weight: Tensor, scale: Tensor, block: Block) -> Tensor:
    """fp32 [rows, columns] from E4M3 [rows, columns] and fp32 [rows / block, columns / block, both rounded up]."""
    wanted = tuple(-(-size // step) for size, step in zip(weight.shape, block, strict=True))
    if tuple(scale.shape) != wanted:
        raise ModelError(
            f"{name}{SCALE_SUFFIX} is {list(scale.shape)}; {name} of {list(weight.shape)} in blocks of {list(block)} needs "
            f"{list(wanted)}. Copy config.json and the weights from the same source"
        )
    return multiply_blocks(weight.to(torch.float32), scale.float(), block)


def quantise(x: Tensor, block: Block, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """E4M3 of x's shape, and fp32 scales [..., rows / block, columns / block, both rounded up]: x is about their product.

    A block's scale is its largest magnitude / 448, or the power of two from there up. NaN or infinity makes its block NaN.
    """
    blocks = _in_blocks(x.float(), block)
    scale = _scales(blocks, power_of_two)
    values = (blocks / scale).to(torch.float8_e4m3fn)
    return _whole(values, x), scale.squeeze((-3, -1))


def multiply_blocks(values: Tensor, scale: Tensor, block: Block) -> Tensor:
    """Each block of `values` times its scale."""
    return _whole(_in_blocks(values, block) * scale[..., :, None, :, None], values)


def round_blocks(x: Tensor, block: Block, power_of_two: bool = False) -> Tensor:
    """fp32: what `quantise` keeps of x, bit for bit. A cast to E4M3 and back takes CPUs five times as long."""
    if x.mT.is_contiguous() and not x.is_contiguous():
        return round_blocks(x.mT, block[::-1], power_of_two).mT
    if can_fuse(x):
        return fused.round_blocks(x, block, power_of_two)
    blocks = _in_blocks(x.float(), block)
    scale = _scales(blocks, power_of_two)
    return _whole(_round_e4m3(blocks / scale).mul_(scale), x)


def _round_e4m3(x: Tensor) -> Tensor:
    """The nearest E4M3, ties to even, of magnitudes up to 448, in fp32.

    Next to 1.5 * 2^20 times its own power of two a number keeps 3 bits behind the first; below 2^-6 steps stay 2^-9.
    """
    exponent = (x.view(torch.int32) & 0x7F800000).clamp_min_((127 - 6) << 23)
    large = exponent.add_((20 << 23) + (1 << 22)).view(torch.float32)
    return (x + large).sub_(large)


def _scales(blocks: Tensor, power_of_two: bool) -> Tensor:
    """[..., rows / block, 1, columns / block, 1]; a block of zeros gets one that is not zero."""
    scale = (blocks.abs().amax((-3, -1), keepdim=True) / LARGEST).clamp_min_(_SMALLEST_SCALE)
    if not power_of_two:
        return scale
    fraction, exponent = torch.frexp(scale)
    above = torch.ldexp(torch.ones_like(scale), torch.where(fraction == 0.5, exponent - 1, exponent))
    return torch.where(scale.isfinite(), above, scale)


def _in_blocks(x: Tensor, block: Block) -> Tensor:
    """[..., rows, columns] -> [..., rows / block, block, columns / block, block], zeros where the last ones stick out."""
    rows, columns = (-size % step for size, step in zip(x.shape[-2:], block, strict=True))
    padded = F.pad(x, (0, columns, 0, rows)) if rows or columns else x
    down, across = padded.shape[-2] // block[0], padded.shape[-1] // block[1]
    return padded.view(*padded.shape[:-2], down, block[0], across, block[1])


def _whole(blocks: Tensor, like: Tensor) -> Tensor:
    """The way back, cut to `like`'s rows and columns."""
    return blocks.flatten(-2).flatten(-3, -2)[..., : like.shape[-2], : like.shape[-1]]
