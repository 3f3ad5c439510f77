"""Latent attention's cache: bytes per token at V3's shape, and decode tokens/s against grouped queries of equal width."""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from bench.results import Figure, write
from farthing.config import load_recipe
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.models.decoder import Decoder, init_weights
from farthing.models.shape import ModelShape
from farthing.tokenizer import Tokenizer

SIZES = {"width": 256, "num_layers": 4, "num_heads": 8, "ffn_width": 704, "max_positions": 1024}
MLA = {"kv_lora_rank": 64, "qk_nope_head_width": 16, "qk_rope_head_width": 16, "v_head_width": 32}
GQA_HEADS_AT_V3 = 8
"""Key/value heads of the grouped queries that others of V3's size have."""
DENSE = {"num_experts": 1, "experts_per_token": 1, "expert_width": 1, "first_k_dense": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    shape = load_recipe("v3-671b").planned_shape
    assert shape is not None, "the recipe states it"
    share = shape.cache_bytes_per_token(2) / shape.gqa_cache_bytes_per_token(2, shape.num_heads)
    tokenizer = Tokenizer.characters("0123456789")
    models = {
        "GQA, 4 of 8 heads": {"family": "llama", "num_kv_heads": 4, "head_width": 32},
        "MLA": {"family": "deepseek_v3", "mla": MLA, "moe": DENSE},
    }
    engines = {}
    for name, kind in models.items():
        model = Decoder(ModelShape.model_validate({**SIZES, **kind, "vocab_size": tokenizer.vocab_size}))
        init_weights(model, seed=0)
        engines[name] = Engine(model, tokenizer, args.slots)
    groups = shape.gqa_cache_bytes_per_token(2, GQA_HEADS_AT_V3) / shape.gqa_cache_bytes_per_token(2, shape.num_heads)
    figures = [
        Figure("cache at V3's shape, MLA over MHA", share, "", 1, "at most 0.02", share <= 0.02),
        Figure(f"cache at V3's shape, GQA of {GQA_HEADS_AT_V3} heads over MHA", groups, "", 1),
    ]
    for case, num_prompts in (("one prompt for all", 1), ("a prompt each", args.slots)):
        found: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(args.repeats):  # taken in turn, so that a busy moment meets both
            for name, engine in engines.items():
                found[name].append(tokens_per_s(engine, num_prompts, args))
        for name, values in found.items():
            figures.append(
                Figure(f"decode, {case}, {name}", median(values), "tokens/s", args.repeats, spread=(min(values), max(values)))
            )
        ratio = median(found["MLA"]) / median(found["GQA, 4 of 8 heads"])
        figures.append(Figure(f"decode, {case}, MLA over GQA", ratio, "x", args.repeats, "at least 1x", ratio >= 1))
    sizes = f"--slots {args.slots} --prompt {args.prompt} --tokens {args.tokens} --repeats {args.repeats}"
    return write(
        "mla", f"python -m bench mla {sizes}", figures, note="Random weights, fp32, without the prefill; taken in turn."
    )


def tokens_per_s(engine: Engine, num_prompts: int, args: argparse.Namespace) -> float:
    """Of `slots` completions in all, spread over the prompts."""
    prompts = torch.randint(2, 12, (num_prompts, args.prompt), generator=torch.Generator().manual_seed(0)).tolist()
    seeds = [[args.slots * p + i for i in range(args.slots // num_prompts)] for p in range(num_prompts)]
    times = []
    for tokens in (1, args.tokens):  # the first is there with the prefill
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        started = time.perf_counter()
        engine.generate(prompts, seeds, params)
        times.append(time.perf_counter() - started)
    return float(args.slots * (args.tokens - 1) / (times[1] - times[0]))
