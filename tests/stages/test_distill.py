"""Distillation in its three ways: a student comes nearer to its teacher, a killed run ends alike, wrong inputs are refused."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from farthing.artefact import open_artefact
from farthing.config import DistillConfig, Recipe, load_recipe
from farthing.data.batches import Row, microbatches
from farthing.data.sample_rows import SampleRows
from farthing.errors import DataError, FarthingError, RecipeError, RunError
from farthing.models.decoder import Decoder, init_weights
from farthing.models.huggingface import save_model
from farthing.optim import Optimizer
from farthing.pipeline import run_recipe
from farthing.profiling import phase_work
from farthing.sources import open_folder, stage_shape
from farthing.stages.distill import update
from farthing.stages.stage import batch_sizes
from tests.conftest import MICRO, farthing, farthing_json
from tests.stages.test_corpus_run import DieAt, Dies
from tests.test_resume import steps_logged, wait_for_steps

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


@pytest.fixture(scope="module")
def folders(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a teacher, a student) as Hugging Face folders; the teacher's embedding is padded beyond its tokenizer."""
    root = tmp_path_factory.mktemp("folders")
    teacher, tokenizer = open_folder(whole / "stages" / "r1_zero" / "model", torch.float32)
    shape = teacher.shape
    padded = Decoder(shape.model_copy(update={"vocab_size": shape.vocab_size + 7}))
    state = teacher.state_dict()
    padded.load_state_dict({**state, "embed.weight": torch.cat((teacher.embed.weight, torch.zeros(7, shape.width)))})
    save_model(padded, tokenizer, root / "teacher")
    shutil.copytree(whole / "stages" / "by_logits" / "model", root / "student")
    return root / "teacher", root / "student"


def test_a_teacher_and_a_student_from_folders(whole: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    teacher, student = folders
    overrides = [f"by_logits.teacher={teacher}", f"by_logits.student={{source='{student}'}}", "by_logits.num_steps=2"]
    shutil.copytree(whole, tmp_path / "run")
    recipe = load_recipe(str(MICRO_DISTILL), ["r1_zero.num_steps=1", "base.num_steps=3", *overrides])
    run_recipe(recipe, tmp_path / "run", [], only="by_logits")
    assert digests(tmp_path / "run")["by_logits"] != digests(whole)["by_logits"]
    kept = (teacher / "config.json").read_text()
    (teacher / "config.json").write_text(kept + " ")
    with pytest.raises(RunError, match=r"config\.json has changed since this run began"):
        run_recipe(recipe, tmp_path / "run", [], only="by_logits")
    (teacher / "config.json").write_text(kept)


def test_a_scratch_student_may_speak_its_teachers_tokens(whole: Path, tmp_path: Path) -> None:
    """And is found again with them, while its stage goes on, by whoever opens its checkpoint."""
    shutil.copytree(whole, tmp_path / "run")
    overrides = ["r1_zero.num_steps=1", "base.num_steps=3", "by_answers.student.tokenizer={kind='teacher'}"]
    overrides += ["by_answers.student.alphabet=''", "by_answers.teacher=r1_zero"]
    with pytest.raises(Dies):
        run_recipe(load_recipe(str(MICRO_DISTILL), overrides), tmp_path / "run", [DieAt(4)], only="by_answers")
    checkpoint = max((tmp_path / "run" / "checkpoints" / "by_answers").glob("step-*"))
    _, tokenizer = open_folder(whole / "stages" / "r1_zero" / "model", torch.float32)
    found = open_artefact(checkpoint)
    assert found.renderer.tokenizer.difference(tokenizer) == ""
    assert found.model.shape.vocab_size == tokenizer.vocab_size
    assert found.model.shape.family == "qwen3"


def test_what_would_be_done_is_forecast_for_the_students_own_size(tmp_path: Path) -> None:
    forecast = {s["name"]: s for s in farthing_json("run", MICRO_DISTILL, "--run-dir", tmp_path / "run", "--dry-run")["stages"]}
    assert "8 samples a step" in forecast["by_answers"]["arithmetic"]
    assert "6 steps, fewer where 2 passes over the data take fewer" in forecast["by_answers"]["arithmetic"]
    assert "4 prompts x 2 completions = 8 of the student's rollouts" in forecast["on_policy"]["arithmetic"]
    assert all(forecast[way]["seconds"] > 0 for way in WAYS)
    assert forecast["by_answers"]["memory_gib"] < forecast["base"]["memory_gib"]
    assert not (tmp_path / "run").exists()


def test_metrics_of_each_way_and_the_teachers_flops(recipe: Recipe, whole: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for row in map(json.loads, (whole / "metrics.jsonl").read_text().splitlines()):
        if row["stage"] in rows:
            rows[row["stage"]].append(row)
    assert not {"distill_kl", "distill_ce"} & rows["by_answers"][0].keys()
    assert {"distill_kl", "distill_ce", "samples", "epochs"} <= rows["by_logits"][0].keys()
    assert {"distill_kl", "accuracy", "completion_tokens", "rollout_tokens_per_s"} <= rows["on_policy"][0].keys()
    first = rows["by_logits"][0]
    assert first["loss"] == pytest.approx(0.75 * 2.0**2 * first["distill_kl"] + 0.25 * first["distill_ce"], rel=1e-4)
    assert all(row["logprob_gap_max"] < 1e-4 for row in rows["on_policy"])
    student, teacher = (stage_shape(recipe, whole, name) for name in ("by_logits", "r1_zero"))
    sizes = batch_sizes(microbatches(SampleRows(whole / "corpus" / "by_logits", recipe.seed).take(8), 8192))
    counted = phase_work(whole, "by_logits", range(1))["update"]["model_flops"]
    assert counted == 3 * student.forward_flops(*sizes) + teacher.forward_flops(*sizes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": None}, r"has one student: a table \[student\], or the model of the stage in `start_from`"),
        ({"start_from": "base"}, "has one student"),
        ({"data": []}, 'method = "logits" learns from `data`'),
        ({"teacher": ""}, 'method = "logits" needs a `teacher`'),
        ({"method": "sft"}, 'top_k is of method = "logits"'),
        ({"group_size": 8}, 'group_size is of method = "on_policy", not of "logits"'),
        ({"teachr": "base"}, "did you mean 'teacher'"),
        ({"divergence": "backward"}, "Input should be 'forward', 'reverse' or 'jsd'"),
        ({"student": {"source": "./small", "tokenizer": {"kind": "teacher"}}}, r"\./small brings its own"),
    ],
)
def test_a_table_that_says_too_much_or_too_little_is_refused(recipe: Recipe, changes: dict[str, Any], message: str) -> None:
    table = recipe.stages["by_logits"].model_dump() | changes
    with pytest.raises(ValidationError, match=message):
        DistillConfig.model_validate(table)


def test_on_policy_keeps_to_the_teacher_by_default_and_logits_cover_it(recipe: Recipe) -> None:
    kinds = {way: recipe.stages[way].model_dump()["divergence"] for way in ("by_logits", "on_policy")}
    assert kinds == {"by_logits": "forward", "on_policy": "reverse"}
    assert Recipe.model_validate(recipe.model_dump(mode="json")).digest() == recipe.digest()


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(whole: Path, tmp_path: Path) -> None:
    """SIGKILL in each of the three stages, wherever it strikes; what comes before is taken from the whole run."""
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    for way in WAYS:
        shutil.rmtree(run_dir / "stages" / way)
    settings = ("--set", "r1_zero.num_steps=1", "--set", "base.num_steps=3")
    command = [sys.executable, "-m", "farthing", "run", str(MICRO_DISTILL), "--run-dir", str(run_dir), "--plain", *settings]
    for num_steps in (3, 4, 4):
        before = steps_logged(run_dir)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for_steps(process, run_dir, before + num_steps)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    farthing("run", MICRO_DISTILL, "--run-dir", run_dir, "--plain", *settings)
    assert digests(run_dir) == digests(whole)
