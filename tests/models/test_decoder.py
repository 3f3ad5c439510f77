"""The decoder itself: padding, positions, recomputed activations, initial weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.models.attention import attend_causally
from farthing.models.decoder import Decoder, init_weights
from farthing.models.head import token_logprobs
from farthing.models.shape import ModelShape


def random_tokens(model: Decoder, rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, model.shape.vocab_size, (rows, length), generator=torch.Generator().manual_seed(7))


def test_right_padding_never_reaches_a_real_token(model: Decoder) -> None:
    tokens = random_tokens(model, 1, 9)
    with torch.no_grad():
        alone = model(tokens)
        for padding in (0, 60):
            padded = torch.cat((tokens, torch.full((1, 30), padding)), dim=1)
            torch.testing.assert_close(model(padded)[:, :9], alone, atol=1e-5, rtol=1e-5)


def test_later_tokens_never_change_earlier_ones_but_earlier_ones_do(model: Decoder) -> None:
    tokens = random_tokens(model, 2, 12)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 61
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :6], before[:, :6], atol=1e-6, rtol=0)
    assert (after[:, 7:] - before[:, 7:]).abs().max() > 1e-3


def test_bfloat16_attention_takes_its_own_path_to_the_same_values_and_gradients() -> None:
    generator = torch.Generator().manual_seed(8)
    q, k, v = (torch.randn(2, 11, heads, 8, generator=generator).bfloat16().requires_grad_() for heads in (6, 2, 2))
    upstream = torch.randn(2, 11, 6, 8, generator=generator)
    exact = attend_causally(0, q.float(), k.float(), v.float())
    rounded = attend_causally(0, q, k, v)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)
    for got, expected in zip(
        torch.autograd.grad((rounded.float() * upstream).sum(), (q, k, v)),
        torch.autograd.grad((exact * upstream).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=0.06, rtol=0.06)


def test_positions_default_to_counting_and_only_their_differences_matter(model: Decoder) -> None:
    tokens = random_tokens(model, 2, 10)
    counted = torch.arange(10).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, counted), model(tokens))
        torch.testing.assert_close(model(tokens, counted + 40), model(tokens), atol=1e-4, rtol=1e-4)
        assert (model(tokens, counted * 2) - model(tokens)).abs().max() > 1e-2


def test_recomputed_activations_give_the_same_gradients(model: Decoder) -> None:
    tokens = random_tokens(model, 3, 16)

    def gradients(recompute: bool) -> list[torch.Tensor]:
        model.recompute_activations = recompute
        hidden = model(tokens[:, :-1]).flatten(0, 1)
        logprobs, _ = token_logprobs(model, hidden, tokens[:, 1:].flatten())
        return list(torch.autograd.grad(-logprobs.mean(), list(model.parameters())))

    for kept, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(kept, recomputed)
        assert kept.any()


def test_initial_weights_follow_the_seed(shape: ModelShape) -> None:
    first, second, other = Decoder(shape), Decoder(shape), Decoder(shape)
    for model, seed in ((first, 5), (second, 5), (other, 6)):
        init_weights(model, seed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.embed.weight, other.embed.weight)
    assert first.embed.weight.std().item() == pytest.approx(shape.init_std, rel=0.1)
    assert first.norm.weight.eq(1).all()


@settings(max_examples=20, deadline=None)
@given(
    family=st.sampled_from(["llama", "qwen2", "qwen3"]),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    head_width=st.sampled_from([2, 6, 8]),
    width=st.integers(1, 20),
    ffn_width=st.integers(1, 30),
    num_layers=st.integers(1, 3),
    tied=st.booleans(),
)
def test_parameter_count_equals_the_shape(
    family: str, kv_heads: int, groups: int, head_width: int, width: int, ffn_width: int, num_layers: int, tied: bool
) -> None:
    shape = ModelShape.model_validate(
        {
            "family": family,
            "vocab_size": 11,
            "width": width,
            "num_layers": num_layers,
            "num_heads": kv_heads * groups,
            "num_kv_heads": kv_heads,
            "head_width": head_width,
            "ffn_width": ffn_width,
            "tie_embeddings": tied,
        }
    )
    with torch.device("meta"):
        assert sum(p.numel() for p in Decoder(shape).parameters()) == shape.num_params()
