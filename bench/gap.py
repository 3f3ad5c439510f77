"""Engine against trainer on the same weights: mean |rollout_logprobs - logprobs|, fp32, bf16 and fp8, two models."""

import argparse
import random
import tempfile
from pathlib import Path
from typing import get_args

import torch

from bench.results import Figure, write
from farthing.config import load_recipe
from farthing.data.batches import Row, lay_out, microbatches
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.models.decoder import Decoder
from farthing.models.head import completion_logprobs
from farthing.placement import CPU
from farthing.precision import Precision, compute_dtype, set_precision
from farthing.sources import source_model, use_threads
from farthing.tokenizer import Tokenizer

PROMPTS, GROUP, NEW_TOKENS = 8, 4, 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(measure=measure)


def measure(_args: argparse.Namespace) -> Path:
    use_threads(0)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("r1-zero-tiny", "r1-zero-smollm2"):
            for precision in get_args(Precision):
                model, tokenizer = source_model(load_recipe(name).model, 0, Path(folder), compute_dtype(precision, CPU))
                set_precision(model, precision)
                mean, largest, count = gap(model, tokenizer)
                target = "at most 1e-3 nats" if precision == "fp32" else "reported"
                reached = mean <= 1e-3 if precision == "fp32" else None
                figures.append(Figure(f"{name}, {precision}, mean", mean, "nats", count, target, reached))
                figures.append(Figure(f"{name}, {precision}, largest", largest, "nats", count))
    return write("gap", "python -m bench gap", figures, "Sampled at temperature 1; scored by one packed training forward.")


@torch.no_grad()
def gap(model: Decoder, tokenizer: Tokenizer) -> tuple[float, float, int]:
    """Mean and largest gap over the tokens of a few sampled completions."""
    rng = random.Random(0)
    prompts = [[rng.randrange(5, tokenizer.vocab_size) for _ in range(rng.randint(16, 48))] for _ in range(PROMPTS)]
    seeds = [[rng.randrange(1 << 40) for _ in range(GROUP)] for _ in prompts]
    groups = Engine(model, tokenizer, PROMPTS * GROUP).generate(prompts, seeds, SamplingParams(max_tokens=NEW_TOKENS))
    pairs = [(prompt, c) for prompt, group in zip(prompts, groups, strict=True) for c in group]
    rows = [Row([*prompt, *c.tokens], len(prompt)) for prompt, c in pairs]
    total, largest, count = 0.0, 0.0, 0
    for batch in microbatches(rows, 2048):
        logprobs_BT, _ = completion_logprobs(model, batch)
        difference = (logprobs_BT - lay_out([c.logprobs for _, c in pairs], batch)).abs()
        total, largest = total + float(difference.sum()), max(largest, float(difference.max()))
        count += int(batch.loss_mask_BT.sum())
    return total / count, largest, count
