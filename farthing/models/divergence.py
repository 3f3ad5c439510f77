"""Hidden states of a student and a teacher -> how far apart their next-token distributions are, token by token.

As in head.py, no tokens x vocabulary tensor exists whole: both heads run over chunks of rows, and the backward pass computes
the logits of a chunk again. What is compared is the whole vocabulary, or the teacher's likeliest tokens with all others as one
more outcome (the student's gradient then reaches every token of the vocabulary all the same). The divergence is in loss.py.

Shapes: R rows (tokens that carry loss), D width, V vocabulary, K outcomes compared, S flat tokens of a microbatch.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from farthing.loss import Divergence, divergence
from farthing.models.decoder import Decoder
from farthing.models.head import ROUND_LOGITS, add_product, chunks


@dataclass(frozen=True)
class Comparison:
    """How two distributions are compared."""

    kind: Divergence = "forward"
    beta: float = 0.5
    top_k: int = 0
    """0: the whole vocabulary."""
    temperature: float = 1.0


class TokenDivergences(NamedTuple):
    """All fp32 [R], in nats."""

    divergence_R: Tensor
    """At the comparison's temperature."""
    logprobs_R: Tensor
    """Of the target tokens under the student, at temperature 1."""
    entropy_R: Tensor
    """Of the student at temperature 1, without gradient."""


def token_divergences(
    student: Decoder,
    hidden_SD: Tensor,
    teacher: Decoder,
    teacher_hidden_SD: Tensor,
    sources_R: Tensor,
    targets_R: Tensor,
    how: Comparison,
) -> TokenDivergences:
    """At the places `sources_R` of the same flat tokens. The teacher gets no gradient.

    Where one vocabulary is larger, its last entries are padding of the embedding beyond the tokenizer, and left out.
    """
    num_real = len(targets_R)
    sources_R, targets_R = (F.pad(x, (0, -num_real % ROUND_LOGITS)) for x in (sources_R, targets_R))
    size = min(student.shape.vocab_size, teacher.shape.vocab_size)
    with torch.no_grad():
        seen = _Whole(teacher_hidden_SD.index_select(0, sources_R), _head(teacher, size), how.temperature)
        view: _View = _Top.of(seen, how.top_k) if 0 < how.top_k < size else seen
    found = _TokenDivergences.apply(  # type: ignore[no-untyped-call]
        hidden_SD.index_select(0, sources_R), _head(student, size), targets_R, view, how
    )
    return TokenDivergences(*(x[:num_real] for x in found))


def _head(model: Decoder, size: int) -> Tensor:
    """[V, D] for the first `size` tokens; a slice costs a copy of the gradient, so only where there are more."""
    return model.head_weight if model.shape.vocab_size == size else model.head_weight[:size]


class _View(Protocol):
    """The teacher's side of the comparison, for the rows of a chunk."""

    def teacher(self, rows: slice) -> Tensor:
        """Its logprobs of the K outcomes."""

    def narrow(self, logprobs_RV: Tensor, rows: slice) -> Tensor:
        """The student's logprobs of the vocabulary -> of the same outcomes."""

    def widen(self, grad_RK: Tensor, logprobs_RV: Tensor, narrowed_RK: Tensor, rows: slice) -> Tensor:
        """A gradient by the logits of the outcomes -> by those of the vocabulary; may be computed in place."""


class _Whole:
    """Every token is an outcome."""

    def __init__(self, hidden_RD: Tensor, weight_VD: Tensor, temperature: float) -> None:
        self.hidden_RD, self.weight_VD, self.temperature = hidden_RD, weight_VD, temperature

    def teacher(self, rows: slice) -> Tensor:
        return _logprobs(self.hidden_RD[rows], self.weight_VD, self.temperature)

    def narrow(self, logprobs_RV: Tensor, rows: slice) -> Tensor:
        return logprobs_RV

    def widen(self, grad_RK: Tensor, logprobs_RV: Tensor, narrowed_RK: Tensor, rows: slice) -> Tensor:
        return grad_RK


class _Top:
    """The teacher's likeliest tokens, and all others together as the last outcome."""

    def __init__(self, tokens_RK: Tensor, logprobs_RK: Tensor) -> None:
        self.tokens_RK, self.logprobs_RK = tokens_RK, logprobs_RK

    @classmethod
    def of(cls, whole: _Whole, top_k: int) -> "_Top":
        tokens, logprobs = [], []
        for rows in chunks(len(whole.hidden_RD), len(whole.weight_VD)):
            logprobs_RV = whole.teacher(rows)
            tokens.append(logprobs_RV.topk(top_k, dim=1).indices)
            logprobs.append(_with_rest(logprobs_RV, tokens[-1]))
        return cls(torch.cat(tokens), torch.cat(logprobs))

    def teacher(self, rows: slice) -> Tensor:
        return self.logprobs_RK[rows]

    def narrow(self, logprobs_RV: Tensor, rows: slice) -> Tensor:
        return _with_rest(logprobs_RV, self.tokens_RK[rows])

    def widen(self, grad_RK: Tensor, logprobs_RV: Tensor, narrowed_RK: Tensor, rows: slice) -> Tensor:
        # the others share their outcome's gradient as they share its probability
        shares_RV = (logprobs_RV - narrowed_RK[:, -1:]).exp_()
        return shares_RV.mul_(grad_RK[:, -1:]).scatter_(1, self.tokens_RK[rows], grad_RK[:, :-1])


def _with_rest(logprobs_RV: Tensor, tokens_RK: Tensor) -> Tensor:
    """[R, K + 1]: the logprobs of `tokens_RK` and of all others together, added up without cancellation."""
    rest_R1 = logprobs_RV.scatter(1, tokens_RK, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat((logprobs_RV.gather(1, tokens_RK), rest_R1), dim=1)


def _logprobs(hidden_RD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    return F.linear(hidden_RD, weight_VD).float().div_(temperature).log_softmax(dim=1)


class _TokenDivergences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, view: _View, how: Comparison
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_rows = len(hidden_RD)
        divergence_R, logprobs_R, entropy_R = torch.empty(3, num_rows, dtype=torch.float32, device=hidden_RD.device)
        for rows in chunks(num_rows, len(weight_VD)):
            plain_RV = _logprobs(hidden_RD[rows], weight_VD, 1.0)
            student_RV = plain_RV if how.temperature == 1 else (plain_RV / how.temperature).log_softmax(dim=1)
            value_R, _ = divergence(view.teacher(rows), view.narrow(student_RV, rows), how.kind, how.beta)
            divergence_R[rows] = value_R
            logprobs_R[rows] = plain_RV.gather(1, targets_R[rows, None]).squeeze(1)
            entropy_R[rows] = -(plain_RV.exp() * plain_RV).sum(1)
        ctx.save_for_backward(hidden_RD, weight_VD, targets_R)
        ctx.view, ctx.how = view, how
        ctx.mark_non_differentiable(entropy_R)
        ctx.set_materialize_grads(False)
        return divergence_R, logprobs_R, entropy_R

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_RD, weight_VD, targets_R = ctx.saved_tensors
        view, how = ctx.view, ctx.how
        for_divergence_R, for_logprobs_R, _ = grads
        grad_hidden = torch.zeros_like(hidden_RD)
        grad_weight = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
        for rows in chunks(len(hidden_RD), len(weight_VD)):
            plain_RV = _logprobs(hidden_RD[rows], weight_VD, 1.0)
            grad_RV = torch.zeros_like(plain_RV)
            if for_divergence_R is not None:
                student_RV = plain_RV if how.temperature == 1 else (plain_RV / how.temperature).log_softmax(dim=1)
                narrowed_RK = view.narrow(student_RV, rows)
                _, grad_RK = divergence(view.teacher(rows), narrowed_RK, how.kind, how.beta)
                grad_RV = view.widen(grad_RK, student_RV, narrowed_RK, rows)
                grad_RV.mul_(for_divergence_R[rows, None] / how.temperature)
            if for_logprobs_R is not None:
                scale_R1 = for_logprobs_R[rows, None]
                grad_RV.sub_(plain_RV.exp().mul_(scale_R1)).scatter_add_(1, targets_R[rows, None], scale_R1)
            grad_RV = grad_RV.to(hidden_RD.dtype)
            torch.mm(grad_RV, weight_VD, out=grad_hidden[rows])
            add_product(grad_weight, grad_RV.T, hidden_RD[rows])
        return grad_hidden, grad_weight.to(weight_VD.dtype), None, None, None
