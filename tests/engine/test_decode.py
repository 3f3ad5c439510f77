"""Decode steps that are captured and replayed, by a capture that does what a CUDA graph does: fixed addresses in and out."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from farthing.engine.cache import KVCache
from farthing.engine.decode import GRAPH_POSITIONS, DecodeStep, Rounding, can_replay, cuda_graphs
from farthing.engine.engine import Completion, Engine
from farthing.engine.sampler import SamplingParams
from farthing.models.decoder import Decoder, init_weights
from farthing.precision import set_precision
from farthing.tokenizer import Tokenizer
from tests.engine.conftest import tiny_shape

PARAMS = SamplingParams(max_tokens=12)
PROMPTS = [[5, 6, 7], [9] * 17, [11, 12]]
SEEDS = [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 11, 12]]


class Recorder:
    """Records steps as a graph does: what a replay gives is written to where the first run's result lay."""

    def __init__(self) -> None:
        self.num_captured = self.num_replayed = 0

    def __call__(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.num_captured += 1
        out = step().clone()

        def replay() -> Tensor:
            self.num_replayed += 1
            return out.copy_(step())

        return replay


def generate(engine: Engine) -> list[list[Completion]]:
    return engine.generate(PROMPTS, SEEDS, PARAMS)


def tokens_of(groups: list[list[Completion]]) -> list[list[list[int]]]:
    return [[c.tokens for c in group] for group in groups]


def test_replayed_steps_give_the_same_completions(model: Decoder, tokenizer: Tokenizer) -> None:
    wanted, record = generate(Engine(model, tokenizer, 10)), Recorder()
    engine = Engine(model, tokenizer, 10, record)
    for _ in range(2):
        found = generate(engine)
        assert tokens_of(found) == tokens_of(wanted)
        for ours, theirs in zip((c for g in found for c in g), (c for g in wanted for c in g), strict=True):
            torch.testing.assert_close(torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=1e-5, rtol=0)
    # 8 or 10 slots, one bucket of positions: captured once for both calls, replayed at every step
    assert record.num_captured == 2
    assert record.num_replayed > 20


def test_a_small_cache_outlives_an_update_and_its_steps_see_the_new_weights(model: Decoder, tokenizer: Tokenizer) -> None:
    model, record = copy.deepcopy(model), Recorder()
    engine = Engine(model, tokenizer, 10, record)
    before = generate(engine)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    engine.rest()
    num_captured, after = record.num_captured, generate(engine)
    assert record.num_captured == num_captured
    assert tokens_of(after) != tokens_of(before)
    assert tokens_of(after) == tokens_of(generate(Engine(model, tokenizer, 10)))


def test_a_longer_request_or_weights_elsewhere_are_captured_anew(model: Decoder) -> None:
    cache = KVCache(model.shape, 4, 32, model.embed.weight)
    step = DecodeStep(model, cache, Recorder())
    assert step.is_worth_keeping
    assert not DecodeStep(model, cache, None).is_worth_keeping
    assert step.fits(model, 4, 32)
    assert not step.fits(model, 5, 32)
    assert not step.fits(model, 4, 33)
    held = model.embed.weight.data
    model.embed.weight.data = held.clone()
    assert not step.fits(model, 4, 32)
    model.embed.weight.data = held


@pytest.mark.parametrize(("is_coarse", "slots"), [(False, [8, 8, 16, 24, 40]), (True, [8, 8, 16, 32, 50])])
def test_rounding(is_coarse: bool, slots: list[int]) -> None:
    rounding = Rounding(is_coarse)
    assert [rounding.slots(n, 50) for n in (1, 8, 9, 17, 33)] == slots
    assert rounding.slots(3, 4) == 4
    assert rounding.positions(9) == (GRAPH_POSITIONS if is_coarse else 16)
    assert rounding.positions(257) == (2 * GRAPH_POSITIONS if is_coarse else 264)


def test_what_python_must_see_is_not_replayed(model: Decoder, tokenizer: Tokenizer) -> None:
    assert can_replay(model) == (model.shape.moe is None)
    assert cuda_graphs(model) is None, "there is no CUDA device under it"
    dense = Decoder(tiny_shape(tokenizer))
    init_weights(dense, 0)
    assert can_replay(dense)
    set_precision(dense, "fp8")
    assert not can_replay(dense)
