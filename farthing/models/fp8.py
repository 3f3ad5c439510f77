"""E4M3 weights with one scale per block -> plain weights; the format DeepSeek-V3 and R1 are published in.

`NAME.weight` is float8_e4m3fn and `NAME.weight_scale_inv` holds, in spite of its name, the factor that each block of 128 x 128
is multiplied by (arXiv:2412.19437, section 3.3).
"""

import torch
from torch import Tensor

from farthing.errors import ModelError

SCALE_SUFFIX = "_scale_inv"


def dequantise(name: str, weight: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """fp32 [rows, columns] from E4M3 [rows, columns] and fp32 [rows / block, columns / block, both rounded up]."""
    wanted = tuple(-(-size // step) for size, step in zip(weight.shape, block, strict=True))
    if tuple(scale.shape) != wanted:
        raise ModelError(
            f"{name}{SCALE_SUFFIX} is {list(scale.shape)}; {name} of {list(weight.shape)} in blocks of {list(block)} needs "
            f"{list(wanted)}. Copy config.json and the weights from the same source"
        )
    spread = scale.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return weight.to(torch.float32) * spread[: weight.shape[0], : weight.shape[1]]
