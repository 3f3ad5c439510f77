"""A microbatch -> the pretraining loss: the next token, tokens further ahead (MTP), and balance between experts.

Loss and weights of DeepSeek-V3 (arXiv:2412.19437, eq. 17 to 25). Every denominator is counted over the whole optimizer
step first, so the split into microbatches does not change the update.

Shapes: S flat tokens of a microbatch, R tokens that carry loss, N tokens as the routers see them, E routed experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from farthing.config import ExpertsConfig, MtpConfig
from farthing.data.batches import Microbatch
from farthing.loss import cross_entropy
from farthing.models.decoder import Decoder
from farthing.models.head import total_logprob
from farthing.models.moe import Routing, add_loads


@dataclass(frozen=True)
class Weights:
    """Of the terms beside next-token cross-entropy, at one step; 0 leaves a term out."""

    mtp: float
    balance: float

    @classmethod
    def at(cls, step: int, num_steps: int, model: Decoder, mtp: MtpConfig, experts: ExpertsConfig) -> "Weights":
        is_late = step >= mtp.later_from * num_steps
        return cls(
            mtp=(mtp.later_weight if is_late else mtp.weight) if model.shape.mtp_depth else 0.0,
            balance=experts.balance_coef if model.shape.moe else 0.0,
        )


@dataclass
class Tally:
    """What an optimizer step adds up over its microbatches."""

    loss: float = 0.0
    """Next-token cross-entropy alone, nats per token."""
    mtp_loss: float = 0.0
    """The same for tokens further ahead, mean over depths."""
    balance_loss: float = 0.0
    """Sequence-wise balance loss, mean over sequences and layers, without its coefficient; 1 is even."""
    loads: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> fp32 [E] tokens that chose each expert."""


class Objective:
    """The loss of one optimizer step; `backward` adds a microbatch's gradient to the model and its numbers to `tally`."""

    def __init__(self, model: Decoder, batches: Sequence[Microbatch], weights: Weights) -> None:
        self.model, self.weights, self.tally = model, weights, Tally()
        self.num_loss_tokens = sum(len(b.targets_R) for b in batches)
        self.num_ahead = [sum(len(ahead(b, depth)[0]) for b in batches) for depth in range(model.shape.mtp_depth)]
        self.num_sequences = sum(len(b.rows) for b in batches)

    def backward(self, batch: Microbatch) -> None:
        model, weights = self.model, self.weights
        batch = batch.to(model.embed.weight.device)
        routing = Routing(sequences(batch), len(batch.rows), weights.balance > 0) if model.shape.moe else None
        hidden_1SD = model(batch.tokens_1S, batch.positions_1S, batch.attend, routing)
        total = total_logprob(model, hidden_1SD.squeeze(0), batch.sources_R, batch.targets_R)
        loss = cross_entropy(total, self.num_loss_tokens)
        self.tally.loss += float(loss.detach())
        if weights.mtp:
            mtp_loss = self._mtp_loss(hidden_1SD, batch, routing)
            self.tally.mtp_loss += float(mtp_loss.detach())
            loss = loss + weights.mtp * mtp_loss
        if routing is not None:
            add_loads(self.tally.loads, routing.loads)
            if routing.balance:
                balance = torch.stack(list(routing.balance.values())).sum() / self.num_sequences
                self.tally.balance_loss += float(balance.detach()) / len(routing.balance)
                loss = loss + weights.balance * balance
        torch.autograd.backward(loss)

    def _mtp_loss(self, hidden_1SD: Tensor, batch: Microbatch, routing: Routing | None) -> Tensor:
        next_1S = batch.tokens_1S.roll(-1, dims=1)
        next_1S[0, batch.sources_R] = batch.targets_R
        sequences_S = sequences(batch)
        total = torch.zeros((), device=hidden_1SD.device)
        for depth, num_tokens in enumerate(self.num_ahead):
            if routing is not None:
                # the last `depth` places of a row look beyond its end: what they choose counts nowhere
                routing.sequences_N = sequences_S.where(sequences_S.roll(-depth) == sequences_S, -1)
            hidden_1SD = self.model.look_ahead(depth, hidden_1SD, next_1S, batch.positions_1S, batch.attend, routing)
            logprob = total_logprob(self.model, hidden_1SD.squeeze(0), *ahead(batch, depth))
            total = total + cross_entropy(logprob, num_tokens)
            # what rolls in from the next sequence stands only where nothing is predicted, and no other place sees it
            next_1S = next_1S.roll(-1, dims=1)
        if routing is not None:
            # the backward pass may recompute the layers below, and they must be recorded as before
            routing.sequences_N = sequences_S
        return total / max(len(self.num_ahead), 1)


def ahead(batch: Microbatch, depth: int) -> tuple[Tensor, Tensor]:
    """Places whose module `depth` predicts a loss token of the same row, and those tokens, depth + 2 places on."""
    rows_R = batch.loss_mask_BT.nonzero()[:, 0]
    skip = depth + 1
    is_same_row = rows_R[skip:] == rows_R[:-skip]
    return batch.sources_R[:-skip][is_same_row], batch.targets_R[skip:][is_same_row]


def sequences(batch: Microbatch) -> Tensor:
    """The row that each flat token belongs to, [S]; -1 where there is none. Rows must not share prompts."""
    # positions start again at 0 with every row
    ids = (batch.positions_1S[0] == 0).cumsum(0) - 1
    ids[batch.num_tokens :] = -1
    return ids
