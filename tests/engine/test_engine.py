"""The engine against transformers' generate and full forward passes, with refills, slot moves and split groups."""

import copy
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from farthing.engine.engine import Completion, Engine, StopReason
from farthing.engine.sampler import SamplingParams
from farthing.errors import RecipeError
from farthing.models.decoder import Decoder, init_weights
from farthing.models.huggingface import save_model
from farthing.models.linear import Linear, can_pack
from farthing.tokenizer import Tokenizer

SAMPLED = [
    SamplingParams(max_tokens=20),
    SamplingParams(temperature=0.6, max_tokens=20),
    SamplingParams(temperature=1.4, top_p=0.8, top_k=9, max_tokens=20),
]


def random_prompts(tokenizer: Tokenizer, count: int, seed: int = 0) -> list[list[int]]:
    """Ragged, all different, no end-of-text inside."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [1, 16, 17, *torch.randint(1, 33, (count,), generator=generator).tolist()][:count]
    return [torch.randint(5, tokenizer.vocab_size, (n,), generator=generator).tolist() for n in lengths]


def group_seeds(count: int, size: int) -> list[list[int]]:
    return [[1_000_003 * p + 7919 * g for g in range(size)] for p in range(count)]


@pytest.fixture(scope="module")
def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    return random_prompts(tokenizer, 5)


def test_greedy_equals_transformers_token_for_token(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(model, tokenizer, tmp_path / "tiny")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    prompts = random_prompts(tokenizer, 20)
    engine = Engine(model, tokenizer, num_slots=6)
    params = SamplingParams(temperature=0, max_tokens=24)
    groups = engine.generate(prompts, [[0, 1]] * 20, params)
    for prompt, group in zip(prompts, groups, strict=True):
        tokens = torch.tensor([prompt])
        mask = torch.ones_like(tokens)
        expected = theirs.generate(tokens, attention_mask=mask, do_sample=False, max_new_tokens=24)
        for completion in group:
            assert completion.tokens == expected[0, len(prompt) :].tolist()
    chosen = {token for group in groups for token in group[0].tokens}
    assert len(chosen) > 8, "the random model must not settle on one token"


def test_rest_gives_memory_back_and_changes_no_token(model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]]) -> None:
    engine = Engine(model, tokenizer, num_slots=4)
    before = engine.generate(prompts, group_seeds(5, 2), SAMPLED[0])
    assert engine._decode is not None
    held = [weakref.ref(engine._decode.cache.kv), *(weakref.ref(p) for p in packed_weights(model))]
    assert len(held) > 1 or not can_pack(model.head_weight)
    engine.rest()
    assert [ref() for ref in held] == [None] * len(held)
    assert engine.generate(prompts, group_seeds(5, 2), SAMPLED[0]) == before


def packed_weights(model: Decoder) -> list[Tensor]:
    copies = [model._packed_head, *(m.packed for m in model.modules() if isinstance(m, Linear))]
    return [c._packed for c in copies if c._packed is not None]


def whole_logprobs(model: Decoder, prompt: list[int], completion: Completion, temperature: float) -> Tensor:
    tokens = torch.tensor([prompt + completion.tokens])
    with torch.no_grad():
        logits = model.logits(model(tokens)[0, len(prompt) - 1 : -1])
    return (logits / temperature).log_softmax(-1).gather(1, tokens[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("params", SAMPLED)
def test_logprobs_equal_a_full_forward_pass(
    model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]], params: SamplingParams
) -> None:
    groups = Engine(model, tokenizer, num_slots=4).generate(prompts, group_seeds(5, 3), params)
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            untruncated = torch.tensor(completion.logprobs) + torch.tensor(completion.kept_mass).log()
            expected = whole_logprobs(model, prompt, completion, params.temperature)
            torch.testing.assert_close(untruncated, expected, atol=1e-4, rtol=0)
    masses = {mass for group in groups for completion in group for mass in completion.kept_mass}
    assert (masses == {1.0}) == (params.top_k == 0)


@pytest.mark.parametrize("params", SAMPLED[::2])
def test_a_seed_gives_its_completion_whatever_the_slots_and_the_company(
    model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]], params: SamplingParams
) -> None:
    seeds = group_seeds(5, 4)
    reference = Engine(model, tokenizer, num_slots=64).generate(prompts, seeds, params)
    assert len({tuple(c.tokens) for group in reference for c in group}) > 15
    for num_slots in (3, 7):
        again = Engine(model, tokenizer, num_slots).generate(prompts, seeds, params)
        assert [[c.tokens for c in g] for g in again] == [[c.tokens for c in g] for g in reference]
    alone = Engine(model, tokenizer).generate([prompts[3]], [[seeds[3][2]]], params)[0][0]
    assert (alone.tokens, alone.seed) == (reference[3][2].tokens, seeds[3][2])
    backwards = Engine(model, tokenizer, 1).generate(prompts[::-1], seeds[::-1], params)
    assert [[c.tokens for c in g] for g in backwards[::-1]] == [[c.tokens for c in g] for g in reference]


def test_a_prompt_is_prefilled_once_however_its_group_is_split(model: Decoder, tokenizer: Tokenizer) -> None:
    prompts = random_prompts(tokenizer, 6, seed=3)
    passes: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _module, args: passes.append(args[0].clone()))
    try:
        groups = Engine(model, tokenizer, num_slots=4).generate(prompts, group_seeds(6, 5), SamplingParams(max_tokens=6))
    finally:
        hook.remove()
    assert [len(group) for group in groups] == [5] * 6
    prefilled = [row for tokens in passes if tokens.shape[1] > 1 for row in tokens.tolist() if any(row)]
    assert sorted([t for t in row if t] for row in prefilled) == sorted(prompts)
    assert all(len(tokens) <= 4 for tokens in passes if tokens.shape[1] == 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_engine_that_has_served_before_answers_to_the_last_bit_like_a_fresh_one(
    model: Decoder, tokenizer: Tokenizer, dtype: torch.dtype
) -> None:
    """A resumed attempt starts with an empty cache, and must sample what the attempt that died would have."""
    model, params = copy.deepcopy(model).to(dtype), SamplingParams(max_tokens=10)
    engine = Engine(model, tokenizer, num_slots=8)
    engine.generate(random_prompts(tokenizer, 8, seed=1), group_seeds(8, 2), SamplingParams(max_tokens=40))
    prompts, seeds = random_prompts(tokenizer, 3, seed=2), group_seeds(3, 2)
    fresh = Engine(model, tokenizer, num_slots=8).generate(prompts, seeds, params)
    assert engine.generate(prompts, seeds, params) == fresh


def test_stop_strings_end_where_they_first_appear(model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]]) -> None:
    engine, seeds = Engine(model, tokenizer, num_slots=3), group_seeds(5, 2)
    free = engine.generate(prompts, seeds, SamplingParams(max_tokens=30, ignore_eos=True))
    longest = max((c for group in free for c in group), key=lambda c: len(set(c.tokens)))
    text = [tokenizer.decode([token]) for token in longest.tokens]
    pair = "".join(text[10:12])
    stops = (pair, "no such text")
    stopped = engine.generate(prompts, seeds, SamplingParams(max_tokens=30, stop=stops, ignore_eos=True))
    reasons = set()
    for group, whole_group in zip(stopped, free, strict=True):
        for completion, whole in zip(group, whole_group, strict=True):
            ends = [n for n in range(1, 31) if tokenizer.decode(whole.tokens[:n]).endswith(pair)]
            assert completion.tokens == whole.tokens[: ends[0] if ends else 30]
            assert completion.logprobs == pytest.approx(whole.logprobs[: len(completion.tokens)], abs=1e-5)
            reason = StopReason.STOP_STRING if ends else StopReason.LENGTH
            assert completion.stop_reason is reason
            reasons.add(reason)
    assert StopReason.STOP_STRING in reasons


def test_a_stop_string_may_be_the_first_token(model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]]) -> None:
    engine, greedy = Engine(model, tokenizer), SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    (first,) = engine.generate(prompts[:1], [[0]], greedy)[0]
    assert first.stop_reason is StopReason.LENGTH
    stop = tokenizer.token(first.tokens[0])
    stopping = SamplingParams(temperature=0, max_tokens=9, stop=("zzz", stop), ignore_eos=True)
    (completion,) = engine.generate(prompts[:1], [[0]], stopping)[0]
    assert completion.tokens == first.tokens
    assert completion.stop_reason is StopReason.STOP_STRING


def test_end_of_text_and_max_tokens(model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]]) -> None:
    engine, seeds = Engine(model, tokenizer, num_slots=5), group_seeds(5, 8)
    free = engine.generate(prompts, seeds, SamplingParams(temperature=2.0, max_tokens=25, ignore_eos=True))
    ended = engine.generate(prompts, seeds, SamplingParams(temperature=2.0, max_tokens=25))
    reasons = []
    for group, whole_group in zip(ended, free, strict=True):
        for completion, whole in zip(group, whole_group, strict=True):
            assert len(whole.tokens) == 25
            assert whole.stop_reason is StopReason.LENGTH
            has_end = tokenizer.eos_id in whole.tokens
            length = whole.tokens.index(tokenizer.eos_id) + 1 if has_end else 25
            assert completion.tokens == whole.tokens[:length]
            assert len(completion.logprobs) == len(completion.kept_mass) == length
            reasons.append(completion.stop_reason)
            assert (reasons[-1] is StopReason.END_OF_TEXT) == has_end
    assert set(reasons) == {StopReason.END_OF_TEXT, StopReason.LENGTH}


def test_completions_carry_their_seed_and_the_policy_version(
    model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]]
) -> None:
    engine, seeds = Engine(model, tokenizer, num_slots=2), [[5], [], [9, 4], [1], [0, 0]]
    engine.policy_version = 17
    groups = engine.generate(prompts, seeds, SamplingParams(max_tokens=3))
    assert [[c.seed for c in group] for group in groups] == seeds
    assert {c.policy_version for group in groups for c in group} == {17}
    # two slots of one batch may round a matmul differently, the tokens are the same
    assert groups[4][0].tokens == groups[4][1].tokens
    assert groups[4][0].logprobs == pytest.approx(groups[4][1].logprobs, abs=1e-5)
    assert engine.generate(prompts[:2], [[], []], SamplingParams(max_tokens=3)) == [[], []]
    assert engine.generate([], [], SamplingParams()) == []


def test_prompt_and_completion_may_fill_the_model(model: Decoder, tokenizer: Tokenizer) -> None:
    room = model.shape.max_positions
    for length in (room - 1, room - 5):
        (prompt,) = [random_prompts(tokenizer, 1, seed=4)[0] * length]
        params = SamplingParams(max_tokens=room - length, ignore_eos=True)
        ((completion,),) = Engine(model, tokenizer).generate([prompt], [[3]], params)
        expected = whole_logprobs(model, prompt, completion, 1.0)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_prompts_that_cannot_be_served_are_named(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer)
    with pytest.raises(RecipeError, match=r"81 tokens plus max_tokens=10 exceeds the model's 90 positions; lower"):
        engine.generate([[5], [5] * 81], [[0], [0]], SamplingParams(max_tokens=10))
    with pytest.raises(RecipeError, match="a prompt has no tokens"):
        engine.generate([[5], []], [[0], [0]], SamplingParams(max_tokens=10))


def test_the_trainers_next_weights_are_sampled_from_without_a_copy(tokenizer: Tokenizer, model: Decoder) -> None:
    changed = Decoder(model.shape)
    changed.load_state_dict(model.state_dict())
    engine, greedy = Engine(changed, tokenizer), SamplingParams(temperature=0, max_tokens=12)
    prompts, seeds = random_prompts(tokenizer, 4), [[0]] * 4
    before = engine.generate(prompts, seeds, greedy)
    init_weights(changed, seed=99)
    assert engine.generate(prompts, seeds, greedy) != before
    changed.load_state_dict(model.state_dict())
    assert engine.generate(prompts, seeds, greedy) == before
