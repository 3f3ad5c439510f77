"""What both sides are given, and the FLOPs and bytes of it, by hand."""

import pytest

from bench.work import TINY, TINY_PROMPT, count_rollout, count_training, questions, tiny_tokenizer
from farthing.models.decoder import Decoder
from farthing.models.shape import ModelShape
from farthing.renderer import Renderer

SHAPE = ModelShape(
    vocab_size=10, width=4, num_layers=2, num_heads=2, num_kv_heads=1, head_width=2, ffn_width=6, max_positions=64
)


def test_the_tiny_model_has_a_token_for_each_embedding() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.vocab_size == TINY.vocab_size == 4096
    assert TINY.num_params() == 4_212_992
    ids = list(range(5, 4096))
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_tiny_prompts_are_distinct_and_of_one_length() -> None:
    render = Renderer(tiny_tokenizer())
    asked = questions("tiny", 16)
    assert len(set(asked)) == 16
    assert {len(render.prompt_tokens(q)) for q in asked} == {TINY_PROMPT}
    assert asked == questions("tiny", 16)


def test_a_rollout_reads_the_weights_once_a_step_and_each_sequence_its_own_cache() -> None:
    # 2 prompts of 8, each sampled 3 times, 4 tokens each: 24 tokens in 4 steps of 6 rows
    counted = count_rollout(SHAPE, [8, 8], 6, slots=6, tokens=24, precision="fp32")
    cache = 2 * 2 * 1 * 2 * 4
    assert counted.bytes == (1 + 4) * SHAPE.num_params() * 4 + 24 * (8 + 2) * cache
    assert counted.flops == SHAPE.forward_flops(16, 4, 2) + SHAPE.forward_flops(24, 10)
    # half the slots: twice the steps; half the bytes an element in bf16
    fewer = count_rollout(SHAPE, [8, 8], 6, slots=3, tokens=24, precision="fp32")
    assert fewer.bytes - counted.bytes == 4 * SHAPE.num_params() * 4
    assert fewer.flops == counted.flops
    assert count_rollout(SHAPE, [8, 8], 6, slots=6, tokens=24, precision="bf16").bytes == pytest.approx(counted.bytes / 2)


def test_training_is_three_forward_passes() -> None:
    assert count_training(SHAPE, 40, 20, 10).flops == 3 * SHAPE.forward_flops(40, 5, 20)


def test_the_shape_counts_what_the_model_holds() -> None:
    assert sum(p.numel() for p in Decoder(SHAPE).parameters()) == SHAPE.num_params()
