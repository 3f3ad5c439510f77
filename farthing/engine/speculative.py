"""Prompts -> the very completions that plain decoding gives, two tokens a forward pass where the model foresaw the second.

The multi-token prediction module (arXiv:2412.19437, section 2.2) drafts one token ahead; the model's next pass takes the last
token and the draft together. Where we differ from speculative sampling (arXiv:2211.17192): nothing is accepted by
chance. Token n of a completion is always drawn from the model's own distribution with the n-th number of its seed, as in plain
decoding, and the draft counts only if it is that token. So the distribution is plain decoding's because the tokens are.
The draft is drawn from the module's distribution with the same number: the likelier equal, the nearer the two distributions.

All sequences start together and run until the last has ended: made for few of them, where a pass costs the same for one
token as for two. The engine's continuous batching is for many.

Shapes: S sequences, T tokens of a pass, N heads, H head width, L latent with the rotated key, V value width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from farthing.data.batches import ROUND_TOKENS, round_up
from farthing.engine.cache import KVCache, Prefill
from farthing.engine.engine import Completion, StopReason
from farthing.engine.sampler import Sampled, SamplingParams, sample
from farthing.errors import ModelError, RecipeError
from farthing.models.decoder import Decoder
from farthing.models.mla import LatentAttention
from farthing.tokenizer import Tokenizer


@dataclass
class Speculation:
    """What came of the drafts."""

    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def acceptance_rate(self) -> float:
        return self.num_accepted / max(self.num_drafted, 1)


class DraftCache(KVCache):
    """Latents of all layers and of the prediction module, written and read several tokens at a time."""

    def begin_pass(self, positions_ST: Tensor) -> None:
        """Sets where the tokens of each sequence go; each sees those up to its own place."""
        self.places_ST = positions_ST
        longest = round_up(int(positions_ST.max()) + 1, ROUND_TOKENS)
        hidden = torch.arange(min(longest, self.num_positions), device=positions_ST.device) > positions_ST[:, :, None]
        self.mask_STP = torch.zeros(hidden.shape, dtype=self.kv.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)

    def attend_latent(self, mla: LatentAttention, q_STNH: Tensor, latent_STL: Tensor) -> Tensor:
        """As `KVCache.attend_latent`, for T tokens: [S, T, N, V]."""
        S, T, N = q_STNH.shape[:3]
        latents = self.kv[mla.layer, 0, :, 0]
        latents[torch.arange(S, device=q_STNH.device)[:, None], self.places_ST] = latent_STL
        seen = latents[:S, : self.mask_STP.shape[-1]]
        scores = torch.matmul(mla.absorb(q_STNH.flatten(0, 1)).view(S, T * N, -1), seen.transpose(1, 2)).view(S, T, N, -1)
        weights = (scores + self.mask_STP[:, :, None]).float().softmax(dim=-1).to(scores.dtype)
        attended = torch.matmul(weights.view(S, T * N, -1), seen[..., : mla.mla.kv_lora_rank])
        return mla.values(attended.view(S * T, N, -1)).view(S, T, N, -1)


@torch.inference_mode()
def generate_ahead(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
) -> tuple[list[list[Completion]], Speculation]:
    """What `Engine.generate` returns, and what came of the drafts. ModelError for a model without the module."""
    if not model.shape.mtp_depth or not model.shape.mla:
        raise ModelError("this model has no multi-token prediction module to draft with; generate without it")
    longest = max((len(p) for p in prompts), default=0) + params.max_tokens
    if longest > model.shape.max_positions or not all(prompts):
        raise RecipeError(
            f"prompts must have tokens, and the longest with max_tokens={params.max_tokens} must fit into the model's "
            f"{model.shape.max_positions} positions; got {longest}"
        )
    owners = [i for i, own in enumerate(seeds) for _ in own]
    done: list[list[Completion]] = [[] for _ in prompts]
    if not owners:
        return done, Speculation()
    model.pack_weights()
    drafting = _Drafting(model, tokenizer, [prompts[i] for i in owners], [seed for own in seeds for seed in own], params)
    for owner, completion in zip(owners, drafting.run(), strict=True):
        done[owner].append(completion)
    return done, drafting.speculation


class _Drafting:
    """One call: sequences that start together."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, prompts: list[list[int]], seeds: list[int], params: SamplingParams
    ) -> None:
        self.model, self.tokenizer, self.params, self.seeds = model, tokenizer, params, seeds
        self.device = model.embed.weight.device
        self.prompts = prompts
        self.seeds_S = torch.tensor(seeds, device=self.device)
        self.sampled: list[list[tuple[int, float, float]]] = [[] for _ in seeds]
        self.reasons: list[StopReason | None] = [None] * len(seeds)
        self.speculation = Speculation()
        num_positions = round_up(max(map(len, prompts)) + params.max_tokens, ROUND_TOKENS)
        layers = model.shape.model_copy(update={"num_layers": model.shape.num_layers + 1})
        self.cache = DraftCache(layers, len(seeds), num_positions, model.embed.weight)

    def run(self) -> list[Completion]:
        hidden_SD, ends_S = self._prefill()
        slots = torch.arange(len(self.seeds), device=self.device)
        num_S = torch.zeros_like(slots)
        last = self._draw(self.model.logits(hidden_SD), num_S)
        self._take(last, [True] * len(self.seeds))
        num_S = num_S + 1
        draft_S = self._draft(hidden_SD[:, None], last.tokens_B[:, None], ends_S[:, None], torch.zeros_like(slots), num_S)
        last_S = last.tokens_B
        while not all(self.reasons):
            positions_S2 = torch.stack((ends_S + 1, ends_S + 2), dim=1)
            self.cache.begin_pass(positions_S2)
            hidden_S2D = self.model(torch.stack((last_S, draft_S), dim=1), positions_S2, self.cache)
            logits_S2V = self.model.logits(hidden_S2D)
            first, second = self._draw(logits_S2V[:, 0], num_S), self._draw(logits_S2V[:, 1], num_S + 1)
            foreseen_S = first.tokens_B == draft_S
            is_alive = [reason is None for reason in self.reasons]
            self._take(first, is_alive)
            self.speculation.num_drafted += sum(is_alive)
            self.speculation.num_accepted += sum(f and a for f, a in zip(foreseen_S.tolist(), is_alive, strict=True))
            self._take(second, [f and r is None for f, r in zip(foreseen_S.tolist(), self.reasons, strict=True)])
            # one that has ended stays where it is: its passes are thrown away, and must not run out of the cache
            going_S = torch.tensor([reason is None for reason in self.reasons], device=self.device)
            step_S = foreseen_S.long()
            next_S2 = torch.stack((first.tokens_B, second.tokens_B), dim=1)
            drafted_S = self._draft(hidden_S2D, next_S2, positions_S2, step_S, num_S + 1 + step_S)
            draft_S, last_S = draft_S.where(~going_S, drafted_S), last_S.where(~going_S, next_S2[slots, step_S])
            ends_S, num_S = ends_S + (1 + step_S) * going_S, num_S + (1 + step_S) * going_S
        return [self._completion(i) for i in range(len(self.seeds))]

    def _prefill(self) -> tuple[Tensor, Tensor]:
        """Fills the cache -> hidden states of the prompts' last tokens, and these tokens' positions."""
        lengths = [len(p) for p in self.prompts]
        tokens_ST = torch.zeros(len(lengths), max(lengths), dtype=torch.int64, device=self.device)
        for row, prompt in enumerate(self.prompts):
            tokens_ST[row, : len(prompt)] = torch.tensor(prompt, device=self.device)
        prefill = Prefill()
        hidden_STD = self.model(tokens_ST, attend=prefill)
        # at a prompt's last token the module needs the first sampled one: `_draft` writes that place again
        self.model.look_ahead(0, hidden_STD, tokens_ST.roll(-1, dims=1), attend=prefill)
        # slots are rows here; what lies behind a shorter prompt is written over before it is seen
        self.cache.kv[:, :, :, :, : max(lengths)] = prefill.finish(lengths).kv
        ends_S = torch.tensor(lengths, device=self.device) - 1
        return hidden_STD[torch.arange(len(lengths), device=self.device), ends_S], ends_S

    def _draft(self, hidden_STD: Tensor, next_ST: Tensor, positions_ST: Tensor, at_S: Tensor, counters_S: Tensor) -> Tensor:
        """Runs the module over what the pass found; the token that it foresees behind place `at_S` of each sequence."""
        self.cache.begin_pass(positions_ST)
        ahead_STD = self.model.look_ahead(0, hidden_STD, next_ST, positions_ST, self.cache)
        rows = torch.arange(len(at_S), device=self.device)
        return self._draw(self.model.logits(ahead_STD[rows, at_S]), counters_S).tokens_B

    def _draw(self, logits_SV: Tensor, counters_S: Tensor) -> Sampled:
        return sample(logits_SV, self.params, self.seeds_S, counters_S)

    def _take(self, sampled: Sampled, wanted: Sequence[bool]) -> None:
        """Appends a token to the sequences that want one, and says which of them it ended."""
        for i, is_wanted in enumerate(wanted):
            if is_wanted:
                token = int(sampled.tokens_B[i])
                self.sampled[i].append((token, float(sampled.logprobs_B[i]), float(sampled.kept_mass_B[i])))
                self.reasons[i] = self._ended(i, token)

    def _ended(self, i: int, token: int) -> StopReason | None:
        if token == self.tokenizer.eos_id and not self.params.ignore_eos:
            return StopReason.END_OF_TEXT
        if self.params.stop:
            text = self.tokenizer.decode([entry[0] for entry in self.sampled[i]])
            if any(stop in text for stop in self.params.stop):
                return StopReason.STOP_STRING
        return StopReason.LENGTH if len(self.sampled[i]) == self.params.max_tokens else None

    def _completion(self, i: int) -> Completion:
        tokens, logprobs, kept_mass = (list(column) for column in zip(*self.sampled[i], strict=True))
        reason = self.reasons[i]
        assert reason is not None, "run ends when all have one"
        return Completion(
            tokens=[int(t) for t in tokens],
            logprobs=logprobs,
            kept_mass=kept_mass,
            stop_reason=reason,
            policy_version=0,
            seed=self.seeds[i],
        )
