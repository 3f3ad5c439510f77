"""Distillation in its three ways: a student comes nearer to its teacher, a killed run ends alike, wrong inputs are refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from farthing.config import DistillConfig, Recipe, load_recipe
from farthing.data.batches import Row
from farthing.errors import DataError, FarthingError, RecipeError
from farthing.models.decoder import Decoder, init_weights
from farthing.optim import Optimizer
from farthing.pipeline import run_recipe
from farthing.stages.distill import update
from tests.conftest import MICRO, farthing_json
from tests.stages.test_corpus_run import DieAt, Dies

MICRO_DISTILL = MICRO.with_name("micro_distill.toml")
WAYS = ("by_answers", "by_logits", "on_policy")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(str(MICRO_DISTILL), ["r1_zero.num_steps=1", "base.num_steps=3"])


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("distill") / "run"
    run_recipe(recipe, run_dir, [])
    return run_dir


def digests(run_dir: Path) -> dict[str, Any]:
    return {s["name"]: s["weights_sha256"] for s in farthing_json("show", run_dir)["stages"]}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_stage_ends_with_the_same_weights(recipe: Recipe, whole: Path, way: str, tmp_path: Path) -> None:
    """What comes before is taken from the whole run; the stage is killed behind its second checkpoint."""
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    with pytest.raises(Dies):
        run_recipe(recipe, run_dir, [DieAt(4)], again_from=way)
    assert (run_dir / "checkpoints" / way).is_dir()
    run_recipe(recipe, run_dir, [], again_from=way)
    assert digests(run_dir) == digests(whole)


def test_epochs_decide_how_many_steps_there_are(whole: Path) -> None:
    """24 samples, 2 passes, 8 a step; 20 steps are the most there may be."""
    stage = next(s for s in farthing_json("show", whole)["stages"] if s["name"] == "by_answers")
    assert stage["steps_done"] == 6
    assert stage["metrics"]["samples"] == 48
    assert stage["metrics"]["epochs"] == 2


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_a_student_comes_nearer_to_its_teacher(recipe: Recipe, kind: str) -> None:
    shape = recipe.model_of("by_logits").shape
    assert shape is not None
    config = recipe.stages["by_logits"]
    assert isinstance(config, DistillConfig)
    config = config.model_copy(update={"divergence": kind, "ce_weight": 0.0, "top_k": 0, "distill_temperature": 1.0})
    student, teacher = (Decoder(shape.shape(40)) for _ in range(2))
    init_weights(student, 0)
    init_weights(teacher, 1)
    rows = random_rows(8)
    with torch.no_grad():
        teacher.embed.weight.mul_(20)  # a teacher with opinions
    optimizer = Optimizer(student, "fp32")
    kl = [update(student, teacher, optimizer, rows, config, 1e-2).metrics("logits")["distill_kl"] for _ in range(30)]
    assert kl[-1] < 0.5 * kl[0]
    assert kl[0] > 0.1


def test_the_split_into_microbatches_does_not_change_the_update(recipe: Recipe) -> None:
    shape = recipe.model_of("by_logits").shape
    config = recipe.stages["by_logits"]
    assert shape is not None
    assert isinstance(config, DistillConfig)
    results = []
    for max_tokens in (24, 1024):
        student, teacher = (Decoder(shape.shape(40)) for _ in range(2))
        init_weights(student, 0)
        init_weights(teacher, 1)
        split = config.model_copy(update={"max_microbatch_tokens": max_tokens, "ce_weight": 0.25})
        tally = update(student, teacher, Optimizer(student, "fp32"), random_rows(8), split, 1e-3)
        results.append((tally.loss, tally.divergence, student.embed.weight.detach().clone()))
    assert results[0][:2] == pytest.approx(results[1][:2], rel=1e-5)
    torch.testing.assert_close(results[0][2], results[1][2], atol=1e-6, rtol=1e-4)


def random_rows(count: int) -> Sequence[Row]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(4, 20, (count,), generator=generator).tolist()
    return [Row(torch.randint(0, 40, (n,), generator=generator).tolist(), 2) for n in lengths]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["by_logits.teacher=r2"], RecipeError, "there is no such stage"),
        (["by_logits.method=sft"], RecipeError, "is of method = "),
        (["on_policy.tasks=[]"], RecipeError, "needs `tasks`"),
        (["by_answers.data=['nowhere.jsonl']"], DataError, "no such file"),
        (["by_answers.student.alphabet=0123456789"], DataError, "no token for"),
        (["by_logits.student.alphabet=abcdefghijklmnopqrstuvwxyz0123456789=?\n+-"], RecipeError, "tokenizers differ"),
        (["by_answers.student.shape.max_positions=16"], DataError, "more tokens than the 16 positions"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], error: type[FarthingError], message: str, tmp_path: Path) -> None:
    short = ["r1_zero.num_steps=1", "base.num_steps=1", "by_answers.num_steps=1"]
    with pytest.raises(error, match=message):
        run_recipe(load_recipe(str(MICRO_DISTILL), [*short, *overrides]), tmp_path / "run", [])


def test_an_empty_file_of_samples_is_refused_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text("")
    overrides = ["r1_zero.num_steps=1", "base.num_steps=1", f"by_answers.data={json.dumps([str(path)])}"]
    with pytest.raises(DataError, match=r"none\.jsonl is empty"):
        run_recipe(load_recipe(str(MICRO_DISTILL), overrides), tmp_path / "run", [])
