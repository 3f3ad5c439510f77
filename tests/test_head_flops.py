"""completion_logprobs against a plain log_softmax over everything; the head's work against the positions it needs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from farthing.data.batches import Row, microbatches
from farthing.models.decoder import Decoder, init_weights
from farthing.models.head import ROUND_LOGITS, completion_logprobs
from farthing.models.shape import ModelShape

SHAPE = ModelShape(
    vocab_size=50,
    width=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_width=8,
    ffn_width=24,
    max_positions=41,
    init_std=0.3,
)


@pytest.fixture(scope="module")
def model() -> Decoder:
    decoder = Decoder(SHAPE)
    init_weights(decoder, seed=2)
    return decoder


def row(length: int, num_prompt: int) -> Row:
    return Row(torch.randint(1, 50, (length,), generator=torch.Generator().manual_seed(length)).tolist(), num_prompt)


def test_values_and_gradients_equal_the_whole_softmax(model: Decoder) -> None:
    group = row(20, 9)
    rows = [row(30, 9), row(7, 6), row(12, 1), group, Row([*group.tokens[:9], *row(25, 0).tokens], 9)]
    batches = microbatches(rows, 10_000)
    grads = [torch.zeros_like(p) for p in model.parameters()]
    total = torch.zeros(())
    for batch in batches:
        logprobs_BT, entropy_BT = completion_logprobs(model, batch, 0.7)
        for grad, part in zip(grads, torch.autograd.grad(logprobs_BT.sum(), list(model.parameters())), strict=True):
            grad += part
        for b, i in enumerate(batch.rows):
            tokens = torch.tensor(rows[i].tokens)
            log_probs = (model.logits(model(tokens[None])[0]) / 0.7).log_softmax(-1)
            chosen = log_probs[:-1].gather(1, tokens[1:, None])[rows[i].num_prompt - 1 :, 0]
            entropy = -(log_probs.exp() * log_probs).sum(-1)[rows[i].num_prompt - 1 : -1]
            torch.testing.assert_close(logprobs_BT[b][batch.loss_mask_BT[b]], chosen, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(entropy_BT[b][batch.loss_mask_BT[b]], entropy, atol=1e-5, rtol=1e-5)
            total = total + chosen.sum()
        assert not logprobs_BT[~batch.loss_mask_BT].any()
        assert not entropy_BT[~batch.loss_mask_BT].any()
    assert [len(batch.rows) for batch in batches] == [2, 3], "the two on one prompt share it"
    for got, wanted in zip(grads, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_a_row_may_fill_the_model_although_its_batch_is_rounded_beyond(model: Decoder) -> None:
    full = row(SHAPE.max_positions, 3)
    (batch,) = microbatches([full], 10_000)
    assert batch.tokens_1S.shape[1] > SHAPE.max_positions
    logprobs_BT, _ = completion_logprobs(model, batch)
    tokens = torch.tensor(full.tokens)
    whole = model.logits(model(tokens[None])[0]).log_softmax(-1)[:-1].gather(1, tokens[1:, None])[2:, 0]
    torch.testing.assert_close(logprobs_BT[0], whole, atol=1e-5, rtol=1e-5)


def test_the_head_sees_only_positions_that_carry_loss(model: Decoder) -> None:
    (batch,) = microbatches([Row([i, *row(39, 0).tokens], 30) for i in range(40)], 10_000)
    needed = -(-len(batch.targets_R) // ROUND_LOGITS) * ROUND_LOGITS
    assert needed < batch.tokens_1S.numel() / 2
    with torch.no_grad():
        with FlopCounterMode(display=False) as body:
            model(batch.tokens_1S, batch.positions_1S, batch.attend)
        with FlopCounterMode(display=False) as whole:
            completion_logprobs(model, batch)
    assert whole.get_total_flops() - body.get_total_flops() == 2 * needed * SHAPE.width * SHAPE.vocab_size
