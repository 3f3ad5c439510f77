"""x, W -> x W^T with all three products of a linear layer in FP8: the training recipe of arXiv:2412.19437, section 3.3.

    Fprop  y = x W^T      x in tiles of 1 x 128 (one token, 128 channels), W in blocks of 128 x 128
    Dgrad  dx = dy W      dy in tiles of 1 x 128, the same W
    Wgrad  dW = dy^T x    sums over tokens, so both are tiled along them, 128 tokens of one channel; x from its rounded form,
                          which is all that V3 keeps of it for the backward pass

Everything is E4M3 and scaled online by its largest magnitude. Scales are real numbers but for those that V3 rounds to powers
of two: of the input of the projection behind attention, of the input of routed experts, and of the gradient that enters their
down-projections. Embedding, head, routers, norms, attention itself and the projection of multi-token prediction are not touched
(the last one is bf16 in DeepSeek's checkpoint too).

On GPUs of compute capability 9.0 the products are cuBLAS's block-scaled ones. Everywhere else they are emulated: operands are
rounded exactly so, and multiplied in fp32. Where we differ: the E5M6 of one kept activation, FP8 for SwiGLU's kept inputs,
and the tensor cores' short accumulator are not modelled (see bench/fp8.py for the last).

Shapes: M rows (tokens), I input channels, O output channels, E experts.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farthing.models.attention import GroupedQueryAttention
from farthing.models.fp8 import Block, multiply_blocks, quantise, round_blocks
from farthing.models.linear import Linear, PackedWeight, identity
from farthing.models.mla import LatentAttention
from farthing.models.moe import Experts, grouped_linear, runs
from farthing.models.mtp import MtpModule

TILE: Block = (1, 128)
WEIGHT_BLOCK: Block = (128, 128)
EMULATED = (
    "precision fp8 is emulated here: operands are rounded to FP8 as DeepSeek-V3 rounds them, and multiplied in fp32; it takes "
    "longer than without. FP8 products need an NVIDIA GPU of compute capability 9.0 (H100, H800, H200) and torch for CUDA 12.9"
)

Operand = tuple[Tensor, ...]
"""One fp32 tensor, already rounded, where products are emulated; E4M3 values and their scales on a device that multiplies them.
Rows, experts and the transpose of an operand are those of each of its tensors."""


def use_fp8(model: nn.Module, on: bool = True) -> None:
    """Sets how every linear layer and routed expert of `model` multiplies; parameters stay what and where they are."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.packed = Fp8Weight() if on else PackedWeight()
        elif isinstance(module, Experts):
            up, down = Fp8Weight(even_input=True), Fp8Weight(even_grad=True)
            module.products = (up.multiply_grouped, down.multiply_grouped) if on else (grouped_linear, grouped_linear)
    for module in model.modules():
        if isinstance(module, GroupedQueryAttention | LatentAttention) and on:
            module.out.packed = Fp8Weight(even_input=True)
        elif isinstance(module, MtpModule):
            module.project.packed = PackedWeight()


class Fp8Weight(PackedWeight):
    """How one weight, or the weights of all experts, multiply in fp8. The weight is rounded once for each of its versions."""

    def __init__(self, even_input: bool = False, even_grad: bool = False) -> None:
        super().__init__()
        self.even_input, self.even_grad = even_input, even_grad
        """Scales of these are powers of two."""
        self._rounded: Operand = ()
        self._rounded_of: tuple[int, int] | None = None

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled() and self.is_packed(weight):
            bias = None if bias is None else bias.float()
            return self._multiply_packed(round_blocks(x, TILE, self.even_input), bias).to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        out = self._multiply(rows, weight[None], self._operand(weight, weight[None]), [len(rows)])
        out = out.view(*x.shape[:-1], -1)
        return out if bias is None else out + bias

    def multiply_grouped(self, x_MI: Tensor, weight_EOI: Tensor, counts: list[int]) -> Tensor:
        """`moe.grouped_linear` in fp8."""
        return self._multiply(x_MI, weight_EOI, self._operand(weight_EOI, weight_EOI), counts)

    def seen_weight(self, weight: Tensor) -> Tensor:
        return _decode(self._operand(weight, weight[None]), WEIGHT_BLOCK)[0]

    def seen_input(self, x: Tensor) -> Tensor:
        return round_blocks(x, TILE, self.even_input).to(x.dtype)

    def _multiply(self, x_MI: Tensor, weight_EOI: Tensor, rounded: Operand, counts: list[int]) -> Tensor:
        out_MO: Tensor = _Product.apply(x_MI, weight_EOI, rounded, counts, self.even_input, self.even_grad)  # type: ignore[no-untyped-call]
        return out_MO

    def _operand(self, weight: Tensor, weight_EOI: Tensor) -> Operand:
        if self._rounded_of != identity(weight):
            # the engine may be the first to ask, and what inference mode makes cannot be trained with
            with torch.inference_mode(False), torch.no_grad():
                self._rounded = _encode(weight_EOI.detach(), WEIGHT_BLOCK, False)
            self._rounded_of = identity(weight)
        return self._rounded

    def __deepcopy__(self, memo: dict[int, Any]) -> "Fp8Weight":
        return Fp8Weight(self.even_input, self.even_grad)


class _Product(torch.autograd.Function):
    """Each run of rows of x times the transpose of its own expert's weight."""

    @staticmethod
    def forward(
        ctx: Any, x_MI: Tensor, weight_EOI: Tensor, rounded: Operand, counts: list[int], even_input: bool, even_grad: bool
    ) -> Tensor:
        x = _encode(x_MI, TILE, even_input)
        ctx.save_for_backward(*x, *rounded)
        ctx.counts, ctx.even_input, ctx.even_grad = counts, even_input, even_grad
        ctx.dtype, ctx.weight_dtype, ctx.weight_size = x_MI.dtype, weight_EOI.dtype, weight_EOI.shape
        parts = [_matmul(_part(x, rows), _part(rounded, expert), x_MI.dtype) for expert, rows in runs(counts)]
        return _joined(parts, x_MI, weight_EOI.shape[1])

    @staticmethod
    def backward(ctx: Any, grad_MO: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, weight = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        grad = _encode(grad_MO, TILE, ctx.even_grad)
        grad_weight = grad_MO.new_zeros(ctx.weight_size, dtype=ctx.weight_dtype)
        parts = []
        for expert, rows in runs(ctx.counts):
            parts.append(_matmul(_part(grad, rows), _transposed(_part(weight, expert)), ctx.dtype))
            # V3 reads what it kept of x, transposes it and rounds it again in tiles along the tokens; a gradient with even
            # scales has come to its expert in FP8, so there too nothing else is left
            x_IM = _encode(_decode(_part(x, rows), TILE).mT, TILE, ctx.even_input)
            arrived = _decode(_part(grad, rows), TILE) if ctx.even_grad else grad_MO[rows]
            grad_OM = _encode(arrived.mT, TILE, ctx.even_grad)
            grad_weight[expert] = _matmul(grad_OM, x_IM, ctx.weight_dtype, TILE)
        return _joined(parts, grad_MO, ctx.weight_size[2]), grad_weight, None, None, None, None


def _joined(parts: list[Tensor], like: Tensor, width: int) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else like.new_empty(0, width)


# operands ------------------------------------------------------------------------------------------------------------------


def has_fp8_products(device: torch.device) -> bool:
    """Whether cuBLAS multiplies E4M3 with scales per 1 x 128 and 128 x 128 there: compute capability 9.0, CUDA from 12.9 on."""
    if device.type != "cuda" or torch.version.cuda is None or not hasattr(F, "scaled_mm"):
        return False
    cuda = tuple(int(part) for part in torch.version.cuda.split(".")[:2])
    return cuda >= (12, 9) and torch.cuda.get_device_capability(device) == (9, 0)


def _encode(x: Tensor, block: Block, power_of_two: bool) -> Operand:
    if has_fp8_products(x.device):
        return quantise(x, block, power_of_two)
    return (round_blocks(x, block, power_of_two),)


def _decode(operand: Operand, block: Block) -> Tensor:
    """The numbers that an operand stands for, fp32."""
    return operand[0] if len(operand) == 1 else multiply_blocks(operand[0].float(), operand[1], block)


def _part(operand: Operand, index: int | slice) -> Operand:
    return tuple(tensor[index] for tensor in operand)


def _transposed(operand: Operand) -> Operand:
    return tuple(tensor.mT for tensor in operand)


def _matmul(a: Operand, b: Operand, dtype: torch.dtype, b_block: Block = WEIGHT_BLOCK) -> Tensor:
    """a b^T; a is in tiles of 1 x 128."""
    if len(a) == 1:
        return (a[0] @ b[0].mT).to(dtype)
    return _matmul_on_device(a, b, dtype, b_block)


def _matmul_on_device(a: Operand, b: Operand, dtype: torch.dtype, b_block: Block) -> Tensor:
    """cuBLAS wants sizes in whole blocks. Never run on such a GPU by us; a test has torch check sizes and layouts."""
    kinds = {TILE: F.ScalingType.BlockWise1x128, WEIGHT_BLOCK: F.ScalingType.BlockWise128x128}
    scale_b = _tile_scales(b[1]) if b_block == TILE else _block_scales(b[1])
    scales = (_tile_scales(a[1]), kinds[TILE], scale_b, kinds[b_block])
    product = F.scaled_mm(_whole_blocks(a[0]), _whole_blocks(b[0]).t(), *scales, output_dtype=dtype)
    return product[: len(a[0]), : len(b[0])]


def _tile_scales(scale: Tensor) -> Tensor:
    """For rows in whole blocks, the scales of all rows' first tiles next to each other in memory."""
    return F.pad(scale, (0, 0, 0, -len(scale) % 128)).t().contiguous().t()


def _block_scales(scale: Tensor) -> Tensor:
    """[columns / 128 rounded up to fours, rows / 128], the scales of a row of blocks next to each other in memory."""
    return F.pad(scale, (0, -scale.shape[1] % 4)).contiguous().t()


def _whole_blocks(values: Tensor) -> Tensor:
    """E4M3 padded with zeros to multiples of 128, row after row in memory."""
    rows, columns = (-size % 128 for size in values.shape)
    return F.pad(values.contiguous().view(torch.uint8), (0, columns, 0, rows)).view(torch.float8_e4m3fn)
