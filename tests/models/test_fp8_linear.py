"""The three products of a linear layer in fp8 against an oracle in NumPy; experts, engine, packed copies, what stays out."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from farthing.data.batches import Row, microbatches
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.models import fp8_linear
from farthing.models.decoder import Decoder, init_weights
from farthing.models.fp8_linear import Fp8Weight, has_fp8_products, use_fp8
from farthing.models.head import completion_logprobs
from farthing.models.linear import Linear, can_pack
from farthing.models.moe import Experts, grouped_linear, moe_layers
from farthing.models.shape import ModelShape
from farthing.optim import Optimizer
from farthing.precision import set_precision
from farthing.tokenizer import Tokenizer
from tests.models.deepseek_shapes import tiny_model

Array = NDArray[np.float32]
E4M3 = np.array([(m * 2.0**-9 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)) for e in range(16) for m in range(8)][:127])


class Oracle(NamedTuple):
    """One matrix product in fp8, forward and backward, from the paper's words."""

    out: Array
    grad_x: Array
    grad_weight: Array


def nearest(values: Array) -> Array:
    """The E4M3 next to each magnitude; of two as near, the one whose code is even."""
    after = np.searchsorted(E4M3, values).clip(max=126)
    before = (after - 1).clip(min=0)
    gap_before, gap_after = values - E4M3[before], E4M3[after] - values
    is_after = (gap_after < gap_before) | ((gap_after == gap_before) & (after % 2 == 0))
    nearest_ones: Array = np.where(is_after, E4M3[after], E4M3[before])
    return nearest_ones


def rounded(x: Array, rows: int, columns: int, even: bool) -> Array:
    out = np.zeros_like(x)
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], columns):
            part = x[i : i + rows, j : j + columns]
            scale = np.float32(np.abs(part).max()) / np.float32(448)
            scale = np.float32(2.0 ** np.ceil(np.log2(float(scale)))) if even else scale
            out[i : i + rows, j : j + columns] = np.sign(part) * nearest(np.abs(part / scale)) * scale
    return out


def oracle(x: Array, weight: Array, grad: Array, even_input: bool = False, even_grad: bool = False) -> Oracle:
    x8, weight8, grad8 = rounded(x, 1, 128, even_input), rounded(weight, 128, 128, False), rounded(grad, 1, 128, even_grad)
    x_along, grad_along = rounded(x8, 128, 1, even_input), rounded(grad8 if even_grad else grad, 128, 1, even_grad)
    return Oracle(x8 @ weight8.T, grad8 @ weight8, grad_along.T @ x_along)


def random(*size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * torch.exp(torch.randn(size, generator=generator))


def assert_equals(got: Tensor, expected: Array) -> None:
    """Sums in fp32 in another order; a single number rounded the other way would be further off."""
    scale = float(np.abs(expected).max())
    assert np.abs(got.detach().numpy() - expected).max() <= 2e-6 * scale


EVENS = pytest.mark.parametrize(("even_input", "even_grad"), [(False, False), (True, False), (False, True)])


@EVENS
@pytest.mark.parametrize(("tokens", "width_in", "width_out"), [(130, 150, 140), (5, 128, 256), (1, 7, 3)])
def test_fprop_dgrad_and_wgrad(tokens: int, width_in: int, width_out: int, even_input: bool, even_grad: bool) -> None:
    linear = Linear(width_in, width_out, bias=True)
    linear.packed = Fp8Weight(even_input, even_grad)
    with torch.no_grad():
        linear.weight.copy_(random(width_out, width_in, seed=1))
    x, grad = random(tokens, width_in, seed=2).requires_grad_(), random(tokens, width_out, seed=3)
    out = linear(x)
    out.backward(grad)
    expected = oracle(x.detach().numpy(), linear.weight.detach().numpy(), grad.numpy(), even_input, even_grad)
    assert x.grad is not None
    assert linear.weight.grad is not None
    assert linear.bias.grad is not None
    assert_equals(out - linear.bias, expected.out)
    assert_equals(x.grad, expected.grad_x)
    assert_equals(linear.weight.grad, expected.grad_weight)
    assert torch.equal(linear.bias.grad, grad.sum(0)), "a bias is added outside of the product"


@EVENS
def test_each_expert_is_such_a_product_over_its_own_tokens(even_input: bool, even_grad: bool) -> None:
    """Tiles along the tokens begin with each expert's first one; an expert without tokens gets no gradient."""
    counts = [5, 0, 132]
    x, weight = random(137, 70, seed=1).requires_grad_(), random(3, 130, 70, seed=2).requires_grad_()
    grad = random(137, 130, seed=3)
    out = Fp8Weight(even_input, even_grad).multiply_grouped(x, weight, counts)
    out.backward(grad)
    assert x.grad is not None
    assert weight.grad is not None
    for expert, rows in ((0, slice(0, 5)), (2, slice(5, 137))):
        inputs = (t.detach()[i].numpy() for t, i in ((x, rows), (weight, expert), (grad, rows)))
        expected = oracle(*inputs, even_input, even_grad)
        assert_equals(out[rows], expected.out)
        assert_equals(x.grad[rows], expected.grad_x)
        assert_equals(weight.grad[expert], expected.grad_weight)
    assert not weight.grad[1].any()


def test_no_tokens_at_all() -> None:
    x, weight = torch.zeros(0, 6, requires_grad=True), torch.ones(2, 4, 6, requires_grad=True)
    out = Fp8Weight().multiply_grouped(x, weight, [0, 0])
    out.sum().backward()
    assert out.shape == (0, 4)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_a_token_is_rounded_without_regard_to_its_company() -> None:
    linear, x = Linear(150, 40, bias=False), random(9, 150, seed=1)
    use_fp8(linear)
    spoilt = x.clone()
    spoilt[4] *= 1e6
    kept = [i for i in range(9) if i != 4]
    with torch.no_grad():
        torch.testing.assert_close(linear(spoilt)[kept], linear(x)[kept])
        torch.testing.assert_close(linear(x[3]), linear(x)[3])
        assert linear(x.view(3, 3, 150)).shape == (3, 3, 40)


# in a model ----------------------------------------------------------------------------------------------------------------


def test_what_multiplies_in_fp8_and_what_does_not() -> None:
    model = tiny_model()
    use_fp8(model)
    linears = {name: m.packed for name, m in model.named_modules() if isinstance(m, Linear)}
    assert {name for name, packed in linears.items() if not isinstance(packed, Fp8Weight)} == {"mtp.0.project"}
    even = {name for name, packed in linears.items() if isinstance(packed, Fp8Weight) and packed.even_input}
    assert even == {name for name in linears if name.endswith("attention.out")}
    assert not any(isinstance(packed, Fp8Weight) and packed.even_grad for packed in linears.values())
    for ffn in moe_layers(model).values():
        up, down = (product.__self__ for product in ffn.experts.products)  # type: ignore[attr-defined]
        assert (up.even_input, up.even_grad, down.even_input, down.even_grad) == (True, False, False, True)
    use_fp8(model, on=False)
    assert not any(isinstance(m.packed, Fp8Weight) for m in model.modules() if isinstance(m, Linear))
    assert all(m.products == (grouped_linear, grouped_linear) for m in model.modules() if isinstance(m, Experts))


def next_token_loss(model: Decoder) -> Tensor:
    tokens = torch.randint(0, 61, (4, 40), generator=torch.Generator().manual_seed(2))
    logits = model.logits(model(tokens))
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def test_gradients_reach_every_weight_and_point_the_same_way() -> None:
    plain, rounded_model = tiny_model(init_std=0.1), tiny_model(init_std=0.1)
    set_precision(rounded_model, "fp8")
    losses = [next_token_loss(model) for model in (plain, rounded_model)]
    for loss in losses:
        torch.autograd.backward(loss)
    exact, got = (float(loss.detach()) for loss in losses)
    assert got != exact
    assert got == pytest.approx(exact, rel=0.05)
    cosines = {}
    for (name, theirs), (_, ours) in zip(plain.named_parameters(), rounded_model.named_parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None, name
            cosines[name] = float(torch.cosine_similarity(theirs.grad.flatten(), ours.grad.flatten(), dim=0))
    assert any(".experts." in name for name in cosines)
    assert min(cosines.values()) > 0.8, cosines
    assert np.mean(list(cosines.values())) > 0.95


def test_recomputed_activations_change_nothing() -> None:
    grads = []
    for recompute in (False, True):
        model = tiny_model()
        set_precision(model, "fp8")
        model.recompute_activations = recompute
        torch.autograd.backward(next_token_loss(model))
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_set_back_to_fp32_it_is_the_model_it_was() -> None:
    model = tiny_model()
    before = next_token_loss(model)
    set_precision(model, "fp8")
    assert next_token_loss(model) != before
    names = list(model.state_dict())
    set_precision(model, "fp32")
    assert torch.equal(next_token_loss(model), before)
    assert list(model.state_dict()) == names


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    model = tiny_model()
    optimizer = Optimizer(model, "fp8")
    state = None
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
        torch.autograd.backward(next_token_loss(model))
        optimizer.step(1e-2)
    resumed = tiny_model(seed=9)
    restored = Optimizer(resumed, "fp8")
    # rounded once already: what is kept of the weights before must not be used after
    next_token_loss(resumed)
    assert state is not None
    restored.load_state_dict(state)
    for _ in range(2):
        torch.autograd.backward(next_token_loss(resumed))
        restored.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True))


# in the engine -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.characters("0123456789+-*/=() \nabcdefgh")


def model_of(family: str, tokenizer: Tokenizer) -> Decoder:
    if family == "deepseek_v3":
        return tiny_model(seed=5, vocab_size=tokenizer.vocab_size)
    sizes = {"width": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_width": 8, "ffn_width": 48}
    model = Decoder(ModelShape.model_validate({"vocab_size": tokenizer.vocab_size, **sizes, "init_std": 0.3}))
    init_weights(model, seed=5)
    return model


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_engine_and_trainer_see_the_same_model(family: str, tokenizer: Tokenizer) -> None:
    """Prefilled and decoded, packed and not, on latents and on keys. Against plain fp32 the same logprobs are far off."""
    model = model_of(family, tokenizer)
    plain = copy.deepcopy(model)
    set_precision(model, "fp8")
    prompts, seeds = [[5, 6, 7, 8], [9, 10, 11]], [[1, 2, 3], [4, 5, 6]]
    groups = Engine(model, tokenizer, 8).generate(prompts, seeds, SamplingParams(max_tokens=24, ignore_eos=True))
    pairs = [(prompt, c) for prompt, group in zip(prompts, groups, strict=True) for c in group]
    rows = [Row([*prompt, *c.tokens], len(prompt)) for prompt, c in pairs]
    gaps: dict[str, list[Tensor]] = {"fp8": [], "fp32": []}
    for batch in microbatches(rows, 4096):
        for name, trainer in (("fp8", model), ("fp32", plain)):
            logprobs_BT, _ = completion_logprobs(trainer, batch)
            for b, i in enumerate(batch.rows):
                gap = logprobs_BT[b][batch.loss_mask_BT[b]].detach() - torch.tensor(pairs[i][1].logprobs)
                gaps[name].append(gap.abs())
    seen = {name: torch.cat(parts) for name, parts in gaps.items()}
    assert seen["fp8"].median() < 1e-4
    assert seen["fp8"].mean() < 0.2 * seen["fp32"].mean()


def test_a_policy_that_generated_can_be_trained(tokenizer: Tokenizer) -> None:
    """The engine rounds first, in inference mode; the trainer must be able to read what it kept."""
    model = model_of("deepseek_v3", tokenizer)
    optimizer = Optimizer(model, "fp8")
    Engine(model, tokenizer, 8).generate([[5, 6, 7]], [[1]], SamplingParams(max_tokens=4))
    torch.autograd.backward(next_token_loss_of(model))
    assert optimizer.step(1e-3) > 0


def next_token_loss_of(model: Decoder) -> Tensor:
    logits = model.logits(model(torch.arange(20)[None]))
    return torch.nn.functional.cross_entropy(logits[0, :-1], torch.arange(1, 20))


@pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="torch without oneDNN, or no CPU for it")
def test_a_packed_copy_is_of_the_rounded_weight_and_of_this_version() -> None:
    linear, x = Linear(150, 140, bias=True), random(6, 150, seed=1)
    use_fp8(linear)
    with torch.inference_mode():
        wanted = linear(x)
        linear.packed.refresh(linear.weight)
        assert linear.packed.is_packed(linear.weight)
        torch.testing.assert_close(linear(x), wanted, atol=1e-5, rtol=1e-5)
        assert (wanted - torch.nn.functional.linear(x, linear.weight, linear.bias)).abs().max() > 1e-3
    optimizer = Optimizer(linear, "fp32")
    linear.packed = Fp8Weight()
    linear.packed.refresh(linear.weight)
    linear(x).sum().backward()
    optimizer.step(0.1)
    fresh = copy.deepcopy(linear)
    assert isinstance(fresh.packed, Fp8Weight)
    assert not fresh.packed.is_packed(fresh.weight)
    with torch.inference_mode():
        assert torch.equal(linear(x), fresh(x))


def test_bf16_beside_fp8_products() -> None:
    """As on a machine that is good at bf16: what comes in and goes out is bf16, sums are fp32."""
    linear, exact = Linear(150, 140, bias=True), Linear(150, 140, bias=True)
    exact.load_state_dict(linear.state_dict())
    linear.bfloat16()
    use_fp8(linear)
    x = random(40, 150, seed=1).bfloat16().requires_grad_()
    out = linear(x)
    assert out.dtype == torch.bfloat16
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.bfloat16
    error = (out.float() - exact(x.float())).norm() / exact(x.float()).norm()
    assert 0.005 < error < 0.06


def test_this_machine_has_no_fp8_products_unless_it_is_a_hopper() -> None:
    assert not has_fp8_products(torch.device("cpu"))


@pytest.mark.skipif(not hasattr(torch.nn.functional, "scaled_mm"), reason="this torch has no block-scaled products")
@pytest.mark.parametrize("counts", [[130], [5, 0, 125]])
def test_what_a_hopper_would_be_given_passes_torchs_own_checks(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device sizes, strides and scales of all three products are checked as on a GPU; nothing is computed."""
    monkeypatch.setattr(fp8_linear, "has_fp8_products", lambda device: device.type == "meta")
    x = torch.randn(130, 150, device="meta", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(len(counts), 140, 150, device="meta", dtype=torch.bfloat16, requires_grad=True)
    out = Fp8Weight(even_input=True).multiply_grouped(x, weight, counts)
    assert (out.shape, out.dtype) == ((130, 140), torch.bfloat16)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    assert weight.grad is not None
    assert (x.grad.shape, weight.grad.shape) == (x.shape, weight.shape)
