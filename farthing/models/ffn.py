"""Hidden states -> transformed hidden states, token by token. SwiGLU (arXiv:2002.05202)."""

from torch import Tensor, nn

from farthing.models.fused import swiglu
from farthing.models.linear import Linear


class DenseFFN(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one fused projection: rows [ffn | ffn] of `gate_up.weight`."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * ffn_width, bias=False)
        self.down = Linear(ffn_width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.down(swiglu(self.gate_up(x_BTD)))
        return out_BTD

    @property
    def is_plain(self) -> bool:
        return self.gate_up.is_plain and self.down.is_plain
