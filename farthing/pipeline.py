"""A recipe and a run directory -> its stages in order, each from the artefacts of those that it reads (config/graph.py)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from farthing.attempt import file_sha256
from farthing.bought import priced
from farthing.checkpoint import CheckpointStore
from farthing.config import (
    AskingStage,
    CollectConfig,
    DistillConfig,
    EvaluateConfig,
    PretrainConfig,
    Recipe,
    RejectionSamplingConfig,
    SftConfig,
    StageConfig,
)
from farthing.config.graph import OWN, model_input
from farthing.data.corpora import corpus_digests
from farthing.endpoint import read_key
from farthing.errors import DataError, RecipeError, TrainingDiverged
from farthing.manifest import step_of
from farthing.models import fused
from farthing.models.fp8_linear import EMULATED, has_fp8_products
from farthing.origin import cpu_name
from farthing.precision import Precision, compute_dtype, compute_precision, resolve_precision
from farthing.probe import matmul_peak_flops
from farthing.renderer import Renderer
from farthing.rerun import Planned, clear_forced, forget_forced, plan_stages, remember_forced
from farthing.run import Run, Watcher
from farthing.sources import starting_model, use_threads
from farthing.stages import cold_start, distill, evaluate, grpo, pretrain, rejection_sampling, sft
from farthing.stages.stage import Stage, open_input
from farthing.tasks.spec import parse_spec
from farthing.tasks.stream import ProblemStream

TRAIN: dict[str, Callable[[Stage[Any]], None]] = {
    "pretrain": pretrain.train,
    "sft": sft.train,
    "grpo": grpo.train,
    "cold_start": cold_start.train,
    "rejection_sampling": rejection_sampling.train,
    "distill": distill.train,
    "evaluate": evaluate.train,
}
"""Kind of stage -> its loop."""
TO_RUN = ("run", "again", "resume")


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
        compute = compute_precision(precision)
        run.open_attempt(*progress(run, recipe, plan))
        with run.phase("setup"):
            check_tasks(recipe)
            check_helpers(recipe, plan)
            run.same_inputs(input_digests(recipe))
            kernels = "built" if fused.library() is not None else "plain PyTorch"
            run.same_machine(cpu=cpu_name(), kernels=kernels, precision=compute, threads=torch.get_num_threads())
            peak_flops = run.machine_fact(f"matmul_peak_flops_{compute}", lambda: matmul_peak_flops(compute))
            run.note_device(cpu_name(), peak_flops, f"measured: {compute} matrix product")
            if precision == "fp8" and not has_fp8_products(torch.device("cpu")):
                run.message(EMULATED)
        remember_forced(recipe, run_dir, again_from)
        for planned in plan:
            if planned.action == "again":
                run.supersede(planned.name, planned.why)
        for planned in plan:
            if planned.action in TO_RUN:
                _run_stage(run, planned, precision, peak_flops)
                run.stop_if_asked()
        clear_forced(run_dir)


def _run_stage(run: Run, planned: Planned, precision: Precision, peak_flops: float) -> None:
    recipe, name = run.recipe, planned.name
    config = recipe.stages[name]
    with run.phase("setup"):
        forget_forced(run.dir, name)
        run.open_stage(name, planned.key)
        start = model_input(recipe.stages, name)
        if start == OWN:
            model, tokenizer = starting_model(recipe, run.dir, name, compute_dtype(precision))
        else:
            model, tokenizer = open_input(run, start, precision)
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
    """Opens every stage's tasks and files: a typo in the last one must not be found after hours of the first."""
    for name, config in recipe.stages.items():
        _check_files(name, config)
        if isinstance(config, RejectionSamplingConfig) and config.general and config.general.tasks:
            ProblemStream(config.general.tasks, recipe.seed, config.test_share)
        if isinstance(config, EvaluateConfig):
            for suite in config.suites.values():
                ProblemStream(suite.tasks, recipe.seed, suite.test_share).held_out(suite.num_problems)
        shape = recipe.model_of(name).shape
        if isinstance(config, PretrainConfig) and config.corpus and shape is not None:
            pretrain.window_tokens(config, shape.max_positions)
        if not isinstance(config, AskingStage | CollectConfig) or not config.tasks:  # a corpus, or samples alone
            continue
        stream = ProblemStream(config.tasks, recipe.seed, config.test_share)
        if isinstance(config, AskingStage) and config.eval is not None:
            stream.held_out(config.eval.num_problems)
        if shape is not None and config.max_completion_tokens >= shape.max_positions:
            raise RecipeError(
                f"{name}.max_completion_tokens = {config.max_completion_tokens} leaves no room for a prompt in the model's "
                f"{shape.max_positions} positions; lower it or raise shape.max_positions"
            )


def _check_files(name: str, config: StageConfig) -> None:
    for file in _sample_files(config):
        if not Path(file).is_file():
            raise DataError(f"{name} names {file}, and there is no such file; correct the path, or make the file first")
    for key, folder in _model_folders(config).items():
        if not (Path(folder) / "config.json").is_file():
            raise RecipeError(
                f"{name}.{key} = {folder!r} is no Hugging Face folder: it has no config.json. Correct the path, or name "
                "a stage of the recipe"
            )


def check_helpers(recipe: Recipe, plan: list[Planned]) -> None:
    """Keys and prices of the endpoints that the stages to come will ask: PriceError or RecipeError where one is missing."""
    for planned in plan:
        config = recipe.stages[planned.name]
        if planned.action in TO_RUN and isinstance(config, CollectConfig):
            for asked in config.helpers.values():
                if asked.endpoint is not None:
                    read_key(asked.endpoint)
                    priced(asked.endpoint)


def _sample_files(config: StageConfig) -> list[str]:
    if isinstance(config, DistillConfig | SftConfig):
        return config.data_files
    return config.general.files if isinstance(config, RejectionSamplingConfig) and config.general else []


def _model_folders(config: StageConfig) -> dict[str, str]:
    """Key -> path of the Hugging Face folders that a stage reads besides its own model."""
    if isinstance(config, DistillConfig):
        return {"teacher": config.teacher} if config.has_teacher_folder else {}
    if isinstance(config, CollectConfig):
        return {f"{role}.model": asked.model for role, asked in config.helpers.items() if asked.is_folder}
    return {}


def input_digests(recipe: Recipe) -> dict[str, str]:
    """sha256 of the files that the recipe's stages read, and of the corpora and the tokenizer it is trained with."""
    asked = [config for config in recipe.stages.values() if isinstance(config, AskingStage | CollectConfig)]
    general = [c.general for c in recipe.stages.values() if isinstance(c, RejectionSamplingConfig) and c.general]
    suites = [s for c in recipe.stages.values() if isinstance(c, EvaluateConfig) for s in c.suites.values()]
    specs = [parse_spec(task.spec, task.config) for config in (*asked, *suites, *general) for task in config.tasks]
    paths = {Path(spec.name) for spec in specs if spec.source == "jsonl"}
    models = [recipe.model, *(own for config in recipe.stages.values() if (own := config.own_model()) is not None)]
    paths |= {Path(m.tokenizer.folder) / "tokenizer.json" for m in models if m.tokenizer.folder}
    for config in recipe.stages.values():
        paths |= {Path(file) for file in _sample_files(config)}
        paths |= {path for folder in _model_folders(config).values() for path in Path(folder).glob("*.safetensors")}
    corpora = {Path(p) for c in recipe.stages.values() if isinstance(c, PretrainConfig) for p in c.corpus}
    corpora |= {Path(p) for m in models for p in m.tokenizer.corpus}
    digests = {str(path): file_sha256(path) for path in sorted(paths) if path.is_file()}
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
