"""A MODEL argument -> a model to use: a run directory (its newest weights), a checkpoint, or a Hugging Face folder."""

from pathlib import Path
from typing import NamedTuple

import torch

from farthing.checkpoint import CheckpointStore, load_state
from farthing.config import AcceleratorChoice, PromptConfig, Recipe
from farthing.engine.engine import Engine
from farthing.errors import ModelError
from farthing.models.decoder import Decoder
from farthing.placement import place
from farthing.precision import compute_dtype, resolve_precision, set_precision
from farthing.renderer import Renderer
from farthing.sources import open_folder, starting_model
from farthing.summary import recipe_of
from farthing.tokenizer import Tokenizer


class Artefact(NamedTuple):
    """A model with how it is asked; `recipe` and `stage` where it came out of a run."""

    model: Decoder
    renderer: Renderer
    recipe: Recipe | None
    stage: str | None

    def engine(self, num_slots: int = 256) -> Engine:
        return Engine(self.model, self.renderer.tokenizer, num_slots)


def open_artefact(path: Path, accelerator: AcceleratorChoice = "auto") -> Artefact:
    """The model on `accelerator`. ModelError where `path` is none of the three."""
    path, device = path.resolve(), place(accelerator).device
    if (path / "run.json").is_file():
        return _from_run(path, device)
    if (path / "manifest.json").is_file():
        run_dir = path.parents[2]
        return _from_checkpoint(path, recipe_of(run_dir), path.parent.name, run_dir, device)
    if (path / "config.json").is_file():
        model, tokenizer = open_folder(path, torch.float32)
        recipe, stage = _origin(path)
        return Artefact(model.to(device), _renderer(tokenizer, recipe), recipe, stage)
    raise ModelError(
        f"{path} is no model: expected a run directory (run.json), a checkpoint (manifest.json) or a Hugging Face "
        "folder (config.json). See your runs with `farthing runs`"
    )


def _from_run(run_dir: Path, device: torch.device) -> Artefact:
    """The newest checkpoint of the stage in progress, else the model of the last stage that is done."""
    recipe = recipe_of(run_dir)
    for stage in reversed(recipe.stages):
        if recipe.stages[stage].leaves != "model":
            continue
        folder = run_dir / "stages" / stage / "model"
        if folder.is_dir():
            precision = resolve_precision(recipe.precision, device)
            model, tokenizer = open_folder(folder, compute_dtype(precision, device))
            set_precision(model.to(device), precision)
            return Artefact(model, _renderer(tokenizer, recipe), recipe, stage)
        newest = CheckpointStore(run_dir / "checkpoints" / stage, 1, False, lambda _: None).newest()
        if newest is not None:
            return _from_checkpoint(newest, recipe, stage, run_dir, device)
    raise ModelError(f"{run_dir} has no weights yet: no stage is done and there is no checkpoint; let it run on")


def _from_checkpoint(path: Path, recipe: Recipe, stage: str, run_dir: Path, device: torch.device) -> Artefact:
    if recipe.stages[stage].leaves != "model":
        raise ModelError(f"{path} is of stage {stage}, which leaves no model but a {recipe.stages[stage].leaves}; name another")
    model, tokenizer = starting_model(recipe, run_dir, stage, torch.float32)
    model.load_state_dict(load_state(path)["optimizer"]["masters"], strict=False)
    set_precision(model.to(device), resolve_precision(recipe.precision, device))
    return Artefact(model, _renderer(tokenizer, recipe), recipe, stage)


def _origin(folder: Path) -> tuple[Recipe | None, str | None]:
    """RUN/stages/STAGE/model and .../best know their run; a folder from elsewhere does not."""
    if folder.name in ("model", "best") and len(folder.parents) > 2 and (folder.parents[2] / "run.json").is_file():
        return recipe_of(folder.parents[2]), folder.parent.name
    return None, None


def _renderer(tokenizer: Tokenizer, recipe: Recipe | None) -> Renderer:
    """As the recipe asks; without one by the model's chat template, or bare where it has none."""
    prompt = recipe.prompt if recipe is not None else PromptConfig(template="chat" if tokenizer.chat_template else "bare")
    return Renderer(tokenizer, prompt.template, prompt.instruction, prompt.prefill)
