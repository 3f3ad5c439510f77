"""This machine -> what it reaches: the matmul peak that MFU is measured against, and a recipe's tokens per second."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch

from farthing.config import AskingStage, GrpoConfig, PretrainConfig, Recipe, StageConfig
from farthing.config.base import SOURCE
from farthing.data.batches import Row, microbatches
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.errors import RecipeError
from farthing.loss import cross_entropy
from farthing.models.decoder import Decoder
from farthing.models.fp8_linear import EMULATED, has_fp8_products
from farthing.models.head import completion_logprobs
from farthing.models.shape import ModelShape
from farthing.placement import Placement, place
from farthing.precision import DTYPES, Compute, compute_dtype, resolve_precision, set_precision
from farthing.renderer import Renderer
from farthing.run import Accelerator
from farthing.sources import source_model, use_threads
from farthing.tasks.stream import ProblemStream

_SIZE = 2048
_GPU_SIZE = 8192
"""A smaller product is over before a large GPU is busy."""
_REPEATS, _ENOUGH_S = 5, 0.5
PROBE_NEW_TOKENS = 16
PROBE_SLOTS = 64


def matmul_peak_flops(compute: Compute, placement: Placement) -> float:
    """FLOP/s of a large square matmul, the best of a few; on a slow machine of two, so that no start waits for it."""
    size = _GPU_SIZE if placement.device.type == "cuda" else _SIZE
    a = torch.randn(size, size, device=placement.device).to(DTYPES[compute])
    times: list[float] = []
    while len(times) < 2 or (len(times) < _REPEATS and sum(times) < _ENOUGH_S):
        times.append(seconds(lambda: a @ a, placement))
    return 2 * size**3 / min(times)


def read_bandwidth_bytes(placement: Placement, size_bytes: int = 256 << 20) -> float:
    """Bytes per second of reading a tensor larger than the caches, the best of three."""
    values = torch.ones(size_bytes // 4, device=placement.device)
    return values.numel() * 4 / min(seconds(values.sum, placement) for _ in range(3))


def seconds(work: Callable[[], object], placement: Accelerator) -> float:
    """Time of `work`, from an idle device until it is done."""
    placement.synchronise()
    started = time.perf_counter()
    work()
    placement.synchronise()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Speed:
    """What a forecast multiplies with."""

    shape: ModelShape
    sampled_per_s: float
    trained_per_s: float
    prompt_tokens: float
    document_tokens: float
    bytes_per_weight: int
    rounded_bytes_per_weight: int
    """Of the copy in FP8 that fp8 products read: 4 where they are emulated, 1 on a device that has them, else 0."""
    num_devices: int
    assumptions: list[str]

    def at(self, shape: ModelShape) -> "Speed":
        """For a model of another shape, as fast in FLOPs."""
        context = self.prompt_tokens + self.document_tokens / 2
        faster = self.shape.forward_flops(1000, context) / shape.forward_flops(1000, context)
        sampled, trained = self.sampled_per_s * faster, self.trained_per_s * faster
        return self if shape == self.shape else replace(self, shape=shape, sampled_per_s=sampled, trained_per_s=trained)


def probed_stage(recipe: Recipe) -> StageConfig:
    """The stage whose work stands for the recipe's: the last that trains the recipe's own model."""
    trained = {name: config for name, config in recipe.stages.items() if isinstance(config, AskingStage)}
    # stages that train on samples alone have no prompts to probe with
    trained = {name: c for name, c in trained.items() if c.tasks or isinstance(c, PretrainConfig)} or trained
    own = [config for name, config in trained.items() if recipe.origin_of(name) == SOURCE]
    if not trained:
        raise RecipeError(f"{recipe.name} trains nothing: there is no step to probe the speed of")
    return own[-1] if own else list(trained.values())[-1]


def probe_speed(recipe: Recipe) -> Speed:
    """Samples and trains a little with the recipe's real model and prompts; nothing of it is kept."""
    use_threads(recipe.threads)
    placement = place(recipe.accelerator, recipe.device)
    device = placement.device
    precision = resolve_precision(recipe.precision, device)
    config: Any = probed_stage(recipe)
    with TemporaryDirectory() as scratch:
        model, tokenizer = source_model(recipe.model, recipe.seed, Path(scratch), compute_dtype(precision, device))
        set_precision(model.to(device), precision)
        prompt = recipe.prompt
        renderer = Renderer(tokenizer, prompt.template, prompt.instruction, prompt.prefill)
        if config.tasks:
            problems = ProblemStream(config.tasks, recipe.seed, config.test_share).take(PROBE_SLOTS // 4)
            prompts = [renderer.prompt_tokens(p.question) for p in problems]
        else:  # a corpus, or samples: nothing is asked
            prompts = [[tokenizer.eos_id]] * (PROBE_SLOTS // 4)
        engine = Engine(model, tokenizer, PROBE_SLOTS)
        params = SamplingParams(max_tokens=PROBE_NEW_TOKENS, ignore_eos=True)
        seeds = [[4 * i + k for k in range(4)] for i in range(len(prompts))]
        sampling_s = _best_of_two(lambda: engine.generate(prompts, seeds, params), placement)
        length = config.max_completion_tokens
        count = max(1, config.max_microbatch_tokens // (len(prompts[0]) + length))
        if max(map(len, prompts)) + length > model.shape.max_positions:
            raise RecipeError(
                f"prompts of {max(map(len, prompts))} tokens plus max_completion_tokens = {length} exceed the model's "
                f"{model.shape.max_positions} positions"
            )
        rows = [Row([*p, *([tokenizer.eos_id] * length)], len(p)) for p in (prompts * count)[:count]]
        training_s = _best_of_two(lambda: _train_once(model, rows, config.max_microbatch_tokens), placement)
    is_emulated = precision == "fp8" and not has_fp8_products(device)
    mean_prompt = fmean(len(p) for p in prompts)
    return Speed(
        shape=model.shape,
        sampled_per_s=len(prompts) * 4 * PROBE_NEW_TOKENS / sampling_s,
        trained_per_s=sum(len(r.tokens) for r in rows) / training_s,
        prompt_tokens=mean_prompt,
        document_tokens=mean_prompt + length / 2
        if config.tasks
        else getattr(config, "window_tokens", None) or model.shape.max_positions,
        bytes_per_weight=compute_dtype(precision, device).itemsize,
        rounded_bytes_per_weight=(4 if is_emulated else 1) if precision == "fp8" else 0,
        num_devices=1,
        assumptions=[
            f"speed probed just now on {placement.name}, {precision}: {PROBE_SLOTS} completions of {PROBE_NEW_TOKENS} tokens, "
            "and one microbatch forward and backward; a busy machine makes it pessimistic",
            "every completion taken at its longest allowed; real ones are mostly shorter",
            *([EMULATED] if is_emulated else []),
        ],
    )


def _train_once(model: Decoder, rows: list[Row], max_tokens: int) -> None:
    for batch in microbatches(rows, max_tokens):
        logprobs_BT, _ = completion_logprobs(model, batch)
        torch.autograd.backward(cross_entropy(logprobs_BT, 1))
    model.zero_grad()


def _best_of_two(work: Callable[[], object], placement: Placement) -> float:
    return min(seconds(work, placement) for _ in range(2))


ASSUMED_MFU = 0.3
ASSUMED_BANDWIDTH_SHARE = 0.4


def assumed_speed(recipe: Recipe) -> Speed:
    """Counted FLOPs and bytes over assumed shares of the published peaks of `recipe.device`."""
    hardware, shape = recipe.hardware, recipe.planned_shape
    if hardware is None or shape is None:
        raise RecipeError(f"{recipe.name} does not run here, so to price it the recipe needs [hardware] and [planned_shape]")
    config = probed_stage(recipe)
    # a document, or a window of a corpus, is counted as a prompt, and is trained on whole
    prompt = (isinstance(config, PretrainConfig) and config.window_tokens) or hardware.prompt_tokens
    new_tokens, slots = (config.max_completion_tokens, config.num_slots) if isinstance(config, GrpoConfig) else (0, 1)
    context = prompt + new_tokens / 2 if new_tokens else prompt / 2
    peak, bandwidth = hardware.peak_tflops * 1e12, hardware.bandwidth_gb_s * 1e9
    trained = ASSUMED_MFU * peak * hardware.num_devices / (3 * shape.forward_flops(1000, context) / 1000)
    bytes_per_step = 2 * shape.num_params() + slots * context * shape.cache_bytes_per_token(2)
    sampled = ASSUMED_BANDWIDTH_SHARE * bandwidth / bytes_per_step * slots * hardware.num_devices
    is_fp8 = recipe.precision == "fp8"
    return Speed(
        shape=shape,
        sampled_per_s=sampled,
        trained_per_s=trained,
        prompt_tokens=prompt,
        document_tokens=prompt,
        bytes_per_weight=2,
        rounded_bytes_per_weight=1 if is_fp8 else 0,
        num_devices=hardware.num_devices,
        assumptions=[
            f"not run here: {hardware.num_devices} x {recipe.device}, {hardware.peak_tflops:g} TFLOP/s dense bf16 and "
            f"{hardware.bandwidth_gb_s:g} GB/s each ({hardware.source})",
            f"training at {ASSUMED_MFU:.0%} of peak FLOPs, sampling at {ASSUMED_BANDWIDTH_SHARE:.0%} of peak bandwidth, "
            f"{slots} completions in flight on each device: assumed",
            *(["fp8: the peak is still that of bf16, as in DeepSeek's own figures, and no gain is assumed"] if is_fp8 else []),
            "every completion taken at its longest allowed; real ones are mostly shorter",
        ],
    )
