"""Hidden states and target tokens -> logprobs and entropies, without a tokens x vocabulary tensor ever existing whole.

The head's matmul, the softmax and its gradient run over chunks of rows; the backward pass recomputes the logits of each
chunk instead of keeping them (the idea of Cut Cross-Entropy, arXiv:2411.09009, in plain PyTorch).

Shapes: R rows (tokens that carry loss), D width, V vocabulary, S flat tokens of a microbatch; B rollouts, T tokens of each.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from farthing.data.batches import Microbatch
from farthing.models.decoder import Decoder

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once: 16M, 64 MiB in fp32."""
ROUND_CHUNK = 16
"""Rows of a chunk, where it has so many: products of other numbers of rows are slower."""
ROUND_LOGITS = 128


def token_logprobs(model: Decoder, hidden_RD: Tensor, targets_R: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """fp32 logprobs of `targets_R` under softmax(logits / temperature); entropies in nats (no gradient); both [R]."""
    hidden_RD, weight_VD = _as_multiplied(hidden_RD, model.head_weight)
    logprobs_R, entropy_R = _TokenLogprobs.apply(hidden_RD, weight_VD, targets_R, temperature)  # type: ignore[no-untyped-call]
    return logprobs_R, entropy_R


def completion_logprobs(model: Decoder, batch: Microbatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Forward pass of a microbatch -> logprobs and entropies of the tokens that carry loss, [B, T], zero elsewhere.

    Both are on the model's device, wherever the batch is.
    """
    batch = batch.to(model.embed.weight.device)
    hidden_SD = model(batch.tokens_1S, batch.positions_1S, batch.attend).squeeze(0)
    logprobs_R, entropy_R = source_logprobs(model, hidden_SD, batch.sources_R, batch.targets_R, temperature)
    zeros_BT = torch.zeros(batch.loss_mask_BT.shape, device=hidden_SD.device)
    laid_out = (zeros_BT.masked_scatter(batch.loss_mask_BT, x) for x in (logprobs_R, entropy_R))
    return next(laid_out), next(laid_out)


def source_logprobs(
    model: Decoder, hidden_SD: Tensor, sources_R: Tensor, targets_R: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` of `targets_R` from the hidden states at the places `sources_R`.

    The head sees only those places, their number rounded up to `ROUND_LOGITS` (the rest repeats place 0 and is thrown away),
    so that its matmuls see few shapes.
    """
    num_real = len(targets_R)
    sources_R, targets_R = (F.pad(x, (0, -num_real % ROUND_LOGITS)) for x in (sources_R, targets_R))
    logprobs_R, entropy_R = token_logprobs(model, hidden_SD.index_select(0, sources_R), targets_R, temperature)
    return logprobs_R[:num_real], entropy_R[:num_real]


def total_logprob(model: Decoder, hidden_SD: Tensor, sources_R: Tensor, targets_R: Tensor) -> Tensor:
    """fp32 sum of the logprobs of `targets_R`, for losses in which every token weighs alike.

    What `source_logprobs(...).sum()` is, at three quarters of the work: the gradient by the logits is known up to one factor as
    soon as they are, so that the backward pass need not compute them again (as in Liger Kernel, arXiv:2410.10989).
    """
    num_real = len(targets_R)
    sources_R, targets_R = (F.pad(x, (0, -num_real % ROUND_LOGITS)) for x in (sources_R, targets_R))
    hidden_RD, weight_VD = _as_multiplied(hidden_SD.index_select(0, sources_R), model.head_weight)
    return _TotalLogprob.apply(hidden_RD, weight_VD, targets_R, num_real)  # type: ignore[no-any-return,no-untyped-call]


def _as_multiplied(hidden_RD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """In autocast's type, where it is on: a backward pass runs outside of it, and must see the same logits as fast."""
    device = hidden_RD.device.type
    if not torch.is_autocast_enabled(device):
        return hidden_RD, weight_VD
    dtype = torch.get_autocast_dtype(device)
    return hidden_RD.to(dtype), weight_VD.to(dtype)


def _chunk_rows(vocab_size: int) -> int:
    rows = max(1, CHUNK_ELEMENTS // vocab_size)
    return rows - rows % ROUND_CHUNK if rows > ROUND_CHUNK else rows


class _Logits:
    """Logits of one chunk after another, in memory taken once: a large tensor taken anew costs as much as the product in it."""

    def __init__(self, hidden_RD: Tensor, weight_VD: Tensor, temperature: float) -> None:
        self.weight_VD, self.temperature = weight_VD, temperature
        self.chunks = list(chunks(len(hidden_RD), len(weight_VD)))
        shape = (self.chunks[0].stop if self.chunks else 0, len(weight_VD))
        self._product = hidden_RD.new_empty(shape)
        self.fp32 = self._product if hidden_RD.dtype == torch.float32 else hidden_RD.new_empty(shape, dtype=torch.float32)

    def of(self, hidden_RD: Tensor) -> Tensor:
        """fp32 [rows, V], good until the next call."""
        product = torch.mm(hidden_RD, self.weight_VD.T, out=self._product[: len(hidden_RD)])
        logits = self.fp32[: len(hidden_RD)].copy_(product) if product.dtype != torch.float32 else product
        return logits if self.temperature == 1 else logits.div_(self.temperature)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs_R, entropy_R, log_norm_R = torch.empty(3, len(hidden_RD), dtype=torch.float32, device=hidden_RD.device)
        held = _Logits(hidden_RD, weight_VD, temperature)
        spare = torch.empty_like(held.fp32)
        for rows in held.chunks:
            logits = held.of(hidden_RD[rows])
            top = logits.amax(dim=-1, keepdim=True)
            chosen = logits.gather(1, targets_R[rows, None])
            weights = torch.exp(logits.sub_(top), out=spare[: len(logits)])
            total = weights.sum(dim=-1, keepdim=True)
            log_norm_R[rows] = (top + total.log()).squeeze(1)
            logprobs_R[rows] = chosen.squeeze(1) - log_norm_R[rows]
            # entropy = log Z - E[logit - top], with Z over the shifted logits
            entropy_R[rows] = total.log().squeeze(1) - weights.mul_(logits).sum(dim=-1) / total.squeeze(1)
        ctx.save_for_backward(hidden_RD, weight_VD, targets_R, log_norm_R)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_R)
        return logprobs_R, entropy_R

    @staticmethod
    def backward(ctx: Any, grad_R: Tensor, _grad_entropy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_RD, weight_VD, targets_R, log_norm_R = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_RD)
        grad_weight = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
        held = _Logits(hidden_RD, weight_VD, ctx.temperature)
        for rows in held.chunks:
            scale = (grad_R[rows] / ctx.temperature)[:, None]
            grad_logits = held.of(hidden_RD[rows]).sub_(log_norm_R[rows, None]).exp_().mul_(-scale)
            grad_logits.scatter_add_(1, targets_R[rows, None], scale)
            grad_logits = grad_logits.to(hidden_RD.dtype)
            torch.mm(grad_logits, weight_VD, out=grad_hidden[rows])
            add_product(grad_weight, grad_logits.T, hidden_RD[rows])
        return grad_hidden, grad_weight.to(weight_VD.dtype), None, None


class _TotalLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, num_real: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_RD.device)
        is_trained = any(ctx.needs_input_grad)
        grad_hidden = torch.empty_like(hidden_RD) if is_trained else hidden_RD.new_empty(0)
        grad_weight = torch.zeros(weight_VD.shape if is_trained else (0,), dtype=torch.float32, device=weight_VD.device)
        held = _Logits(hidden_RD, weight_VD, 1.0)
        for rows in held.chunks:
            logits = held.of(hidden_RD[rows])
            top = logits.amax(dim=-1, keepdim=True)
            chosen = logits.gather(1, targets_R[rows, None])
            weights = logits.sub_(top).exp_()
            norm = weights.sum(dim=-1, keepdim=True)
            num_here = min(rows.stop, num_real) - rows.start
            total += (chosen - top - norm.log())[: max(num_here, 0)].sum()
            if is_trained:
                grad_logits = weights.div_(norm.neg_())
                grad_logits.scatter_add_(1, targets_R[rows, None], torch.ones_like(chosen))
                grad_logits[max(num_here, 0) :] = 0
                grad_logits = grad_logits.to(hidden_RD.dtype)
                torch.mm(grad_logits, weight_VD, out=grad_hidden[rows])
                add_product(grad_weight, grad_logits.T, hidden_RD[rows])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), (grad_weight * grad).to(ctx.dtype), None, None


def add_product(sum_VD: Tensor, left_VR: Tensor, right_RD: Tensor) -> None:
    """sum += left right, the sum in fp32 whatever they are in."""
    if left_VR.dtype == torch.float32:
        sum_VD.addmm_(left_VR, right_RD)
    else:
        sum_VD += left_VR @ right_RD


def chunks(num_rows: int, vocab_size: int) -> list[slice]:
    """Slices of rows whose logits may be held at once."""
    size = _chunk_rows(vocab_size)
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
