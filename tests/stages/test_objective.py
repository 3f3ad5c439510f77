"""The pretraining loss: invariant to its split into microbatches, equal to plain forward passes, and its schedule."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from farthing.config import ExpertsConfig, MtpConfig, PretrainConfig
from farthing.data.batches import Row, microbatches
from farthing.models.decoder import Decoder
from farthing.models.moe import moe_layers
from farthing.optim import Optimizer
from farthing.stages.objective import Objective, Tally, Weights
from farthing.stages.pretrain import balance_speed, update
from tests.models.deepseek_shapes import tiny_model

WEIGHTS = Weights(mtp=0.3, balance=0.05)


def rows() -> list[Row]:
    """Ragged; two begin alike; one has a single loss token, and so nothing further ahead."""
    generator = torch.Generator().manual_seed(3)
    sizes = ((19, 5), (12, 1), (30, 11), (7, 6), (25, 24), (3, 1))
    made = [Row(torch.randint(1, 61, (length,), generator=generator).tolist(), prompt) for length, prompt in sizes]
    return [*made, Row([*made[0].tokens[:5], 9, 8, 7, 6], 5)]


def gradients(model: Decoder, max_tokens: int, weights: Weights) -> tuple[list[torch.Tensor], Tally]:
    model.zero_grad()
    batches = microbatches(rows(), max_tokens, share_prompts=False)
    objective = Objective(model, batches, weights)
    for batch in batches:
        objective.backward(batch)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()], objective.tally


@pytest.mark.parametrize("depth", [1, 2])
def test_neither_the_split_into_microbatches_nor_recomputation_changes_anything(depth: int) -> None:
    model = tiny_model(mtp_depth=depth)
    whole, tally = gradients(model, 1 << 20, WEIGHTS)
    for max_tokens, model.recompute_activations in ((32, False), (80, True)):
        parts, again = gradients(model, max_tokens, WEIGHTS)
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
        for name in ("loss", "mtp_loss", "balance_loss"):
            assert getattr(again, name) == pytest.approx(getattr(tally, name), rel=1e-4)
        assert all(torch.equal(again.loads[layer], tally.loads[layer]) for layer in tally.loads)
    num_tokens = sum(len(r.tokens) - 1 for r in rows())
    expected = {1: num_tokens, 2: num_tokens, 3: num_tokens}
    # the second module has nothing to look at behind the last place of a row
    expected |= {4: num_tokens - len(rows())} if depth == 2 else {}
    assert {layer: int(load.sum()) for layer, load in tally.loads.items()} == {k: 3 * n for k, n in expected.items()}


def test_losses_equal_plain_forward_passes_of_every_row() -> None:
    model = tiny_model()
    _, tally = gradients(model, 64, WEIGHTS)
    now, ahead = [], []
    with torch.no_grad():
        for row in rows():
            tokens = torch.tensor(row.tokens)[None]
            hidden = model(tokens[:, :-1])
            first = max(row.num_prompt, 1) - 1
            now.append(F.cross_entropy(model.logits(hidden)[0, first:], tokens[0, first + 1 :], reduction="none"))
            further = model.look_ahead(0, hidden, tokens[:, 1:])
            ahead.append(F.cross_entropy(model.logits(further)[0, first:-1], tokens[0, first + 2 :], reduction="none"))
    assert tally.loss == pytest.approx(float(torch.cat(now).mean()), rel=1e-4)
    assert tally.mtp_loss == pytest.approx(float(torch.cat(ahead).mean()), rel=1e-4)
    assert tally.balance_loss >= 0.5


def test_a_weight_of_zero_leaves_the_term_out() -> None:
    model = tiny_model()
    grads, tally = gradients(model, 1 << 20, Weights(0.0, 0.0))
    named = dict(zip((name for name, _ in model.named_parameters()), grads, strict=True))
    assert all(not grad.any() for name, grad in named.items() if name.startswith("mtp."))
    assert (tally.mtp_loss, tally.balance_loss) == (0.0, 0.0)
    assert sorted(tally.loads) == [1, 2]


def config(**changes: Any) -> PretrainConfig:
    base = {"kind": "pretrain", "num_steps": 1000, "tasks": [{"spec": "toy:letter_walk"}], "optim": {"learning_rate": 1e-3}}
    return PretrainConfig.model_validate(base | changes)


def test_schedules_of_v3() -> None:
    model, experts, mtp = tiny_model(), ExpertsConfig(), MtpConfig()
    assert [Weights.at(step, 1000, model, mtp, experts).mtp for step in (0, 675, 676, 999)] == [0.3, 0.3, 0.1, 0.1]
    assert Weights.at(0, 1000, tiny_model(mtp_depth=0), mtp, experts) == Weights(0.0, 1e-4)
    assert [balance_speed(config(), step) for step in (0, 965, 966, 999)] == [0.001, 0.001, 0, 0]


def test_a_few_updates_lower_every_loss_and_a_checkpoint_holds_the_biases() -> None:
    model = tiny_model(init_std=0.1)
    optimizer = Optimizer(model, "fp32")
    batches = microbatches(rows(), 128, share_prompts=False)
    first, _ = update(model, optimizer, batches, 1e-2, WEIGHTS)
    for _ in range(25):
        last, _ = update(model, optimizer, batches, 1e-2, WEIGHTS)
    assert last.loss < 0.6 * first.loss
    assert last.mtp_loss < 0.9 * first.mtp_loss
    state = copy.deepcopy(optimizer.state_dict())
    bias = moe_layers(model)[1].router.bias
    assert bias is not None
    kept = bias.clone()
    bias.add_(1.0)
    optimizer.load_state_dict(state)
    assert torch.equal(bias, kept)
