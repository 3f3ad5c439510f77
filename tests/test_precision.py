"""fp32 masters behind bf16 weights and fp8 products: what is owned, how gradients are added up, what is published."""

import pytest
import torch
from torch import nn

from farthing.config import load_recipe
from farthing.models.fp8_linear import EMULATED, Fp8Weight
from farthing.models.linear import Linear
from farthing.placement import CPU
from farthing.precision import (
    DTYPES,
    MasterWeights,
    Precision,
    best_precision,
    compute_dtype,
    compute_precision,
    resolve_precision,
)
from farthing.probe import probe_speed
from tests.conftest import MICRO


class Gain(nn.Module):
    """One weight per input; the gradient of its sum is the input itself."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 1.0, size))
        self.frozen = nn.Parameter(torch.ones(size), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x * self.frozen).sum()


def test_in_fp32_the_masters_are_the_modules_own() -> None:
    model = Gain()
    masters = MasterWeights(model, "fp32")
    assert masters.names == ["weight"]
    assert masters.params[0] is model.weight


def test_in_bf16_masters_keep_what_the_module_rounds() -> None:
    model = Gain()
    exact = model.weight.detach().clone()
    masters = MasterWeights(model, "bf16")
    assert model.weight.dtype == model.frozen.dtype == torch.bfloat16
    assert torch.equal(masters.params[0], exact)
    assert torch.equal(model.weight, exact.bfloat16())
    with torch.no_grad():
        masters.params[0].add_(2**-13)  # far below bf16's resolution here
    masters.publish()
    assert torch.equal(model.weight, (exact + 2**-13).bfloat16())
    for _ in range(64):
        with torch.no_grad():
            masters.params[0].add_(2**-13)
        masters.publish()
    assert (model.weight != exact.bfloat16()).all(), "many small steps must move the rounded weights"


def test_many_small_gradients_are_not_lost() -> None:
    """1 + 2^-9 is 1 in bf16, so a bf16 sum of 1 and 256 times 2^-9 stays 1; it is 1.5."""
    model = Gain()
    masters = MasterWeights(model, "bf16")
    for scale in [1.0] + [2.0**-9] * 256:
        torch.autograd.backward(model(torch.full((4,), scale, dtype=torch.bfloat16)))
        assert model.weight.grad is None, "the bf16 gradient is moved, not kept"
    grad = masters.params[0].grad
    assert grad is not None
    assert grad.dtype == torch.float32
    assert grad.tolist() == [1.5] * 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_state_goes_there_and_back(precision: Precision) -> None:
    model, other = Gain(), Gain()
    with torch.no_grad():
        other.weight.mul_(3)
    masters, others = MasterWeights(model, precision), MasterWeights(other, precision)
    others.load_state_dict(masters.state_dict())
    assert torch.equal(others.params[0], masters.params[0])
    assert torch.equal(other.weight, model.weight)
    assert other.weight.dtype == DTYPES[precision]


def test_a_model_loaded_in_bf16_can_be_trained_in_fp32_and_bf16() -> None:
    for precision in DTYPES:
        model = Gain().to(torch.bfloat16)
        before = model.weight.detach().clone()
        masters = MasterWeights(model, precision)
        assert masters.params[0].dtype == torch.float32
        assert torch.equal(masters.params[0], before.float())
        assert torch.equal(model.weight, before.to(DTYPES[precision]))


def test_the_best_precision_is_one_we_have() -> None:
    assert best_precision(CPU) in DTYPES


def test_fp8_is_a_choice_and_all_else_is_computed_as_the_machine_does_it_best() -> None:
    assert resolve_precision("fp8", CPU) == "fp8"
    assert resolve_precision("auto", CPU) == best_precision(CPU), "nobody gets fp8 unasked"
    assert compute_precision("fp8", CPU) == best_precision(CPU)
    assert compute_dtype("fp8", CPU) == DTYPES[best_precision(CPU)]


def test_in_fp8_the_masters_are_those_of_the_type_of_compute_and_linear_layers_multiply_in_it() -> None:
    model = nn.Sequential(Linear(4, 3), Gain(3))
    masters = MasterWeights(model, "fp8")
    linear = model[0]
    assert isinstance(linear, Linear)
    assert isinstance(linear.packed, Fp8Weight)
    assert linear.weight.dtype == compute_dtype("fp8", CPU)
    assert all(p.dtype == torch.float32 for p in masters.params)
    assert masters.names == ["0.weight", "0.bias", "1.weight"]


def test_a_forecast_counts_the_rounded_copy_and_says_that_it_is_emulated() -> None:
    speed = probe_speed(load_recipe(str(MICRO), ["precision=fp8"]))
    assert speed.rounded_bytes_per_weight == 4
    assert speed.bytes_per_weight == compute_dtype("fp8", CPU).itemsize
    assert EMULATED in speed.assumptions
