"""Latent attention: the absorbed form scores and weighs as the expanded one; positions, causality, packed rows, caches."""

import pytest
import torch

from farthing.data.batches import Row, microbatches
from farthing.engine.cache import KVCache, Prefill
from farthing.models.attention import attend_causally
from farthing.models.decoder import Decoder
from farthing.models.fp8_linear import use_fp8
from farthing.models.head import completion_logprobs
from farthing.models.linear import can_pack
from farthing.models.mla import LatentAttention
from farthing.models.rope import rope_frequency, rope_table, yarn_softmax_scale
from farthing.models.shape import YarnScaling
from tests.models.deepseek_shapes import tiny_model, tiny_shape

YARN = {"factor": 8.0, "original_max_positions": 16, "mscale": 1.0, "mscale_all_dim": 1.0}


@pytest.fixture(params=["q_latent", "direct", "yarn"])
def model(request: pytest.FixtureRequest) -> Decoder:
    if request.param == "yarn":
        return tiny_model(rope_scaling=YARN)
    return tiny_model(mla={} if request.param == "q_latent" else {"q_lora_rank": None})


def random_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(7))


def attention_of(model: Decoder) -> LatentAttention:
    attention = model.layers[1].attention
    assert isinstance(attention, LatentAttention)
    return attention


def test_absorbed_and_expanded_attention_are_equal(model: Decoder) -> None:
    mla = attention_of(model)
    generator = torch.Generator().manual_seed(1)
    q, latent = torch.randn(3, 1, 4, 10, generator=generator), torch.randn(3, 11, 18, generator=generator)
    with torch.no_grad():
        k, v = mla.expand(latent)
        assert (k.shape, v.shape) == ((3, 11, 4, 10), (3, 11, 4, 8))
        scores = torch.einsum("snh,stnh->snt", q[:, 0], k) * 10**-0.5
        absorbed = mla.absorb(q[:, 0]) @ latent.transpose(1, 2)
        torch.testing.assert_close(absorbed, scores, atol=1e-5, rtol=1e-5)
        weights = scores.softmax(-1)
        expected = torch.einsum("snt,stnv->snv", weights, v)
        torch.testing.assert_close(mla.values(weights @ latent[..., :14]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changed", ["nothing", "for queries", "for latents"])
def test_both_products_of_hidden_states_come_from_one_packed_copy(model: Decoder, changed: str) -> None:
    """Many rows take it, as long as it is of the weights as they are; no weight is packed twice."""
    mla, x = attention_of(model), torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(2))
    if not can_pack(mla.kv_down.weight):
        pytest.skip("this CPU packs no fp32 weights")
    rope = model.rope(24)
    with torch.inference_mode():
        model.pack_weights()
        assert mla.packed.is_packed(*(linear.weight for linear in mla.from_x))
        assert [linear.packed.is_packed(linear.weight) for linear in (*mla.from_x, mla.out)] == [False, False, True]
        if changed != "nothing":
            mla.from_x[changed == "for latents"].weight.mul_(1.5)
        found = mla._project(x, rope)
        model.drop_packed()
        assert not mla.packed.is_packed(*(linear.weight for linear in mla.from_x))
        for mine, wanted in zip(found, mla._project(x, rope), strict=True):
            torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)


def test_a_packed_copy_is_not_used_once_products_are_in_fp8(model: Decoder) -> None:
    mla, x = attention_of(model), torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(2))
    rope = model.rope(24)
    with torch.no_grad():
        model.pack_weights()
        plain = mla._project(x, rope)
        use_fp8(model)
        rounded = mla._project(x, rope)
        model.drop_packed()
        for mine, wanted, before in zip(rounded, mla._project(x, rope), plain, strict=True):
            torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)
            assert (mine - before).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_queries_and_latents_are_the_same(model: Decoder, dtype: torch.dtype) -> None:
    """One kernel norms, rotates and scales there; positions differ by row."""
    mla = attention_of(model).to(dtype)
    x = torch.randn(3, 4, 24, generator=torch.Generator().manual_seed(2)).to(dtype)
    rope = model.rope(4, torch.arange(12).view(3, 4) * 2)
    wanted = mla._project(x, rope)
    with torch.no_grad():
        found = (*mla._project(x, rope), mla.latents(x, rope))
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    for mine, theirs in zip(found, (*wanted, wanted[1]), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), **tolerance)


def test_later_tokens_never_change_earlier_ones_and_padding_is_never_seen(model: Decoder) -> None:
    tokens = random_tokens(2, 12)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 61
    with torch.no_grad():
        before, after = model(tokens), model(changed)
        padded = model(torch.cat((tokens, torch.zeros(2, 20, dtype=torch.int64)), dim=1))
    torch.testing.assert_close(after[:, :6], before[:, :6], atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[:, :12], before, atol=1e-5, rtol=1e-5)
    assert (after[:, 7:] - before[:, 7:]).abs().max() > 1e-3


def test_only_differences_of_positions_matter(model: Decoder) -> None:
    tokens, counted = random_tokens(2, 10), torch.arange(10).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens, counted + 40), model(tokens), atol=1e-4, rtol=1e-4)
        assert (model(tokens, counted * 2) - model(tokens)).abs().max() > 1e-2


def test_packed_rows_equal_rows_alone(model: Decoder) -> None:
    rows = [Row([*range(1, 20)], 5), Row([1, 2, 3, 4, 5, 40, 41], 5), Row([50, 51, 52], 1)]
    with torch.no_grad():
        for batch in microbatches(rows, 4096):
            logprobs_BT, _ = completion_logprobs(model, batch)
            for b, i in enumerate(batch.rows):
                tokens = torch.tensor(rows[i].tokens)
                whole = model.logits(model(tokens[None])[0]).log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]
                got = logprobs_BT[b][batch.loss_mask_BT[b]]
                torch.testing.assert_close(got, whole[rows[i].num_prompt - 1 :], atol=1e-4, rtol=1e-4)


def test_bfloat16_attends_to_values_of_another_width() -> None:
    generator = torch.Generator().manual_seed(8)
    q, k, v = (torch.randn(2, 11, 3, width, generator=generator) for width in (10, 10, 6))
    rounded = attend_causally(0, q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert rounded.shape == (2, 11, 3, 6)
    torch.testing.assert_close(rounded.float(), attend_causally(0, q, k, v), atol=0.03, rtol=0.03)


def test_the_cache_holds_the_latent_alone(model: Decoder) -> None:
    cache = KVCache(model.shape, num_slots=2, num_positions=16, like=torch.zeros(1))
    assert cache.kv.shape == (3, 1, 2, 1, 16, 18)
    per_token = cache.kv.numel() * 4 // (2 * 16)
    assert per_token == model.shape.cache_bytes_per_token(4)


def test_decoding_on_latents_equals_the_whole_forward_pass(model: Decoder) -> None:
    tokens = random_tokens(3, 14)
    lengths = [5, 9, 1]
    with torch.no_grad():
        whole = model(tokens)
        prefill = Prefill()
        model(tokens[:, :9], attend=prefill)
        prompts = prefill.finish(lengths)
        cache = KVCache(model.shape, num_slots=3, num_positions=16, like=torch.zeros(1))
        cache.kv.fill_(1e3)  # what an earlier occupant left must not be seen
        for slot in range(3):
            cache.place_prompt([slot], prompts, slot, number=slot)
        for step in range(5):
            at = torch.tensor(lengths) + step
            cache.begin_step(at, int(at.max()) + 1)
            hidden = model(tokens[torch.arange(3), at][:, None], at[:, None], cache)
            torch.testing.assert_close(hidden[:, 0], whole[torch.arange(3), at], atol=1e-4, rtol=1e-4)


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    mla = {"qk_rope_head_width": 32}
    plain, scaled = (
        tiny_shape(mla=mla),
        tiny_shape(mla=mla, rope_scaling=YARN | {"original_max_positions": 4096, "factor": 40.0}),
    )
    ratio = rope_frequency(plain) / rope_frequency(scaled)
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(40)
    assert (ratio.diff() >= 0).all()
    torch.testing.assert_close(rope_table(scaled)[0][0], torch.ones(16))  # equal mscales: cos and sin are not scaled
    yarn = scaled.rope_scaling
    assert isinstance(yarn, YarnScaling)
    assert yarn_softmax_scale(yarn) == pytest.approx(1.8739, abs=1e-3)  # (0.1 ln 40 + 1)^2
