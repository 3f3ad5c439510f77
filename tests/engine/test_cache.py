"""The cache: token-by-token attention over slots equals causal attention over whole rows, through refills and moves."""

from typing import Any

import pytest
import torch
from torch import Tensor

from farthing.engine.cache import KVCache, Prefill, PromptCache
from farthing.models import fused
from farthing.models.attention import attend_causally
from farthing.models.decoder import build_layer
from farthing.models.shape import MlaShape, ModelShape, MoeShape

SHAPE = ModelShape(
    vocab_size=8, width=24, num_layers=2, num_heads=6, num_kv_heads=2, head_width=4, ffn_width=8, max_positions=32
)
LENGTH = 9


def sequence(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one row of `LENGTH` tokens."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(  # type: ignore[return-value]
        torch.randn(1, LENGTH, heads, SHAPE.head_width, generator=generator)
        for heads in (SHAPE.num_heads, SHAPE.num_kv_heads, SHAPE.num_kv_heads)
    )


def place(cache: KVCache, slots: list[int], seed: int, length: int, padding: int = 0) -> None:
    """Prefills the first `length` tokens of a sequence into `slots`."""
    prefill = Prefill()
    for layer in range(SHAPE.num_layers):
        q, k, v = (torch.nn.functional.pad(x[:, :length], (0, 0, 0, 0, 0, padding)) for x in sequence(seed))
        torch.testing.assert_close(prefill(layer, q, k, v), attend_causally(layer, q, k, v))
    cache.place_prompt(slots, prefill.finish([length]), 0, number=seed)


def decode(cache: KVCache, seeds: list[int], positions: list[int]) -> None:
    """One step with a token per slot; every slot must see exactly its own past."""
    at = torch.tensor(positions)
    cache.begin_step(at, int(at.max()) + 1)
    rows = [sequence(seed) for seed in seeds]
    new = [torch.cat([row[part][:, p : p + 1] for row, p in zip(rows, positions, strict=True)]) for part in range(3)]
    for layer in range(SHAPE.num_layers):
        out = cache(layer, *new)
        whole = torch.cat([attend_causally(layer, *row)[:, p : p + 1] for row, p in zip(rows, positions, strict=True)])
        torch.testing.assert_close(out, whole, atol=1e-5, rtol=1e-5)


@pytest.fixture(params=["kernel", "pytorch"])
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> KVCache:
    if request.param == "pytorch":
        monkeypatch.setattr(fused, "library", lambda: None)
    cache = KVCache(SHAPE, num_slots=4, num_positions=LENGTH, like=torch.zeros(1))
    cache.kv.fill_(1e3)  # what an earlier occupant left must not be seen
    return cache


def test_ragged_slots_see_their_own_past(cache: KVCache) -> None:
    place(cache, [0], seed=1, length=4)
    place(cache, [1], seed=2, length=1, padding=3)
    place(cache, [2], seed=3, length=6)
    for step in range(3):
        decode(cache, [1, 2, 3], [4 + step, 1 + step, 6 + step])


def test_a_group_shares_one_prefill_and_then_parts(cache: KVCache) -> None:
    place(cache, [0, 2, 3], seed=1, length=5)
    place(cache, [1], seed=2, length=3)
    decode(cache, [1, 2, 1, 1], [5, 3, 5, 5])
    decode(cache, [1, 2, 1, 1], [6, 4, 6, 6])


def test_idle_slots_that_ride_along_spoil_nothing(cache: KVCache) -> None:
    """Slot 0 once held the prompt of slots 1 and 2 and idles now: its first position is written over; they must not read it."""
    place(cache, [0, 1, 2], seed=1, length=5)
    at = torch.tensor([0, 5, 5])
    cache.begin_step(at, 6)
    rows = [sequence(9), sequence(1), sequence(1)]
    new = [torch.cat([row[part][:, p : p + 1] for row, p in zip(rows, at.tolist(), strict=True)]) for part in range(3)]
    out = cache(0, *new)
    whole = attend_causally(0, *sequence(1))[:, 5:6].expand(2, -1, -1, -1)
    torch.testing.assert_close(out[1:], whole, atol=1e-5, rtol=1e-5)


def test_moved_sequences_go_on_and_freed_slots_are_filled_anew(cache: KVCache) -> None:
    for slot, seed in enumerate((1, 2, 3, 4)):
        place(cache, [slot], seed, length=3)
    decode(cache, [1, 2, 3, 4], [3, 3, 3, 3])
    cache.move([3, 2], [0, 1], num_positions=4)
    decode(cache, [4, 3], [4, 4])
    place(cache, [2, 3], seed=5, length=2)
    decode(cache, [4, 3, 5, 5], [5, 5, 2, 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [16, 32, 12])
def test_latents_are_attended_to_alike_with_and_without_the_kernel(dtype: torch.dtype, rank: int, monkeypatch: Any) -> None:
    """Three slots of one prompt and two of their own, ragged; the kernel takes latents of whole registers."""
    mla = MlaShape(kv_lora_rank=rank, qk_nope_head_width=8, qk_rope_head_width=4, v_head_width=6)
    shape = ModelShape(
        family="deepseek_v3", vocab_size=8, width=24, num_layers=1, num_heads=3, ffn_width=8, max_positions=200, mla=mla,
        moe=MoeShape(num_experts=1, experts_per_token=1, expert_width=1, first_k_dense=1),
    )  # fmt: skip
    attention = build_layer(shape, 0).attention.to(dtype)
    generator = torch.Generator().manual_seed(0)
    layout, positions = shape.cache_layout, torch.tensor([150, 133, 131, 70, 0])
    prompts = PromptCache(torch.randn(1, 1, 2, 1, 130, layout.width, generator=generator).to(dtype), [130, 64])
    q_S1NH = torch.randn(5, 1, 3, shape.head_width, generator=generator).to(dtype)
    new_S1L = torch.randn(5, 1, layout.width, generator=generator).to(dtype)
    outs = []
    for has_kernel in (True, False):
        if not has_kernel:
            monkeypatch.setattr(fused, "library", lambda: None)
        cache = KVCache(shape, 5, 160, torch.zeros(1, dtype=dtype))
        cache.kv.normal_(generator=torch.Generator().manual_seed(1))
        cache.place_prompt([0, 1, 2], prompts, 0, number=0)
        cache.place_prompt([3], prompts, 1, number=1)
        cache.begin_step(positions, 151)
        with torch.no_grad():
            outs.append(cache.attend_latent(attention, q_S1NH, new_S1L))
    torch.testing.assert_close(*outs, **({} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.03}))
