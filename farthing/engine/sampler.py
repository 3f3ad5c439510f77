"""Logits -> sampled tokens, with the logprob each had under the distribution that was really sampled from.

Every rollout owns a seed; its n-th token is drawn with the n-th number of a counter-based generator (SplitMix64, Steele
et al. 2014), so what a rollout draws depends neither on its neighbours in the batch nor on any state that a resume must
restore.

Shapes: B rows, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from farthing.errors import RecipeError
from farthing.models.fused import can_fuse, sample_rows


@dataclass(frozen=True)
class SamplingParams:
    """temperature 0 is greedy; top_k 0 and top_p 1 are off; `stop` strings end a completion and stay in its text."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_tokens < 1:
            raise RecipeError(
                f"sampling needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and max_tokens >= 1; got "
                f"temperature={self.temperature}, top_p={self.top_p}, top_k={self.top_k}, max_tokens={self.max_tokens}"
            )


class Sampled(NamedTuple):
    tokens_B: Tensor
    """int64 [B]"""
    logprobs_B: Tensor
    """fp32 [B]: logprob under the temperature-scaled, truncated and renormalised distribution; 0 when greedy."""
    kept_mass_B: Tensor
    """fp32 [B]: probability that top-k and top-p left; logprob + log(kept mass) is the untruncated logprob."""


def sample(logits_BV: Tensor, params: SamplingParams, seeds_B: Tensor, counters_B: Tensor) -> Sampled:
    """One token a row, by inverse transform of the row's own uniform number."""
    logits = logits_BV.float()
    if params.temperature == 0:
        zeros = torch.zeros(logits.shape[0], device=logits.device)
        return Sampled(logits.argmax(dim=-1), zeros, torch.ones_like(zeros))
    if not params.top_k and params.top_p == 1 and can_fuse(logits):
        tokens_B, logprobs_B = sample_rows(logits, seeds_B, counters_B, params.temperature)
        return Sampled(tokens_B, logprobs_B, torch.ones_like(logprobs_B))
    uniforms_B = uniform(seeds_B, counters_B)
    scaled = logits / params.temperature if logits is logits_BV else logits.div_(params.temperature)
    probs = torch.softmax(scaled, dim=-1)
    kept_mass = torch.ones(probs.shape[0], device=probs.device)
    if params.top_k or params.top_p < 1:
        probs = _truncate(probs, params.top_k, params.top_p)
        kept_mass = probs.sum(dim=-1)
    cumulative = probs.cumsum(dim=-1)
    threshold = uniforms_B.unsqueeze(1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=probs.shape[1] - 1)
    chosen = probs.gather(1, tokens)
    # rounding can land the threshold on a token of probability 0 (cut by top-p, or underflowed): take the likeliest
    missed = chosen.squeeze(1) <= 0
    if missed.any():
        tokens[missed] = probs[missed].argmax(dim=-1, keepdim=True)
        chosen = probs.gather(1, tokens)
    return Sampled(tokens.squeeze(1), (chosen.squeeze(1) / kept_mass).log(), kept_mass)


def _truncate(probs_BV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Zeroes what top-k, then nucleus sampling (arXiv:1904.09751) leave out; the token that crosses top_p is kept."""
    ordered, index = probs_BV.sort(dim=-1, descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k:
        keep[:, top_k:] = False
    if top_p < 1:
        kept = ordered * keep
        before = kept.cumsum(dim=-1) - kept
        keep &= before < top_p * kept.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs_BV).scatter_(1, index, ordered * keep)


_GOLDEN, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 >> is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform(seeds_B: Tensor, counters_B: Tensor) -> Tensor:
    """fp32 in [0, 1) from int64 seeds and counters."""
    z = seeds_B + (counters_B + 1) * _signed(_GOLDEN)
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX2)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 40).float() * 2.0**-24
