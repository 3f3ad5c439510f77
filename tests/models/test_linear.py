"""The packed copy of a weight: the same product, never one of another version of the weight."""

import copy

import pytest
import torch
from torch import Tensor

from farthing.models.decoder import Decoder, init_weights
from farthing.models.linear import Linear, PackedWeight, can_pack
from farthing.models.shape import ModelShape
from farthing.optim import Optimizer

SHAPE = ModelShape(vocab_size=80, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_width=8, ffn_width=48)
pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="torch without oneDNN, or no CPU for it")


def layer() -> Linear:
    torch.manual_seed(0)
    return Linear(48, 80, bias=True)


@pytest.mark.parametrize("shape", [(1, 48), (33, 48), (5, 1, 48), (2, 300, 48)])
def test_equal_to_the_plain_product(shape: tuple[int, ...]) -> None:
    linear, x = layer(), torch.randn(shape)
    with torch.inference_mode():
        wanted = linear(x)
        linear.packed.refresh(linear.weight)
        torch.testing.assert_close(linear(x), wanted, atol=1e-5, rtol=1e-5)


def change_in_place(linear: Linear) -> None:
    with torch.no_grad():
        linear.weight.mul_(2)


def change_by_optimizer(linear: Linear) -> None:
    optimizer = Optimizer(linear, "fp32")
    linear(torch.ones(1, 48)).sum().backward()
    optimizer.step(0.1)


def change_memory(linear: Linear) -> None:
    linear.weight.data = linear.weight.detach() + 1


@pytest.mark.parametrize("change", [change_in_place, change_by_optimizer, change_memory])
def test_a_changed_weight_is_never_multiplied_from_the_old_copy(change: object) -> None:
    linear, x = layer(), torch.randn(33, 48)
    linear.packed.refresh(linear.weight)
    assert callable(change)
    change(linear)
    with torch.inference_mode():
        stale = linear(x)
        assert torch.equal(stale, torch.nn.functional.linear(x, linear.weight, linear.bias))
        linear.packed.refresh(linear.weight)
        torch.testing.assert_close(linear(x), stale, atol=1e-5, rtol=1e-5)


def test_gradients_go_through_the_weight_itself() -> None:
    linear, x = layer(), torch.randn(33, 48)
    linear.packed.refresh(linear.weight)
    (grad,) = torch.autograd.grad(linear(x).sum(), linear.weight)
    torch.testing.assert_close(grad, x.sum(dim=0).expand(80, 48))


def test_a_model_packs_its_head_and_every_layer_and_copies_without() -> None:
    model, tokens = Decoder(SHAPE), torch.arange(12)[None]
    init_weights(model, seed=0)
    with torch.inference_mode():
        wanted = model.logits(model(tokens))
        model.pack_weights()
        packed: list[Tensor | None] = [m.packed._packed for m in model.modules() if isinstance(m, Linear)]
        assert len(packed) == 4 * SHAPE.num_layers
        assert None not in packed
        torch.testing.assert_close(model.logits(model(tokens)), wanted, atol=1e-5, rtol=1e-5)
        twin = copy.deepcopy(model)
        assert torch.equal(twin.logits(twin(tokens)), wanted)
    assert isinstance(twin._packed_head, PackedWeight)
    assert list(twin.state_dict()) == list(model.state_dict())
