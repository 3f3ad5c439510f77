"""x W^T + b, where generation on CPUs reads the weight from a copy that oneDNN has put into the order its kernels want.

A matmul of few rows spends most of its time re-ordering the weight: with 32 rows the packed one is 1.3 to 2.6 times as fast,
with 8 up to three times, with 500 it makes no difference. The copy costs the weight's bytes again. It belongs to
one version of the weight and is not used for any other, so a forgotten `pack` costs time, never correctness.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS_HINT = 32


class PackedWeight:
    """How a Linear multiplies: from the weight's packed copy, if it has one. `models/fp8_linear.py` has another way."""

    def __init__(self) -> None:
        self._packed: Tensor | None = None
        self._of: tuple[int, int] | None = None

    def refresh(self, weight: Tensor) -> None:
        """Packs `weight`, unless it is the one packed already."""
        if self._of != identity(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.seen_weight(weight), _ROWS_HINT)
            self._of = identity(weight)

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x weight^T + bias; from the packed copy where it is current and no gradient is wanted."""
        if torch.is_grad_enabled() or not self.is_packed(weight):
            return F.linear(x, weight, bias)
        return self._multiply_packed(x, bias)

    def seen_weight(self, weight: Tensor) -> Tensor:
        """`weight` as the product sees it, without gradient; for those who take the product apart (models/mla.py)."""
        return weight.detach()

    def seen_input(self, x: Tensor) -> Tensor:
        """`x` as the product sees it."""
        return x

    def is_packed(self, weight: Tensor) -> bool:
        """Whether there is a copy, and it is of this version of the weight."""
        return self._packed is not None and self._of == identity(weight)

    def _multiply_packed(self, x: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
        return product

    def drop(self) -> None:
        """Gives the copy's memory back."""
        self._packed = self._of = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedWeight":
        return PackedWeight()


class Linear(nn.Linear):
    """nn.Linear with a packed copy of its weight; parameters and their names are the same."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.packed = PackedWeight()

    def forward(self, x: Tensor) -> Tensor:
        return self.packed.multiply(x, self.weight, self.bias)


def can_pack(weight: Tensor) -> bool:
    """fp32 on CPUs with oneDNN, bf16 where the CPU multiplies it."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported())


def identity(weight: Tensor) -> tuple[int, int]:
    """Changes with every write to the weight, and when other memory takes its place."""
    return weight._version, weight.data_ptr()
