"""Experts against a loop over tokens; routing, groups and biases worked by hand; balance that comes about."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farthing.models.decoder import Decoder
from farthing.models.fused import experts_of_few, library
from farthing.models.moe import (
    FEW_TOKENS,
    MoeFFN,
    Router,
    Routing,
    _GroupedLinear,
    max_violation,
    moe_layers,
    update_balance,
)
from tests.models.deepseek_shapes import tiny_model, tiny_shape

V2 = {"family": "deepseek_v2", "mtp_depth": 0}
KINDS = {
    "v3": {},
    "v3-no-groups": {"moe": {"n_group": 1, "topk_group": 1}},
    "v3-no-norm": {"moe": {"norm_topk": False}},
    "v2": V2 | {"moe": {"norm_topk": False, "n_group": 1, "topk_group": 1}},
    "v2-groups": V2 | {"moe": {"norm_topk": False}},
}


def experts_of(model: Decoder) -> MoeFFN:
    return moe_layers(model)[1]


def one_by_one(ffn: MoeFFN, x_BTD: Tensor) -> Tensor:
    """The formulas of the papers, token by token and expert by expert."""
    moe, router = ffn.moe, ffn.router
    rows = []
    for x in x_BTD.flatten(0, 1):
        logits = router.weight @ x
        scores = logits.sigmoid() if router.bias is not None else logits.softmax(-1)
        wanted = scores.detach() if router.bias is None else scores.detach() + router.bias
        groups = wanted.view(moe.n_group, -1)
        best = groups.sort(descending=True).values[:, : 2 if router.bias is not None else 1].sum(-1)
        allowed = set(best.sort(descending=True).indices[: moe.topk_group].tolist())
        order = wanted.sort(descending=True).indices.tolist()
        per_group = moe.num_experts // moe.n_group
        chosen = [e for e in order if e // per_group in allowed][: moe.experts_per_token]
        total = sum(scores[e] for e in chosen) if moe.norm_topk else 1.0
        out = ffn.shared(x)
        for e in chosen:
            gate, up = (ffn.experts.gate_up[e] @ x).chunk(2)
            out = out + scores[e] / total * moe.routed_scaling * (ffn.experts.down[e] @ (torch.nn.functional.silu(gate) * up))
        rows.append(out)
    return torch.stack(rows).view_as(x_BTD)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_a_loop_over_tokens(kind: str) -> None:
    ffn = experts_of(tiny_model(**KINDS[kind]))
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3)).requires_grad_()
    upstream = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(4))
    got, expected = ffn(x), one_by_one(ffn, x)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    inputs = [x, *ffn.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad((got * upstream).sum(), inputs),
        torch.autograd.grad((expected * upstream).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 14, FEW_TOKENS + 1])
@torch.no_grad()
def test_without_gradients_few_tokens_and_many_equal_the_loop(kind: str, tokens: int) -> None:
    ffn = experts_of(tiny_model(**KINDS[kind]))
    x = torch.randn(tokens, 1, 24, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ffn(x), one_by_one(ffn, x), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(library() is None, reason="no C++ compiler here: plain PyTorch is what runs")
@pytest.mark.parametrize(("width", "hidden"), [(24, 16), (19, 5)])
def test_the_kernel_for_few_tokens_in_bf16(width: int, hidden: int) -> None:
    torch.manual_seed(0)
    x, gates, chosen = torch.randn(5, width), torch.rand(5, 2), torch.tensor([[0, 2], [2, 1], [1, 2], [0, 1], [2, 0]])
    gate_up, down = torch.randn(3, 2 * hidden, width), torch.randn(3, width, hidden)
    x, gate_up, down = (t.bfloat16() for t in (x, gate_up, down))
    gate, up = torch.einsum("nd,nkfd->nkf", x.double(), gate_up.double()[chosen]).chunk(2, dim=-1)
    each = torch.einsum("nkf,nkdf->nkd", torch.nn.functional.silu(gate) * up, down.double()[chosen])
    wanted = (each * gates[..., None]).sum(1)
    found = experts_of_few(x, chosen, gates, gate_up, down)
    assert found.dtype == torch.bfloat16
    assert (found.double() - wanted).abs().max() <= 2e-2 * wanted.abs().max()


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_grouped_matmul_whatever_the_experts_get(counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(counts))
    x = torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(len(counts), 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    expected = torch.cat([part @ weight[e].T for e, part in enumerate(x.split(counts))])
    got = _GroupedLinear.apply(x, weight, counts)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(got, expected)
    for a, b in zip(
        torch.autograd.grad(got.sin().sum(), (x, weight)), torch.autograd.grad(expected.sin().sum(), (x, weight)), strict=True
    ):
        torch.testing.assert_close(a, b)


def router_with(scores: list[list[float]], bias: list[float], **moe: object) -> tuple[Router, Tensor]:
    """A router whose scores for unit vectors are those given, and these vectors."""
    shape = tiny_shape(width=24, moe={"num_experts": len(bias), "n_group": 1, "topk_group": 1, "experts_per_token": 2} | moe)
    assert shape.moe is not None
    router = Router(shape, shape.moe)
    with torch.no_grad():
        router.weight.zero_()
        router.weight[:, : len(scores)] = torch.tensor(scores).logit().T
    assert router.bias is not None
    router.bias.copy_(torch.tensor(bias))
    return router, torch.eye(24)[: len(scores)]


def test_the_bias_decides_who_is_chosen_but_not_how_much_it_counts() -> None:
    scores = [[0.9, 0.6, 0.3, 0.2]]
    router, x = router_with(scores, [0.0, 0.0, 0.0, 0.0], routed_scaling=2.0)
    chosen, gates, all_scores = router(x)
    torch.testing.assert_close(all_scores, torch.tensor(scores))
    assert dict(zip(chosen[0].tolist(), gates[0].tolist(), strict=True)) == pytest.approx({0: 2 * 0.6, 1: 2 * 0.4})
    router, x = router_with(scores, [0.0, 0.0, 0.0, 0.5], routed_scaling=2.0)
    chosen, gates, _ = router(x)
    assert dict(zip(chosen[0].tolist(), gates[0].tolist(), strict=True)) == pytest.approx({0: 2 * 0.9 / 1.1, 3: 2 * 0.2 / 1.1})


def test_v3_ranks_groups_by_their_two_best() -> None:
    """Group 0 has the best expert, group 1 the best two."""
    router, x = router_with([[0.9, 0.1, 0.7, 0.6]], [0.0] * 4, n_group=2, topk_group=1)
    chosen, _, _ = router(x)
    assert sorted(chosen[0].tolist()) == [2, 3]


def test_loads_count_real_tokens_once_also_when_activations_are_recomputed() -> None:
    model = tiny_model()
    tokens = torch.randint(0, 61, (2, 10), generator=torch.Generator().manual_seed(5))
    sequences = torch.tensor([0] * 10 + [1] * 6 + [-1] * 4)
    seen = []
    for model.recompute_activations in (False, True):
        routing = Routing(sequences, 2, with_balance=True)
        hidden = model(tokens, routing=routing)
        (hidden.sum() + sum(routing.balance.values())).backward()
        assert sorted(routing.loads) == [1, 2]
        assert all(int(load.sum()) == 16 * 3 for load in routing.loads.values())
        seen.append((routing.loads, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    assert all(torch.equal(seen[0][0][layer], seen[1][0][layer]) for layer in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(seen[0][1], seen[1][1], strict=True))


def test_balance_loss_worked_by_hand() -> None:
    """Two tokens that both choose expert 0 of 2 (K = 1) with score shares 0.75 and 0.5: f = (2, 0), P = (0.625, 0.375)."""
    routing = Routing(torch.tensor([0, 0, -1]), 1, with_balance=True)
    scores = torch.tensor([[0.6, 0.2], [0.3, 0.3], [0.1, 0.9]])
    routing.record(0, scores, torch.tensor([[0], [0], [1]]))
    assert float(routing.balance[0]) == pytest.approx(2 * 0.625)
    even = Routing(torch.tensor([0, 0]), 1, with_balance=True)
    even.record(0, torch.full((2, 2), 0.4), torch.tensor([[0], [1]]))
    assert float(even.balance[0]) == pytest.approx(1.0)


def test_balance_loss_is_a_sum_over_sequences_and_its_gradient_evens_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(12, 4, generator=generator).requires_grad_()
    chosen = scores.topk(2, dim=-1).indices
    parts = []
    for ids, rows in ((torch.tensor([0] * 5 + [1] * 7), slice(0, 12)), (torch.zeros(5, dtype=torch.int64), slice(0, 5))):
        routing = Routing(ids, int(ids.max()) + 1, with_balance=True)
        routing.record(0, scores[rows], chosen[rows])
        parts.append(routing.balance[0])
    rest = Routing(torch.zeros(7, dtype=torch.int64), 1, with_balance=True)
    rest.record(0, scores[5:], chosen[5:])
    torch.testing.assert_close(parts[0], parts[1] + rest.balance[0])
    (gradient,) = torch.autograd.grad(parts[0], scores)
    assert gradient[5:].mean(0)[rest.loads[0].argmax()] > gradient[5:].mean(0)[rest.loads[0].argmin()]


def test_biases_move_one_step_against_the_load() -> None:
    model = tiny_model()
    bias = experts_of(model).router.bias
    assert bias is not None
    before = bias.clone()
    load = torch.tensor([3.0, 0, 0, 1, 1, 1, 2, 0])
    update_balance(model, {1: load}, speed=0.0)
    assert torch.equal(bias, before)
    update_balance(model, {1: load}, speed=0.01)
    steps = torch.tensor([-1.0, 1, 1, 0, 0, 0, -1, 1])
    torch.testing.assert_close(bias - before, steps * 0.01, atol=1e-6, rtol=0)
    assert max_violation(load) == 2.0


def test_v2_has_no_bias_to_move() -> None:
    model = tiny_model(**KINDS["v2"])
    assert not dict(model.named_buffers())
    update_balance(model, {1: torch.arange(8.0)}, speed=0.1)


def test_a_lopsided_router_is_evened_without_an_auxiliary_loss() -> None:
    model = tiny_model(moe={"n_group": 1, "topk_group": 1})
    ffn = experts_of(model)
    x = torch.randn(1, 400, 24, generator=torch.Generator().manual_seed(6)) + 0.5
    routing = Routing(torch.zeros(400, dtype=torch.int64), 1)
    violations = []
    with torch.no_grad():
        for _ in range(150):
            ffn(x, routing)
            violations.append(max_violation(routing.loads[1]))
            update_balance(model, routing.loads, speed=0.01)
    assert violations[0] > 0.5
    assert violations[-1] < 0.15
