"""What a stage is forecast to take, by hand: documents of a batch that grows, held-out evaluations, bytes of moments."""

from pathlib import Path
from typing import Any

import pytest

from farthing.config import PretrainConfig, parse_recipe
from farthing.forecast import arithmetic, in_short, memory_bytes, stage_seconds, within_epochs
from farthing.models.shape import ModelShape
from farthing.probe import Speed

SHAPE = ModelShape(
    vocab_size=10, width=4, num_layers=1, num_heads=1, num_kv_heads=1, head_width=4, ffn_width=4, max_positions=32
)
SPEED = Speed(
    shape=SHAPE, sampled_per_s=1.0, trained_per_s=10.0, prompt_tokens=5, document_tokens=30, bytes_per_weight=4,
    rounded_bytes_per_weight=0, num_devices=1,
    assumptions=[],
)  # fmt: skip


def stage(**changes: Any) -> PretrainConfig:
    base: dict[str, Any] = {"kind": "pretrain", "num_steps": 5, "batch_documents": 8, "corpus": ["c.jsonl"]}
    base |= {"held_out_documents": 4, "optim": {"learning_rate": 1e-3}, "batch_ramp": {"start": 2, "steps": 3}}
    return PretrainConfig.model_validate(base | changes)


def test_seconds_of_a_growing_batch_and_of_held_out_evaluations() -> None:
    """2 + 4 + 6 + 8 + 8 = 28 windows of 30 tokens at 10 a second; 4 documents forward only, at the end or twice more before."""
    assert stage_seconds(stage(), SPEED) == pytest.approx(28 * 3 + 4)
    assert stage_seconds(stage(held_out_every=2), SPEED) == pytest.approx(28 * 3 + 3 * 4)
    assert stage_seconds(stage(batch_ramp=None), SPEED) == pytest.approx(40 * 3 + 4)


def test_the_batch_in_words() -> None:
    words = arithmetic(stage(), 30)
    assert words == (
        "8 windows a step, 2 at first and more for 3 steps, in microbatches of at most 8,192 tokens; "
        "5 steps = 28 windows of at most 30 tokens = at most 840 tokens"
    )
    tasks = stage(corpus=[], tasks=[{"spec": "toy:letter_walk"}], batch_ramp=None, num_steps=100)
    assert arithmetic(tasks, 30.4).endswith("100 steps = 800 documents of about 30 tokens = about 24.32K tokens")


@pytest.mark.parametrize(
    ("count", "words"), [(999, "999"), (1000, "1.00K"), (62.9e9, "62.90B"), (14_800_008_241_152, "14.80T"), (0, "0")]
)
def test_numbers_in_short(count: float, words: str) -> None:
    assert in_short(count) == words


def test_moments_in_bf16_take_four_bytes_a_parameter_less() -> None:
    wide, narrow = (memory_bytes(stage(optim={"learning_rate": 1, "moments": m}), SPEED) for m in ("fp32", "bf16"))
    assert wide - narrow == 4 * SHAPE.num_params()


def test_passes_over_data_bound_the_steps(tmp_path: Path) -> None:
    """Of a stage that is still to come as many samples as it can leave, of one that is done those that it left."""
    file = tmp_path / "more.jsonl"
    file.write_text('{"question": "1+1?", "completion": "2"}\n' * 6)
    optim = {"learning_rate": 1e-3}
    tasks = [{"spec": "toy:running_total"}]
    collect = {"kind": "cold_start", "tasks": tasks, "num_steps": 5, "num_prompts": 4, "max_completion_tokens": 8}
    sft = {"kind": "sft", "data": ["made", str(file)], "epochs": 2, "batch_documents": 8, "num_steps": 100, "optim": optim}
    stages = parse_recipe(
        {"name": "x", "model": {"source": "a/b"}, "stages": {"made": collect, "learns": sft}}, where="here"
    ).stages
    # 5 steps x 4 prompts, one kept of each, and 6 of the file: 52 rows in two passes, 8 a step
    assert within_epochs(stages, "learns", {}).num_steps == 7
    assert within_epochs(stages, "learns", {"made": file}).num_steps == 3
    assert within_epochs(stages, "made", {}) is stages["made"]
