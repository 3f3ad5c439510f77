"""Self-speculative decoding: the tokens of plain decoding, whatever becomes of the drafts."""

from collections import Counter

import pytest
import torch

from farthing.engine.engine import Engine, StopReason
from farthing.engine.sampler import SamplingParams
from farthing.engine.speculative import generate_ahead
from farthing.errors import ModelError, RecipeError
from farthing.models.decoder import Decoder
from farthing.tokenizer import Tokenizer
from tests.models.deepseek_shapes import tiny_model


@pytest.fixture(scope="module")
def drafter(tokenizer: Tokenizer) -> Decoder:
    """Its module foresees well but not always: hidden states decide little, the last token much."""
    return tiny_model(seed=5, vocab_size=tokenizer.vocab_size, max_positions=90, init_std=0.15)


def prompts_of(tokenizer: Tokenizer) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, tokenizer.vocab_size, (n,), generator=generator).tolist() for n in (1, 9, 4, 16)]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, max_tokens=20),
        SamplingParams(max_tokens=20),
        SamplingParams(temperature=0.4, top_p=0.9, top_k=7, max_tokens=20),
    ],
)
def test_every_completion_is_that_of_plain_decoding(drafter: Decoder, tokenizer: Tokenizer, params: SamplingParams) -> None:
    prompts, seeds = prompts_of(tokenizer), [[11, 12, 13], [14], [], [15, 16]]
    plain = Engine(drafter, tokenizer).generate(prompts, seeds, params)
    ahead, speculation = generate_ahead(drafter, tokenizer, prompts, seeds, params)
    for group, other in zip(plain, ahead, strict=True):
        assert [c.tokens for c in other] == [c.tokens for c in group]
        assert [(c.stop_reason, c.seed) for c in other] == [(c.stop_reason, c.seed) for c in group]
        for mine, theirs in zip(other, group, strict=True):
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
            assert mine.kept_mass == pytest.approx(theirs.kept_mass, abs=1e-4)
    assert 0 < speculation.num_accepted < speculation.num_drafted
    num_tokens = sum(len(c.tokens) for group in ahead for c in group)
    # every token is the first, or a pass's first, or a draft that held; for the last that there is room for nothing is drafted,
    # and one may be accepted behind the end
    assert abs(6 + speculation.num_drafted + speculation.num_accepted - num_tokens) <= 6


def test_completions_of_a_single_token(drafter: Decoder, tokenizer: Tokenizer) -> None:
    """All end in the prefill: no row is left to look ahead for."""
    params = SamplingParams(max_tokens=1)
    ahead, speculation = generate_ahead(drafter, tokenizer, [[7, 8], [9]], [[1], [2, 3]], params)
    plain = Engine(drafter, tokenizer).generate([[7, 8], [9]], [[1], [2, 3]], params)
    assert [[c.tokens for c in group] for group in ahead] == [[c.tokens for c in group] for group in plain]
    assert speculation.num_drafted == 0


def test_the_distribution_is_that_of_the_model(drafter: Decoder, tokenizer: Tokenizer) -> None:
    """Third tokens of many seeds, drafted or not, against exact probabilities: Pearson's test."""
    prompt, count = [7, 8], 3000
    params = SamplingParams(max_tokens=3, ignore_eos=True, temperature=0.7)
    [completions], speculation = generate_ahead(drafter, tokenizer, [prompt], [list(range(count))], params)
    assert 0.02 < speculation.acceptance_rate < 0.98
    vocab = tokenizer.vocab_size
    with torch.no_grad():
        first = (drafter.logits(drafter(torch.tensor([prompt]))[0, -1]) / 0.7).softmax(-1)
        pairs = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))
        seconds = torch.cat((torch.tensor([prompt]).expand(vocab, -1), torch.arange(vocab)[:, None]), dim=1)
        second = (drafter.logits(drafter(seconds)[:, -1]) / 0.7).softmax(-1)
        thirds = torch.cat((torch.tensor([prompt]).expand(len(pairs), -1), pairs), dim=1)
        third = (drafter.logits(drafter(thirds)[:, -1]) / 0.7).softmax(-1)
    exact = (first[:, None] * second).flatten() @ third
    seen = Counter(c.tokens[2] for c in completions)
    likely = exact * count >= 5
    expected = torch.cat((exact[likely], exact[~likely].sum()[None])) * count
    observed = torch.tensor([float(seen[t]) for t in likely.nonzero()[:, 0].tolist()])
    observed = torch.cat((observed, (count - observed.sum())[None]))
    degrees = len(expected) - 1
    assert float(((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum()) < degrees + 4 * (2 * degrees) ** 0.5


def test_stop_strings_end_where_plain_decoding_ends_them(drafter: Decoder, tokenizer: Tokenizer) -> None:
    prompts, seeds = prompts_of(tokenizer)[:1], [[1, 2, 3]]
    free = Engine(drafter, tokenizer).generate(prompts, seeds, SamplingParams(max_tokens=12, ignore_eos=True))
    stop = tokenizer.decode(free[0][0].tokens[4:5])
    params = SamplingParams(max_tokens=12, ignore_eos=True, stop=(stop,))
    ahead, _ = generate_ahead(drafter, tokenizer, prompts, seeds, params)
    plain = Engine(drafter, tokenizer).generate(prompts, seeds, params)
    assert [c.tokens for c in ahead[0]] == [c.tokens for c in plain[0]]
    assert ahead[0][0].stop_reason is StopReason.STOP_STRING


def test_a_sequence_may_fill_the_model(drafter: Decoder, tokenizer: Tokenizer) -> None:
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    [[completion]], _ = generate_ahead(drafter, tokenizer, [[7] * 50], [[3]], params)
    assert len(completion.tokens) == 40
    with pytest.raises(RecipeError, match="90 positions; got 91"):
        generate_ahead(drafter, tokenizer, [[7] * 51], [[3]], params)


def test_a_model_without_the_module_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="no multi-token prediction module"):
        generate_ahead(tiny_model(mtp_depth=0), tokenizer, [[7]], [[3]], SamplingParams())
