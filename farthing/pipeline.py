"""A recipe and a run directory -> its stages in order, each from the artefacts of those that it reads (config/graph.py)."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from farthing.checkpoint import CheckpointStore
from farthing.config import CorpusStageConfig, EvaluateConfig, GrpoConfig, PretrainConfig, Recipe
from farthing.config.graph import model_input
from farthing.data.corpora import corpus_digests
from farthing.errors import RecipeError, TrainingDiverged
from farthing.manifest import step_of
from farthing.models import fused
from farthing.origin import cpu_name
from farthing.precision import Precision, resolve_precision
from farthing.probe import matmul_peak_flops
from farthing.renderer import Renderer
from farthing.rerun import Planned, clear_forced, forget_forced, plan_stages, remember_forced
from farthing.run import Run, Watcher
from farthing.sources import use_threads
from farthing.stages import evaluate, grpo, pretrain
from farthing.stages.stage import Stage, open_input
from farthing.tasks.spec import parse_spec
from farthing.tasks.stream import ProblemStream

TRAIN: dict[str, Callable[[Stage[Any]], None]] = {
    "pretrain": pretrain.train,
    "sft": pretrain.train,
    "grpo": grpo.train,
    "evaluate": evaluate.train,
}
"""Kind of stage -> its loop."""


def run_recipe(recipe: Recipe, run_dir: Path, watchers: list[Watcher], only: str = "", again_from: str = "") -> None:
    """Runs, or goes on with, the stages of `recipe` in `run_dir`; what is done and has not changed is not touched.

    `only`: this stage alone. `again_from`: this stage and all that depend on it, whether or not they changed.
    """
    if not recipe.runnable:
        raise RecipeError(
            f"{recipe.name} is a published setting to plan with, not to run here; price it with "
            f"`farthing run {recipe.name} --dry-run`, or extend it in a recipe of your own with runnable = true"
        )
    use_threads(recipe.threads)
    with Run(run_dir, recipe, watchers) as run:
        plan = plan_stages(recipe, run_dir, only, again_from)
        precision = resolve_precision(recipe.precision)
        run.open_attempt(*progress(run, recipe, plan))
        with run.phase("setup"):
            check_tasks(recipe)
            run.same_inputs(input_digests(recipe))
            kernels = "built" if fused.library() is not None else "plain PyTorch"
            run.same_machine(cpu=cpu_name(), kernels=kernels, precision=precision, threads=torch.get_num_threads())
            peak_flops = run.machine_fact(f"matmul_peak_flops_{precision}", lambda: matmul_peak_flops(precision))
            run.note_device(cpu_name(), peak_flops, f"measured: {precision} matrix product")
        remember_forced(recipe, run_dir, again_from)
        for planned in plan:
            if planned.action == "again":
                run.supersede(planned.name, planned.why)
        for planned in plan:
            if planned.action in ("run", "again", "resume"):
                _run_stage(run, planned, precision, peak_flops)
                run.stop_if_asked()
        clear_forced(run_dir)


def _run_stage(run: Run, planned: Planned, precision: Precision, peak_flops: float) -> None:
    recipe, name = run.recipe, planned.name
    config = recipe.stages[name]
    with run.phase("setup"):
        forget_forced(run.dir, name)
        run.open_stage(name, planned.key)
        model, tokenizer = open_input(run, model_input(recipe.stages, name), precision)
        renderer = Renderer(tokenizer, recipe.prompt.template, recipe.prompt.instruction, recipe.prompt.prefill)
        stage: Stage[Any] = Stage(run, name, config, model, renderer, precision, peak_flops)
    _train(stage)


def progress(run: Run, recipe: Recipe, plan: list[Planned]) -> tuple[str, int]:
    """(stage, last step that is kept): where this attempt goes on; (stage, -1) at the start of a stage."""
    for planned in plan:
        config = recipe.stages[planned.name]
        store = CheckpointStore(run.checkpoints_dir(planned.name), config.checkpoint.keep_last, False, run.message)
        if planned.action == "keep":
            store.clear()
        elif planned.action == "resume":
            newest = store.newest()
            return planned.name, -1 if newest is None else step_of(newest)
        elif planned.action in ("run", "again"):
            return planned.name, -1
    return planned.name, config.num_steps - 1


def check_tasks(recipe: Recipe) -> None:
    """Opens every stage's tasks: a typo in the last one must not be found after hours of the first."""
    limit = recipe.model.shape.max_positions if recipe.model.shape else None
    for name, config in recipe.stages.items():
        if isinstance(config, EvaluateConfig):
            for suite in config.suites.values():
                ProblemStream(suite.tasks, recipe.seed, suite.test_share).held_out(suite.num_problems)
        if isinstance(config, PretrainConfig) and config.corpus and limit is not None:
            pretrain.window_tokens(config, limit)
        if not isinstance(config, CorpusStageConfig | GrpoConfig) or not config.tasks:
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
    asked = [config for config in recipe.stages.values() if isinstance(config, CorpusStageConfig | GrpoConfig)]
    suites = [s for c in recipe.stages.values() if isinstance(c, EvaluateConfig) for s in c.suites.values()]
    specs = [parse_spec(task.spec, task.config) for config in (*asked, *suites) for task in config.tasks]
    paths = {Path(spec.name) for spec in specs if spec.source == "jsonl"}
    if recipe.model.tokenizer.folder:
        paths.add(Path(recipe.model.tokenizer.folder) / "tokenizer.json")
    corpora = {Path(p) for c in recipe.stages.values() if isinstance(c, PretrainConfig) for p in c.corpus}
    corpora |= {Path(p) for p in recipe.model.tokenizer.corpus}
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths) if path.is_file()}
    return digests | corpus_digests(sorted(corpora))


def _train(stage: Stage[Any]) -> None:
    try:
        TRAIN[stage.config.kind](stage)
    except TrainingDiverged as error:
        kept = stage.store().newest()
        back = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint of this stage yet"
        raise TrainingDiverged(
            f"{error}, in stage {stage.name} at step {stage.run.step}; {back}. Try a lower "
            f"{stage.name}.optim.learning_rate, more warm-up or a smaller clip_norm, in a new --run-dir"
        ) from error
