"""The whole way on a device that is not the CPU: a stand-in for a GPU, which refuses operators that mix the two."""

from pathlib import Path
from typing import Any

import pytest
import torch

from farthing.artefact import open_artefact
from farthing.config import parse_recipe
from farthing.engine.sampler import SamplingParams
from farthing.engine.speculative import generate_ahead
from farthing.files import read_json
from farthing.models import fused
from farthing.optim import Optimizer
from farthing.pipeline import run_recipe
from farthing.placement import CPU, Placement
from farthing.precision import Precision
from farthing.stages.grpo import update
from farthing.stages.reward_model import update as update_reward_model
from farthing.stages.scoring import texts_of
from tests.models.deepseek_shapes import tiny_model
from tests.second_device import register
from tests.stages.test_grpo_update import TOKENIZER, config, sampled, tiny
from tests.stages.test_objective import WEIGHTS, gradients
from tests.stages.test_reward_model import examples, scorer

SECOND = Placement(register())
TASKS = [{"spec": "toy:running_total", "config": {"min_terms": 2, "max_terms": 2}}]
RECIPE: dict[str, Any] = {
    "name": "second", "precision": "fp32", "threads": 1,
    "model": {"source": "scratch", "shape": {
        "width": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_width": 8, "ffn_width": 24, "max_positions": 96,
    }},
    "stages": {
        "base": {
            "kind": "pretrain", "num_steps": 1, "batch_documents": 2, "max_completion_tokens": 24, "tasks": TASKS,
            "optim": {"learning_rate": 1e-2}, "checkpoint": {"every": 0},
        },
        "r1_zero": {
            "kind": "grpo", "num_steps": 2, "num_prompts": 2, "group_size": 2, "num_minibatches": 2,
            "max_completion_tokens": 6, "kl_coef": 0.01, "reference_every": 1, "top_p": 0.9, "tasks": TASKS,
            "optim": {"learning_rate": 1e-3, "moments": "bf16"}, "checkpoint": {"every": 1},
            "eval": {"num_problems": 2, "samples": 1, "every": 1, "quick_problems": 1},
        },
        "student": {
            "kind": "distill", "method": "on_policy", "teacher": "r1_zero", "start_from": "base", "num_steps": 1,
            "num_prompts": 2, "group_size": 1, "max_completion_tokens": 6, "tasks": TASKS, "eval": None,
            "optim": {"learning_rate": 1e-3}, "checkpoint": {"every": 0},
        },
    },
}  # fmt: skip


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the CPU's kernels, so that both devices run the same operators."""
    monkeypatch.setattr(fused, "library", lambda: None)


def test_it_refuses_what_a_gpu_refuses() -> None:
    there = torch.arange(3.0, device=SECOND.device)
    assert (there + 1).cpu().tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="tensors on second and on cpu"):
        there * torch.ones(3)
    with pytest.raises(RuntimeError, match="tensors on second and on cpu"):
        there.cpu().index_select(0, torch.zeros(1, dtype=torch.int64, device=SECOND.device))


class _Stop(Exception):
    pass


class StopAfter:
    """A watcher that brings a run down after a step."""

    def __init__(self, stage: str, step: int) -> None:
        self.at = stage, step

    def on_stage(self, stage: str, config: Any, first_step: int) -> None: ...

    def on_step(self, stage: str, step: int, metrics: Any) -> None:
        if (stage, step) == self.at:
            raise _Stop

    def on_message(self, text: str) -> None: ...


def test_a_run_on_it_goes_through_and_resumes_to_the_last_bit(tmp_path: Path, plain: None) -> None:
    recipe = parse_recipe(RECIPE, where="here")
    run_recipe(recipe, tmp_path / "whole", [], placement=SECOND)
    assert read_json(tmp_path / "whole" / "run.json")["machine"]["accelerator"].startswith("second")
    with pytest.raises(_Stop):
        run_recipe(recipe, tmp_path / "again", [StopAfter("r1_zero", 1)], placement=SECOND)
    assert (tmp_path / "again" / "checkpoints" / "r1_zero" / "step-000000").is_dir()
    run_recipe(recipe, tmp_path / "again", [], only="r1_zero", placement=SECOND)
    result = Path("stages") / "r1_zero" / "result.json"
    digests = [read_json(tmp_path / name / result)["weights_sha256"] for name in ("whole", "again")]
    assert digests[0] == digests[1]
    # what it leaves is for any machine
    assert {w.device for w in open_artefact(tmp_path / "whole", "cpu").model.state_dict().values()} == {CPU}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_on_it_moves_the_weights_as_on_the_cpu(precision: Precision, plain: None) -> None:
    moved = []
    for device in (CPU, SECOND.device):
        model, c = tiny().to(device), config(max_completion_tokens=4)
        rollouts = sampled(model, c)
        optimizer = Optimizer(model, precision)
        advantages = torch.linspace(-1, 1, len(rollouts))
        tally = update(model, None, optimizer, rollouts, advantages, c, 1e-2)
        assert {p.device.type for p in (*model.parameters(), *optimizer._means)} == {device.type}
        moved.append((tally.loss, [m.cpu() for m in optimizer.masters.params]))
    assert moved[0][0] == pytest.approx(moved[1][0], rel=1e-2)
    # Adam's first step is as long for a small gradient as for a large one, so what bf16 rounds may turn it around
    tolerance = 1e-5 if precision == "fp32" else 2.1e-2
    for here, there in zip(moved[0][1], moved[1][1], strict=True):
        torch.testing.assert_close(there, here, atol=tolerance, rtol=0)


@pytest.mark.slow
def test_experts_latents_and_tokens_further_ahead_on_it(plain: None) -> None:
    model = tiny_model()
    model.recompute_activations = True
    params, prompts = SamplingParams(max_tokens=4), [[5, 6, 7], [8, 9]]
    wanted, tally = gradients(model, 80, WEIGHTS)
    completions = generate_ahead(model, TOKENIZER, prompts, [[1], [2]], params)[0]
    model.to(SECOND.device)
    found, again = gradients(model, 80, WEIGHTS)
    for here, there in zip(wanted, found, strict=True):
        torch.testing.assert_close(there.cpu(), here, atol=1e-5, rtol=1e-3)
    assert (again.mtp_loss, again.balance_loss) == pytest.approx((tally.mtp_loss, tally.balance_loss), rel=1e-4)
    drafted = generate_ahead(model, TOKENIZER, prompts, [[1], [2]], params)[0]
    assert [[c.tokens for c in g] for g in drafted] == [[c.tokens for c in g] for g in completions]


@pytest.mark.slow
@pytest.mark.parametrize("learns", ["helpfulness", "harmlessness"])
def test_a_reward_model_on_it(learns: str, plain: None) -> None:
    found, moved = examples(learns, 4), []
    for device in (CPU, SECOND.device):
        judge = scorer(learns)
        judge.model.to(device).init_head(7)
        # a large eps keeps Adam linear in the gradient
        tally, _ = update_reward_model(judge, Optimizer(judge.model, "fp32", eps=1e-2), found, 1e-2)
        scores = judge.score(*texts_of(found)).values
        moved.append((tally.loss, scores, [p.detach().cpu() for p in judge.model.parameters()]))
    (loss, scores, here), (other_loss, other_scores, there) = moved
    assert (other_loss, other_scores) == (pytest.approx(loss, rel=1e-4), pytest.approx(scores, abs=1e-4))
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kernels", [True, False])
def test_every_tensor_is_made_where_it_is_used(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says no device would land on `meta`, which no other device mixes with."""
    if not kernels:
        monkeypatch.setattr(fused, "library", lambda: None)
    model, c = tiny(), config(max_completion_tokens=4, top_p=0.9)
    advantages = torch.linspace(-1, 1, 24)
    with torch.device("meta"):
        rollouts = sampled(model, c)
        tally = update(model, None, Optimizer(model, "fp32"), rollouts, advantages, c, 1e-2)
    assert tally.grad_norms[0] > 0
