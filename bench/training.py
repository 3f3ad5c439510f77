"""Training against TRL: a GRPO step on SmolLM2 and on the 4M model, and SFT, that also against a loop written by hand."""

import argparse
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import compare
from bench.canary import Counted
from bench.compare import Case
from bench.work import count_rollout, count_training, model_folder, questions, renderer, shape_of
from bench.workers import Side
from farthing.precision import Precision

MODES: dict[Precision, tuple[str, ...]] = {"fp32": ("fp32",), "bf16": ("autocast", "bf16")}
"""Our precision -> the peers' ways to train so. Our bf16 (fp32 masters, bf16 weights in compute) is held against both."""
QUESTIONS = 64
TRL = "transformers-trl"


@dataclass(frozen=True)
class GrpoShape:
    """Sizes of a GRPO step; a peer's microbatch has `microbatch_rows` completions, ours `microbatch_tokens` tokens."""

    model: str
    prompts: int
    group: int
    new_tokens: int
    microbatch_rows: int
    microbatch_tokens: int
    ratios: Mapping[str, float] = field(default_factory=dict)


GRPO = {
    "grpo": GrpoShape("smollm2", 4, 8, 128, 8, 2048, {"TRL fp32": 2.5, "TRL autocast": 5.0, "TRL bf16": 3.0}),
    "grpo-tiny": GrpoShape("tiny", 32, 16, 64, 64, 4096, {"TRL fp32": 4.0, "TRL autocast": 4.0, "TRL bf16": 4.0}),
}
QUICK = {"grpo": GrpoShape("smollm2", 2, 2, 16, 4, 1024), "grpo-tiny": GrpoShape("tiny", 2, 4, 16, 8, 1024)}
GRPO_MEMORY = 0.6
SFT_ROWS, SFT_WIDTH = 4, 512
SFT_RATIOS = {"TRL bf16": 2.2, "loop fp32": 1.2, "loop autocast": 1.2, "loop bf16": 1.2}
SFT_LIMIT = 0.3
"""Of the measured bf16 peak."""


def add_grpo_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    compare.add_arguments(parser)
    parser.set_defaults(measure=lambda args: measure_grpo(name, args))


def add_sft_arguments(parser: argparse.ArgumentParser) -> None:
    compare.add_arguments(parser)
    parser.set_defaults(measure=measure_sft)


def measure_grpo(name: str, args: argparse.Namespace) -> Path:
    shape = QUICK[name] if args.quick else GRPO[name]
    problems = write_problems(shape.model)
    return compare.measure(name, args, lambda precision: [grpo_case(shape, precision, problems)])


def write_problems(model: str) -> Path:
    """The same questions for both: ours through the recipe's template, TRL's as the text that makes of them."""
    render = renderer(model)
    rows = [{"question": q, "answer": "-", "verifier": "exact"} for q in questions(model, QUESTIONS)]
    folder = model_folder(model)
    path = folder.with_name(f"problems-{model}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = "".join(json.dumps({"prompt": render.prompt(row["question"])}) + "\n" for row in rows)
    path.with_name(f"prompts-{model}.jsonl").write_text(texts)
    return path


def grpo_case(shape: GrpoShape, precision: Precision, problems: Path) -> Case:
    render, model = renderer(shape.model), shape_of(shape.model)
    lengths = [len(render.prompt_tokens(q)) for q in questions(shape.model, QUESTIONS)]
    prompt, num_completions = sum(lengths) / len(lengths), shape.prompts * shape.group
    work: dict[str, Any] = {
        "model": str(model_folder(shape.model)),
        "threads": torch.get_num_threads(),
        "num_prompts": shape.prompts,
        "group": shape.group,
        "new_tokens": shape.new_tokens,
    }
    ours = {
        "precision": precision,
        "problems": str(problems),
        "template": render.template,
        "microbatch_tokens": shape.microbatch_tokens,
    }
    texts = str(problems.with_name(f"prompts-{shape.model}.jsonl"))
    sides = [Side("farthing", "bench.sides.farthing_grpo", {**work, **ours})]
    for mode in MODES[precision]:
        theirs = {"mode": mode, "problems": texts, "microbatch_rows": shape.microbatch_rows}
        sides.append(Side(f"TRL {mode}", "bench.sides.trl_grpo", {**work, **theirs}, TRL))

    def count(tokens: float) -> Counted:
        rollout = count_rollout(model, [round(prompt)] * shape.prompts, num_completions, num_completions, tokens, precision)
        row = prompt + tokens / num_completions
        training = count_training(model, num_completions * row, tokens, row)
        return Counted(rollout.flops + training.flops, rollout.bytes)

    return Case(
        f"{shape.prompts} x {shape.group} x {shape.new_tokens}, {precision}",
        precision,
        sides,
        count,
        ratios=shape.ratios,
        memory=GRPO_MEMORY if shape.ratios else None,
    )


def measure_sft(args: argparse.Namespace) -> Path:
    model, rows, width = ("tiny", 2, 64) if args.quick else ("smollm2", SFT_ROWS, SFT_WIDTH)
    return compare.measure("sft", args, lambda precision: [sft_case(model, rows, width, precision)])


def sft_case(model_name: str, rows: int, width: int, precision: Precision) -> Case:
    model, is_measured = shape_of(model_name), model_name == "smollm2"
    rng = random.Random(0)
    work: dict[str, Any] = {
        "model": str(model_folder(model_name)),
        "threads": torch.get_num_threads(),
        "rows": [[rng.randrange(100, model.vocab_size) for _ in range(width)] for _ in range(rows)],
    }
    sides = [Side("farthing", "bench.sides.farthing_sft", {**work, "precision": precision, "microbatch_tokens": rows * width})]
    for mode in MODES[precision]:
        sides.append(Side(f"TRL {mode}", "bench.sides.trl_sft", {**work, "mode": mode}, TRL))
        sides.append(Side(f"loop {mode}", "bench.sides.loop_sft", {**work, "mode": mode}, TRL))
    return Case(
        f"{rows} x {width}, {precision}",
        precision,
        sides,
        lambda tokens: count_training(model, tokens, tokens, width),
        tokens=rows * width,
        ratios=SFT_RATIOS if is_measured else {},
        limit=SFT_LIMIT if precision == "bf16" and is_measured else None,
    )
