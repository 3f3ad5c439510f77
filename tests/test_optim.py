"""The optimizer against torch's AdamW and the formula itself; clipping, moments in bf16, divergence, resume."""

import copy
import io
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from farthing import optim
from farthing.config import MomentsChoice
from farthing.config.parts import SLOWEST_BF16_BETA
from farthing.errors import TrainingDiverged
from farthing.optim import Optimizer
from farthing.precision import Precision

HYPER: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8}
both_precisions = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 3))


def loss_of(model: nn.Module, step: int, scale: float = 1.0) -> Tensor:
    dtype = next(model.parameters()).dtype
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
    loss: Tensor = model(x).float().square().mean() * scale
    return loss


def train(model: nn.Module, optimizer: Optimizer, steps: range, num_microbatches: int = 2) -> list[float]:
    norms = []
    for step in steps:
        for part in range(num_microbatches):
            torch.autograd.backward(loss_of(model, 10 * step + part))
        norms.append(optimizer.step(1e-2))
    return norms


def torchs_adamw(params: list[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-2, **HYPER, fused=True)


def snapshot(optimizer: Optimizer) -> dict[str, Any]:
    return copy.deepcopy(optimizer.state_dict())


def tensors_of(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in tensors_of(value)]


def test_fp32_equals_torchs_adamw_bit_for_bit() -> None:
    model, reference = network(), network()
    optimizer = Optimizer(model, "fp32", **HYPER, weight_decay=0.1, clip_norm=0.5)
    params = list(reference.parameters())
    theirs = torchs_adamw(params, weight_decay=0.1)
    for step in range(5):
        (norm,) = train(model, optimizer, range(step, step + 1))
        for part in range(2):
            torch.autograd.backward(loss_of(reference, 10 * step + part))
        assert norm == float(nn.utils.clip_grad_norm_(params, 0.5))
        theirs.step()
        theirs.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), params, strict=True))


def test_the_update_is_adamws_formula() -> None:
    """Two steps in plain floats: bias-corrected moments, decay apart from the gradient, none on vectors."""
    matrix, vector = nn.Parameter(torch.tensor([[2.0]])), nn.Parameter(torch.tensor([2.0]))
    model = nn.ParameterList([matrix, vector])
    optimizer = Optimizer(model, "fp32", betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5, clip_norm=0.0)
    expected = {"matrix": 2.0, "vector": 2.0}
    mean = variance = 0.0
    for number, grad in enumerate((0.3, -1.2), start=1):
        for parameter in (matrix, vector):
            parameter.grad = torch.full_like(parameter, grad)
        optimizer.step(0.1)
        mean, variance = 0.8 * mean + 0.2 * grad, 0.9 * variance + 0.1 * grad**2
        move = 0.1 * (mean / (1 - 0.8**number)) / (math.sqrt(variance / (1 - 0.9**number)) + 1e-3)
        expected = {"matrix": expected["matrix"] * (1 - 0.1 * 0.5) - move, "vector": expected["vector"] - move}
        assert matrix.item() == pytest.approx(expected["matrix"], rel=1e-6)
        assert vector.item() == pytest.approx(expected["vector"], rel=1e-6)


def test_bf16_steps_fp32_masters_on_fp32_sums_and_publishes_them_rounded() -> None:
    model = network()
    masters = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    theirs = torchs_adamw(masters, weight_decay=0.1)
    seen: dict[Tensor, list[Tensor]] = {}

    def keep(parameter: Tensor) -> None:
        assert parameter.grad is not None
        seen.setdefault(parameter, []).append(parameter.grad.clone())

    for p in model.parameters():
        # runs before the optimizer's own hook takes the gradient away
        p.register_post_accumulate_grad_hook(keep)  # type: ignore[no-untyped-call]
    optimizer = Optimizer(model, "bf16", **HYPER, weight_decay=0.1, clip_norm=0.5)
    for step in range(4):
        seen.clear()
        train(model, optimizer, range(step, step + 1), num_microbatches=3)
        for p, master in zip(model.parameters(), masters, strict=True):
            assert len(seen[p]) == 3
            assert seen[p][0].dtype == torch.bfloat16
            master.grad = torch.stack([g.float() for g in seen[p]]).sum(dim=0)
        nn.utils.clip_grad_norm_(masters, 0.5)
        theirs.step()
        for p, own, master in zip(model.parameters(), optimizer.masters.params, masters, strict=True):
            torch.testing.assert_close(own, master, atol=1e-6, rtol=1e-6)
            assert torch.equal(p, own.bfloat16())
            assert p.grad is own.grad is None


def test_bf16_moments_are_rounded_for_keeping_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's AdamW in fp32, whose moments are rounded to bf16 between its steps: to the bit, also where tensors are split."""
    monkeypatch.setattr(optim, "WIDEN_AT_ONCE", 64)
    model, reference = network(), network()
    optimizer = Optimizer(model, "fp32", **HYPER, weight_decay=0.1, clip_norm=0.5, moments="bf16")
    params = list(reference.parameters())
    assert max(p.numel() for p in params) > 64
    theirs = torchs_adamw(params, weight_decay=0.1)
    for step in range(6):
        train(model, optimizer, range(step, step + 1))
        for part in range(2):
            torch.autograd.backward(loss_of(reference, 10 * step + part))
        nn.utils.clip_grad_norm_(params, 0.5)
        theirs.step()
        theirs.zero_grad()
        for p in params:
            for name in ("exp_avg", "exp_avg_sq"):
                theirs.state[p][name].copy_(theirs.state[p][name].bfloat16())
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), params, strict=True))
    state = optimizer.state_dict()
    assert {t.dtype for t in (*state["means"].values(), *state["squares"].values())} == {torch.bfloat16}
    assert {t.dtype for t in state["masters"].values()} == {torch.float32}
    for name, p in reference.named_parameters():
        assert torch.equal(state["means"][name].float(), theirs.state[p]["exp_avg"])
        assert torch.equal(state["squares"][name].float(), theirs.state[p]["exp_avg_sq"])


def test_the_slowest_beta_that_bf16_is_allowed_still_lets_a_moment_fall() -> None:
    """Without gradient every kept value must fall, wherever it lies between two powers of two; one step slower, some stay."""
    mantissas = torch.arange(128).add(128).float().div(128)
    beta = torch.tensor(SLOWEST_BF16_BETA)
    assert bool(((mantissas * beta).bfloat16() < mantissas).all())
    assert not bool(((mantissas * (1 - 2**-9)).bfloat16() < mantissas).all())


def test_clipping_reports_the_norm_before_and_shortens_what_is_longer() -> None:
    def stepped(clip_norm: float, grad: list[float]) -> tuple[float, Tensor]:
        parameter = nn.Parameter(torch.zeros(1, 2))
        optimizer = Optimizer(nn.ParameterList([parameter]), "fp32", betas=(0.0, 0.0), eps=1e6, clip_norm=clip_norm)
        parameter.grad = torch.tensor([grad])
        # with so large an eps the step is the gradient times learning rate / eps
        return optimizer.step(-1e6), parameter.detach()[0]

    assert stepped(1.0, [3.0, 4.0])[0] == pytest.approx(5.0)
    assert stepped(1.0, [3.0, 4.0])[1].tolist() == pytest.approx([0.6, 0.8], rel=1e-4)
    assert stepped(10.0, [3.0, 4.0])[1].tolist() == pytest.approx([3.0, 4.0], rel=1e-4)
    assert stepped(0.0, [300.0, 400.0])[1].tolist() == pytest.approx([300.0, 400.0], rel=1e-3)
    assert stepped(0.0, [0.0, 0.0])[1].tolist() == [0.0, 0.0]


@both_precisions
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(precision: Precision, wrong: float) -> None:
    model = network()
    optimizer = Optimizer(model, precision)
    train(model, optimizer, range(2))
    before, weights = snapshot(optimizer), [p.detach().clone() for p in model.parameters()]
    torch.autograd.backward(loss_of(model, 5, scale=wrong))
    with pytest.raises(TrainingDiverged, match="gradient norm is"):
        optimizer.step(1e-2)
    assert len(tensors_of(before)) > 10
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(before), tensors_of(optimizer.state_dict()), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None for p in optimizer.masters.params)
    assert math.isfinite(train(model, optimizer, range(6, 7))[0])


@both_precisions
@pytest.mark.parametrize("moments", ["fp32", "bf16"])
def test_a_restored_optimizer_goes_on_bit_for_bit(precision: Precision, moments: MomentsChoice) -> None:
    model = network()
    optimizer = Optimizer(model, precision, weight_decay=0.1, moments=moments)
    train(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    train(model, optimizer, range(3, 6))

    resumed = network(seed=1)
    restored = Optimizer(resumed, precision, weight_decay=0.1, moments=moments)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    train(resumed, restored, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    ends = tensors_of(optimizer.state_dict()), tensors_of(restored.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_parameter_without_a_gradient_stays_and_so_do_its_moments() -> None:
    """An expert that no token chose: neither decay nor old momentum may move it. As torch's AdamW does."""
    model, reference = network(), network()
    optimizer, theirs = Optimizer(model, "fp32", **HYPER, weight_decay=0.1), torchs_adamw([*reference.parameters()], 0.1)
    for step in range(4):
        for network_ in (model, reference):
            torch.autograd.backward(loss_of(network_, step))
            if step % 2:
                next(network_.parameters()).grad = None
        nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step(1e-2)
        theirs.step()
        theirs.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))


def test_a_step_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from farthing.optim import Optimizer\n"
        "model = torch.nn.Linear(2, 2)\n"
        "optimizer = Optimizer(model, 'bf16')\n"
        "model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()\n"
        "optimizer.step(0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
