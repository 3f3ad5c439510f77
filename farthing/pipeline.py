"""A recipe and a run directory -> its stages in order, each starting from the model the one before it left."""

from pathlib import Path
from typing import Any

import torch

from farthing.config import GrpoConfig, Recipe, StageConfig
from farthing.errors import RecipeError, TrainingDiverged
from farthing.models import fused
from farthing.models.decoder import Decoder
from farthing.models.huggingface import load_model
from farthing.precision import DTYPES, Precision, resolve_precision
from farthing.probe import matmul_peak_flops
from farthing.renderer import Renderer
from farthing.run import Run, Watcher, cpu_name
from farthing.sources import base_folder, scratch_model, use_threads
from farthing.stages import grpo, pretrain
from farthing.stages.stage import Stage
from farthing.tokenizer import Tokenizer


def run_recipe(recipe: Recipe, run_dir: Path, watchers: list[Watcher]) -> None:
    """Runs, or goes on with, every stage of `recipe` in `run_dir`; finished stages are not touched."""
    if not recipe.runnable:
        raise RecipeError(
            f"{recipe.name} is a published setting to plan with, not to run here; price it with "
            f"`farthing run {recipe.name} --dry-run`, or extend it in a recipe of your own with runnable = true"
        )
    use_threads(recipe.threads)
    with Run(run_dir, recipe, watchers) as run:
        precision = resolve_precision(recipe.precision)
        with run.phase("setup"):
            kernels = "built" if fused.library() is not None else "plain PyTorch"
            run.same_machine(cpu=cpu_name(), kernels=kernels, precision=precision, threads=torch.get_num_threads())
            peak_flops = run.machine_fact(f"matmul_peak_flops_{precision}", lambda: matmul_peak_flops(precision))
        done: str | None = None
        for name, config in recipe.stages.items():
            if run.result(name) is None:
                with run.phase("setup"):
                    model, tokenizer = open_model(recipe, run, done, precision)
                    renderer = Renderer(tokenizer, recipe.prompt.template, recipe.prompt.instruction, recipe.prompt.prefill)
                    stage: Stage[Any] = Stage(run, name, config, model, renderer, precision, peak_flops)
                _train(stage, config)
            done = name


def _train(stage: Stage[Any], config: StageConfig) -> None:
    try:
        if isinstance(config, GrpoConfig):
            grpo.train(stage)
        else:
            pretrain.train(stage)
    except TrainingDiverged as error:
        kept = stage.store().newest()
        back = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint of this stage yet"
        raise TrainingDiverged(
            f"{error}, in stage {stage.name} at step {stage.run.step}; {back}. Try a lower "
            f"{stage.name}.optim.learning_rate, more warm-up or a smaller clip_norm, in a new --run-dir"
        ) from error


def open_model(recipe: Recipe, run: Run, done: str | None, precision: Precision) -> tuple[Decoder, Tokenizer]:
    """The model a stage starts from: what stage `done` left, or the recipe's own source."""
    dtype = DTYPES[precision]
    if done is not None:
        folder = run.stage_dir(done) / "model"
        return load_model(folder, dtype), Tokenizer.load(folder)
    if recipe.model.source == "scratch":
        return scratch_model(recipe.model, recipe.seed)
    folder = base_folder(recipe.model, run.dir)
    return load_model(folder, dtype), Tokenizer.load(folder)
