"""x W^T + b, where generation on CPUs has a kernel of its own for few rows, and for some rows a packed copy of the weight.

A matmul of few rows spends most of its time re-ordering the weight, so oneDNN is given a copy that is in the order its kernels
want: with 32 rows the packed one is 1.3 to 2.6 times as fast, with 500 it makes no difference. The copy costs the
weight's bytes again. It belongs to one version of the weight and is not used for any other, so a forgotten `pack` costs time,
never correctness. Of less work than oneDNN's call itself costs, the product is `linear_few`'s: twice to four times as fast.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farthing.models.fused import can_fuse, linear_few

_ROWS_HINT = 32
ALWAYS_FEW, FEW_ROWS, FEW_PRODUCTS = 4, 32, 1 << 20
"""`linear_few` is faster than oneDNN with a packed weight up to the first number of rows, and up to the second where that makes
no more multiplications than the third."""


class PackedWeight:
    """How a Linear multiplies: from the weight's packed copy, if it has one. `models/fp8_linear.py` has another way."""

    def __init__(self) -> None:
        self._packed: Tensor | None = None
        self._of: tuple[tuple[int, int], ...] = ()

    def refresh(self, *weights: Tensor) -> None:
        """Packs `weights` (several: one below the other, see `multiply_both`), unless they are what is packed already."""
        if not self.is_packed(*weights):
            seen = [self.seen_weight(weight) for weight in weights]
            self._packed = torch.ops.mkldnn._reorder_linear_weight(seen[0] if len(seen) == 1 else torch.cat(seen), _ROWS_HINT)
            self._of = tuple(map(identity, weights))

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x weight^T + bias; without a gradient by the kernel for few rows, or from the packed copy where that is current."""
        if torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        if is_few(x.numel() // x.shape[-1], weight) and can_fuse(x, weight):
            return linear_few(x, weight, bias)
        return self._multiply_packed(x, bias) if self.is_packed(weight) else F.linear(x, weight, bias)

    def seen_weight(self, weight: Tensor) -> Tensor:
        """`weight` as the product sees it, without gradient; for those who take the product apart (models/mla.py)."""
        return weight.detach()

    def seen_input(self, x: Tensor) -> Tensor:
        """`x` as the product sees it."""
        return x

    def is_packed(self, *weights: Tensor) -> bool:
        """Whether there is a copy, and it is of this version of these weights."""
        return self._packed is not None and self._of == tuple(map(identity, weights))

    def _multiply_packed(self, x: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
        return product

    def drop(self) -> None:
        """Gives the copy's memory back."""
        self._packed, self._of = None, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedWeight":
        return PackedWeight()


class Linear(nn.Linear):
    """nn.Linear with a packed copy of its weight; parameters and their names are the same."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.packed = PackedWeight()

    @property
    def is_plain(self) -> bool:
        """Whether its products are of the weight itself, as they are unless training is in fp8."""
        return type(self.packed) is PackedWeight

    def forward(self, x: Tensor) -> Tensor:
        return self.packed.multiply(x, self.weight, self.bias)


def multiply_both(x: Tensor, left: Linear, right: Linear, packed: PackedWeight) -> tuple[Tensor, Tensor]:
    """left(x) and right(x), which have no bias: parts of one product where `packed` holds both weights, and x many rows."""
    is_one = left.is_plain and right.is_plain and packed.is_packed(left.weight, right.weight)
    if torch.is_grad_enabled() or not is_one or is_few(x.numel() // x.shape[-1], left.weight):
        return left(x), right(x)
    both = packed._multiply_packed(x, None)
    return both[..., : left.out_features], both[..., left.out_features :]


def is_few(rows: int, weight: Tensor) -> bool:
    """Whether a product of so many rows is `linear_few`'s."""
    return rows <= ALWAYS_FEW or (rows <= FEW_ROWS and rows * weight.numel() <= FEW_PRODUCTS)


def can_pack(weight: Tensor) -> bool:
    """fp32 on CPUs with oneDNN, bf16 where the CPU multiplies it."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported())


def identity(weight: Tensor) -> tuple[int, int]:
    """Changes with every write to the weight, and when other memory takes its place."""
    return weight._version, weight.data_ptr()
