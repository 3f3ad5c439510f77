"""A recipe and a run directory -> its stages in order, each from the artefacts of those that it reads (config/graph.py)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from farthing.bought import pay_what_is_owed
from farthing.checkpoint import CheckpointStore
from farthing.config import Recipe
from farthing.config.graph import OWN, model_input
from farthing.errors import RecipeError, TrainingDiverged
from farthing.inputs import check_helpers, check_inputs, input_digests, who_asks
from farthing.manifest import step_of
from farthing.models import fused
from farthing.models.fp8_linear import EMULATED, has_fp8_products
from farthing.origin import cpu_name
from farthing.placement import Placement, place, price_note
from farthing.precision import Precision, compute_dtype, compute_precision, resolve_precision
from farthing.probe import matmul_peak_flops
from farthing.renderer import Renderer
from farthing.rerun import TO_RUN, Planned, clear_forced, forget_forced, plan_stages, remember_forced
from farthing.run import Run, Watcher
from farthing.sources import starting_model, use_threads
from farthing.stages import (
    align,
    cold_start,
    distill,
    evaluate,
    grpo,
    pretrain,
    rejection_sampling,
    reward_model,
    sft,
)
from farthing.stages.stage import Stage, open_input

TRAIN: dict[str, Callable[[Stage[Any]], None]] = {
    "pretrain": pretrain.train,
    "sft": sft.train,
    "grpo": grpo.train,
    "cold_start": cold_start.train,
    "rejection_sampling": rejection_sampling.train,
    "reward_model": reward_model.train,
    "align": align.train,
    "distill": distill.train,
    "evaluate": evaluate.train,
}
"""Kind of stage -> its loop."""


def run_recipe(
    recipe: Recipe,
    run_dir: Path,
    watchers: list[Watcher],
    only: str = "",
    again_from: str = "",
    placement: Placement | None = None,
) -> None:
    """Runs, or goes on with, the stages of `recipe` in `run_dir`; what is done and has not changed is not touched.

    `only`: this stage alone. `again_from`: this stage and all that depend on it, whether or not they changed.
    `placement`: where to compute; by default where the recipe's accelerator is.
    """
    if not recipe.runnable:
        raise RecipeError(
            f"{recipe.name} is a published setting to plan with, not to run here; price it with "
            f"`farthing run {recipe.name} --dry-run`, or extend it in a recipe of your own with runnable = true"
        )
    use_threads(recipe.threads)
    placement = placement or place(recipe.accelerator, recipe.device)
    placement.prepare()
    with Run(run_dir, recipe, watchers, placement) as run:
        plan = plan_stages(recipe, run_dir, only, again_from)
        precision = resolve_precision(recipe.precision, placement.device)
        compute = compute_precision(precision, placement.device)
        if note := price_note(placement, recipe.device):
            run.message(note)
        run.open_attempt(*progress(run, recipe, plan))
        with run.phase("setup"):
            check_inputs(recipe)
            check_helpers(recipe, plan)
            run.same_inputs(input_digests(recipe))
            kernels = "built" if fused.library() is not None else "plain PyTorch"
            run.same_machine(cpu=cpu_name(), kernels=kernels, precision=compute, threads=torch.get_num_threads())
            run.same_machine(accelerator=placement.name)
            peak_flops = run.machine_fact(f"matmul_peak_flops_{compute}", lambda: matmul_peak_flops(compute, placement))
            run.note_device(placement.name, peak_flops, f"measured: {compute} matrix product")
            if precision == "fp8" and not has_fp8_products(placement.device):
                run.message(EMULATED)
        pay_what_is_owed(run, who_asks(recipe, plan))
        remember_forced(recipe, run_dir, again_from)
        for planned in plan:
            if planned.action == "again":
                run.supersede(planned.name, planned.why)
        for number, planned in enumerate(p for p in plan if p.action in TO_RUN):
            if number:
                run.stop_if_asked()
            _run_stage(run, planned, precision, peak_flops)
        clear_forced(run_dir)


def _run_stage(run: Run, planned: Planned, precision: Precision, peak_flops: float) -> None:
    recipe, name = run.recipe, planned.name
    config = recipe.stages[name]
    with run.phase("setup"):
        forget_forced(run.dir, name)
        run.open_stage(name, planned.key)
        start = model_input(recipe.stages, name)
        if start == OWN:
            device = run.accelerator.device
            model, tokenizer = starting_model(recipe, run.dir, name, compute_dtype(precision, device))
            model.to(device)
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
