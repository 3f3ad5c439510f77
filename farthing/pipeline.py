"""A recipe and a run directory -> its stages in order, each starting from the model the one before it left."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from farthing.checkpoint import CheckpointStore
from farthing.config import GrpoConfig, PretrainConfig, Recipe, StageConfig
from farthing.data.corpora import corpus_digests
from farthing.errors import RecipeError, TrainingDiverged
from farthing.manifest import step_of
from farthing.models import fused
from farthing.models.fp8_linear import EMULATED, has_fp8_products
from farthing.origin import cpu_name
from farthing.precision import compute_dtype, compute_precision, resolve_precision
from farthing.probe import matmul_peak_flops
from farthing.renderer import Renderer
from farthing.run import Run, Watcher
from farthing.sources import open_folder, source_model, use_threads
from farthing.stages import grpo, pretrain
from farthing.stages.stage import Stage
from farthing.tasks.spec import parse_spec
from farthing.tasks.stream import ProblemStream


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
        compute, dtype = compute_precision(precision), compute_dtype(precision)
        run.open_attempt(*progress(run, recipe))
        with run.phase("setup"):
            check_tasks(recipe)
            run.same_inputs(input_digests(recipe))
            kernels = "built" if fused.library() is not None else "plain PyTorch"
            run.same_machine(cpu=cpu_name(), kernels=kernels, precision=compute, threads=torch.get_num_threads())
            peak_flops = run.machine_fact(f"matmul_peak_flops_{compute}", lambda: matmul_peak_flops(compute))
            run.note_device(cpu_name(), peak_flops, f"measured: {compute} matrix product")
        done: str | None = None
        for name, config in recipe.stages.items():
            if run.result(name) is None:
                with run.phase("setup"):
                    if done is None:
                        model, tokenizer = source_model(recipe.model, recipe.seed, run.dir, dtype)
                    else:
                        model, tokenizer = open_folder(run.stage_dir(done) / "model", dtype)
                    renderer = Renderer(tokenizer, recipe.prompt.template, recipe.prompt.instruction, recipe.prompt.prefill)
                    stage: Stage[Any] = Stage(run, name, config, model, renderer, precision, peak_flops)
                    if precision == "fp8" and not has_fp8_products(model.embed.weight.device):
                        run.message(EMULATED)
                _train(stage, config)
            done = name
            run.stop_if_asked()


def progress(run: Run, recipe: Recipe) -> tuple[str, int]:
    """(stage, last step that is kept): where this attempt goes on; (stage, -1) at the start of a stage."""
    for name, config in recipe.stages.items():
        store = CheckpointStore(run.checkpoints_dir(name), config.checkpoint.keep_last, False, run.message)
        if run.result(name) is None:
            newest = store.newest()
            return name, -1 if newest is None else step_of(newest)
        store.clear()
    return name, config.num_steps - 1


def check_tasks(recipe: Recipe) -> None:
    """Opens every stage's tasks: a typo in the last one must not be found after hours of the first."""
    limit = recipe.model.shape.max_positions if recipe.model.shape else None
    for name, config in recipe.stages.items():
        if not config.tasks:  # it trains on a corpus
            continue
        stream = ProblemStream(config.tasks, recipe.seed, config.test_share)
        if config.eval is not None:
            stream.held_out(config.eval.num_problems)
        if limit is not None and config.max_completion_tokens >= limit:
            raise RecipeError(
                f"{name}.max_completion_tokens = {config.max_completion_tokens} leaves no room for a prompt in the model's "
                f"{limit} positions; lower it or raise model.shape.max_positions"
            )


def input_digests(recipe: Recipe) -> dict[str, str]:
    """sha256 of the files that the recipe's tasks read, and of the corpora and the tokenizer it is trained with."""
    specs = [parse_spec(task.spec, task.config) for config in recipe.stages.values() for task in config.tasks]
    paths = {Path(spec.name) for spec in specs if spec.source == "jsonl"}
    if recipe.model.tokenizer.folder:
        paths.add(Path(recipe.model.tokenizer.folder) / "tokenizer.json")
    corpora = {Path(p) for c in recipe.stages.values() if isinstance(c, PretrainConfig) for p in c.corpus}
    corpora |= {Path(p) for p in recipe.model.tokenizer.corpus}
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths) if path.is_file()}
    return digests | corpus_digests(sorted(corpora))


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
