"""Self-speculative decoding: the tokens of plain decoding, whatever becomes of the drafts."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from farthing.engine.engine import Engine, StopReason
from farthing.engine.sampler import SamplingParams
from farthing.engine.speculative import _Drafting, generate_ahead
from farthing.errors import ModelError, RecipeError
from farthing.models.decoder import Decoder
from farthing.tokenizer import Tokenizer
from tests.models.deepseek_shapes import tiny_model


@pytest.fixture(scope="module", params=[(1, 14), (2, 14), (3, 16)], ids=["one", "two", "three, with the kernel"])
def drafter(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    """Its modules foresee well but not always: the last token, which they pass on, decides much, and what layers add little."""
    depth, rank = request.param
    sizes = {"vocab_size": tokenizer.vocab_size, "max_positions": 90, "mtp_depth": depth, "mla": {"kv_lora_rank": rank}}
    model = tiny_model(seed=5, init_std=0.15, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".out.weight", ".down.weight", ".experts.down")):
                parameter *= 0.3
            elif name.endswith(".project.weight"):
                parameter[:, : model.shape.width] += torch.eye(model.shape.width)
    return model


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
    assert 0 < speculation.num_accepted < speculation.num_judged
    num_tokens = sum(len(c.tokens) for group in ahead for c in group)
    # every token is the first, or a pass's first, or stands behind a draft that held: all of them but those at an end
    passes = num_tokens - 6 - speculation.num_accepted
    assert speculation.num_judged <= (passes + 6) * drafter.shape.mtp_depth
    assert speculation.num_judged - speculation.num_accepted <= passes + 6


def test_drafts_are_those_of_the_modules_without_a_cache(drafter: Decoder, tokenizer: Tokenizer) -> None:
    """While every draft holds, what the modules kept of earlier places is what they make of the whole sequence at once."""
    made: list[tuple[int, list[int]]] = []

    class Agreeing(_Drafting):
        """Draws what was drafted, whatever the model says, and one token more."""

        def _draft(self, *args: Any) -> list[list[int]]:
            drafts = super()._draft(*args)
            made.append((len(self.sampled[0]), drafts[0] if drafts else []))
            return drafts

        def _draw(self, logits_STV: Tensor, drafts: list[list[int]]) -> tuple[Tensor, list[int]]:
            tokens = [*drafts[0], int(logits_STV[0, -1].argmax())]
            for token in tokens:
                self._take(0, (token, 0.0, 1.0))
            return torch.tensor([tokens]), [len(drafts[0])]

    prompt, depth = prompts_of(tokenizer)[1], drafter.shape.mtp_depth
    params = SamplingParams(temperature=0, max_tokens=5 * (depth + 1) + 1, ignore_eos=True)
    with torch.inference_mode():
        [completion] = Agreeing(drafter, tokenizer, [prompt], [1], params).run()
    assert [len(drafts) for _, drafts in made] == [depth] * 5 + [0]
    for count, drafts in made:
        tokens = prompt + completion.tokens[:count]
        hidden = drafter(torch.tensor([tokens[:-1]]))
        for k, draft in enumerate(drafts):
            hidden = drafter.look_ahead(k, hidden, torch.tensor([(tokens + drafts)[k + 1 : k + len(tokens)]]))
            assert int(drafter.logits(hidden[0, -1]).argmax()) == draft


def test_completions_of_a_single_token(drafter: Decoder, tokenizer: Tokenizer) -> None:
    """All end in the prefill: no row is left to look ahead for."""
    params = SamplingParams(max_tokens=1)
    ahead, speculation = generate_ahead(drafter, tokenizer, [[7, 8], [9]], [[1], [2, 3]], params)
    plain = Engine(drafter, tokenizer).generate([[7, 8], [9]], [[1], [2, 3]], params)
    assert [[c.tokens for c in group] for group in ahead] == [[c.tokens for c in group] for group in plain]
    assert speculation.num_judged == 0


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
