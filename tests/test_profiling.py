"""The profile of a real stage adds up, and its bytes are those that a hand counts."""

import json
from pathlib import Path

import pytest

from farthing.config import GrpoConfig, load_recipe
from farthing.errors import RecipeError
from farthing.models.shape import ModelShape
from farthing.profiling import StepProfile, model_before, only_stage, profile_recipe, rollout_bytes
from tests.conftest import MICRO


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[StepProfile, Path]:
    trace = tmp_path_factory.mktemp("profile") / "trace.json"
    return profile_recipe(load_recipe(str(MICRO)), None, 2, None, trace), trace


def test_phases_of_a_mean_step_add_up_to_it(profiled: tuple[StepProfile, Path]) -> None:
    found, _ = profiled
    assert found.stage == "r1_zero"
    assert {"rollout", "reward", "update", "weight_sync", "idle"} <= {p.name for p in found.phases}
    assert sum(p.seconds for p in found.phases) == pytest.approx(found.step_s, rel=0.05, abs=0.005)
    assert sum(p.share for p in found.phases) == pytest.approx(1)
    assert [p.seconds for p in found.phases] == sorted((p.seconds for p in found.phases), reverse=True)


def test_shares_of_the_machine_are_shares(profiled: tuple[StepProfile, Path]) -> None:
    found, _ = profiled
    assert 0 < found.mfu < 1
    assert found.rollout_bandwidth_share is not None
    assert 0 < found.rollout_bandwidth_share < 1
    assert found.padding is not None
    assert 0 <= found.padding < 1
    assert 0 < found.peak_memory_gib < 64


def test_operators_are_of_the_step_and_the_trace_opens(profiled: tuple[StepProfile, Path]) -> None:
    found, trace = profiled
    # how the forward pass multiplies depends on the machine; the backward pass of a weight is a plain product on all of them
    assert {"aten::mm", "aten::addmm"} & {o.name for o in found.operators}
    assert [o.self_cpu_s for o in found.operators] == sorted((o.self_cpu_s for o in found.operators), reverse=True)
    assert all(o.calls > 0 for o in found.operators)
    assert sum(o.share for o in found.operators) == pytest.approx(1)
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {o.name for o in found.operators} <= names


def test_rollout_bytes_by_hand() -> None:
    shape = ModelShape(
        vocab_size=10, width=4, num_layers=1, num_heads=1, num_kv_heads=1, head_width=4, ffn_width=4, max_positions=32
    )
    config = load_recipe(str(MICRO)).stages["r1_zero"]
    assert isinstance(config, GrpoConfig)
    # 4 prompts of 5 tokens x 4 completions of 10 tokens in 8 slots: 20 decoding steps, context 5 + 10/2 at the mean
    weights, cached = 20 * shape.num_params() * 4, 160 * 10 * 2 * 4 * 4
    assert rollout_bytes(shape, config, 20, 160, 4) == weights + cached


def test_the_stage_runs_alone_and_the_recipe_stays() -> None:
    recipe = load_recipe(str(MICRO))
    alone = only_stage(recipe, "base", 2, Path("elsewhere"))
    assert list(alone.stages) == ["base"]
    assert alone.model.source == "elsewhere"
    assert recipe.model.source == "scratch"
    with pytest.raises(RecipeError, match="no stage 'r2'; it has base, r1_zero"):
        only_stage(recipe, "r2", 2, None)


def test_a_run_directory_starts_from_the_stage_before(tmp_path: Path) -> None:
    recipe = load_recipe(str(MICRO))
    assert model_before(recipe, None, tmp_path) is None
    (tmp_path / "stages" / "base" / "model").mkdir(parents=True)
    assert model_before(recipe, None, tmp_path) == tmp_path / "stages" / "base" / "model"
    assert model_before(recipe, "base", tmp_path) is None
