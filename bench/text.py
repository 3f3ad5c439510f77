"""A corpus that every machine with Python has, its standard library, and v3-tiny's model on it: where losses are compared."""

import json
import math
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from farthing.artefact import Artefact
from farthing.config import PretrainConfig, Recipe, load_recipe
from farthing.data.batches import microbatches
from farthing.data.documents import DocumentStream
from farthing.models.head import completion_logprobs
from farthing.stages.pretrain import window_tokens

RECIPE = Path(__file__).with_name("text.toml")
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
FEWEST_CHARACTERS = 200
NOTE = (
    f"The text is Python's standard library, {sys.version_info.major}.{sys.version_info.minor}, a module a document, "
    "in 1,024 byte-level tokens; 2.5M parameters, 1.1M active, windows of 256 tokens, 8 a step."
)


def prepare(folder: Path) -> Path:
    """Writes the corpus and the recipe beside it -> the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_path("stdlib"))
    with (folder / "text.jsonl").open("w") as file:
        for path in sorted(library.rglob("*.py")):
            text = path.read_text(errors="replace")
            if not LEFT_OUT & set(path.relative_to(library).parts) and len(text) >= FEWEST_CHARACTERS:
                file.write(json.dumps({"text": text}) + "\n")
    return Path(shutil.copy(RECIPE, folder))


def recipe_without_text(overrides: Sequence[str] = ()) -> Recipe:
    """For its shapes."""
    return load_recipe(str(RECIPE), overrides)


def run_all(kinds: Mapping[str, Sequence[str]], seeds: Sequence[int], steps: int, folder: Path) -> dict[tuple[str, int], Path]:
    """(kind, seed) -> where `steps` steps of the recipe, with the kind's overrides, are done or have been done before.

    Kinds in turn, seed by seed: a machine that drifts meets all of them.
    """
    recipe = prepare(folder)
    return {(kind, seed): _run(recipe, kind, kinds[kind], seed, steps) for seed in seeds for kind in kinds}


def _run(recipe: Path, kind: str, overrides: Sequence[str], seed: int, steps: int) -> Path:
    run_dir = recipe.parent / f"{kind.replace(', ', '-').replace(' ', '-')}-{steps}-s{seed}"
    if not (run_dir / "stages" / "base" / "result.json").is_file():
        command = [sys.executable, "-m", "farthing", "run", str(recipe), "--run-dir", str(run_dir), "--plain"]
        command += ["--seed", str(seed), "--set", f"base.num_steps={steps}"]
        for override in overrides:
            command += ["--set", override]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return run_dir


@torch.no_grad()
def bits_per_byte(run_dir: Path, artefact: Artefact, num_documents: int) -> float:
    """Of the first held-out documents of a run, by a model of it."""
    assert artefact.recipe is not None, "it comes out of a run"
    config = artefact.recipe.stages["base"]
    assert isinstance(config, PretrainConfig)
    window = window_tokens(config, artefact.model.shape.max_positions)
    documents = DocumentStream(run_dir / "corpus" / "base", window, artefact.recipe.seed, config.test_share)
    rows, num_bytes = documents.held_out(num_documents)
    batches = microbatches(rows, config.max_microbatch_tokens, share_prompts=False)
    total = sum(float(completion_logprobs(artefact.model, batch)[0].sum()) for batch in batches)
    return -total / math.log(2) / num_bytes
