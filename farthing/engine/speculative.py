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
from farthing.engine.sampler import SamplingParams, sample
from farthing.errors import ModelError, RecipeError
from farthing.models.decoder import Decoder
from farthing.models.fused import decode_latents
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
        if self.has_kernel:  # every token by itself
            starts = torch.arange(positions_ST.numel() + 1, device="cpu")
            self._groups = starts[:-1], starts, torch.zeros_like(starts[:-1])
            return
        self.rows_S1 = torch.arange(len(positions_ST), device=positions_ST.device)[:, None]
        longest = round_up(int(positions_ST.max()) + 1, ROUND_TOKENS)
        hidden = torch.arange(min(longest, self.num_positions), device=positions_ST.device) > positions_ST[:, :, None]
        self.mask_STP = torch.zeros(hidden.shape, dtype=self.kv.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)

    def attend_latent(self, mla: LatentAttention, q_STNH: Tensor, latent_STL: Tensor) -> Tensor:
        """As `KVCache.attend_latent`, for T tokens: [S, T, N, V]."""
        S, T, N = q_STNH.shape[:3]
        latents = self.kv[mla.layer, 0, :, 0]
        if self._groups is not None:
            new = q_STNH.flatten(0, 1), latent_STL.flatten(0, 1), mla.up()
            return decode_latents(*new, latents, self.places_ST.flatten(), self._groups, T).view(S, T, N, -1)
        latents[self.rows_S1, self.places_ST] = latent_STL
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
        self.slots = torch.arange(len(seeds), device=self.device)
        self.next_two = torch.tensor([[1, 2]], device=self.device)
        self.sampled: list[list[tuple[int, float, float]]] = [[] for _ in seeds]
        self.reasons: list[StopReason | None] = [None] * len(seeds)
        self.speculation = Speculation()
        num_positions = round_up(max(map(len, prompts)) + params.max_tokens, ROUND_TOKENS)
        layers = model.shape.model_copy(update={"num_layers": model.shape.num_layers + 1})
        self.cache = DraftCache(layers, len(seeds), num_positions, model.embed.weight)

    def run(self) -> list[Completion]:
        last_S, draft_S, ends_S = self._prefill()
        counts_S = torch.ones_like(ends_S)
        while not all(self.reasons):
            positions_S2 = ends_S[:, None] + self.next_two
            self.cache.begin_pass(positions_S2)
            hidden_S2D = self.model(torch.stack((last_S, draft_S), dim=1), positions_S2, self.cache)
            next_S2 = self._draw(self.model.logits(hidden_S2D), counts_S[:, None] + self.next_two - 1, draft_S)
            if all(self.reasons):
                break
            # where the draft is what was drawn, the second token was drawn from the right distribution and counts
            at_S = (next_S2[:, 0] == draft_S).long()
            # one that has ended stays where it is: its passes are thrown away, and must not run out of the cache
            going_S = torch.tensor([reason is None for reason in self.reasons], device=self.device)
            ahead_S2D = self.model.look_ahead(0, hidden_S2D, next_S2, positions_S2, self.cache)
            drafted_S = self._draft(ahead_S2D[self.slots, at_S], counts_S + 1 + at_S)
            draft_S, last_S = draft_S.where(~going_S, drafted_S), last_S.where(~going_S, next_S2[self.slots, at_S])
            steps_S = (1 + at_S) * going_S
            ends_S, counts_S = ends_S + steps_S, counts_S + steps_S
        return [self._completion(i) for i in range(len(self.seeds))]

    def _prefill(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fills the cache -> first tokens, drafts of the second, and the positions of the prompts' last tokens."""
        lengths = [len(p) for p in self.prompts]
        tokens_ST = torch.zeros(len(lengths), max(lengths), dtype=torch.int64, device=self.device)
        for row, prompt in enumerate(self.prompts):
            tokens_ST[row, : len(prompt)] = torch.tensor(prompt, device=self.device)
        ends_S = torch.tensor(lengths, device=self.device) - 1
        prefill = Prefill()
        hidden_STD = self.model(tokens_ST, attend=prefill)
        logits_SV = self.model.logits(hidden_STD[self.slots, ends_S])
        first_S = self._draw(logits_SV[:, None], torch.zeros_like(ends_S)[:, None], None)[:, 0]
        # the module sees the token behind each place: behind the prompt's last, the first that was drawn
        next_ST = tokens_ST.roll(-1, dims=1)
        next_ST[self.slots, ends_S] = first_S
        ahead_STD = self.model.look_ahead(0, hidden_STD, next_ST, attend=prefill)
        # slots are rows here; what lies behind a shorter prompt is written over before it is seen
        self.cache.kv[:, :, :, :, : max(lengths)] = prefill.finish(lengths).kv
        return first_S, self._draft(ahead_STD[self.slots, ends_S], torch.ones_like(ends_S)), ends_S

    def _draft(self, ahead_SD: Tensor, counters_S: Tensor) -> Tensor:
        """The tokens that the module's hidden states foresee."""
        return sample(self.model.logits(ahead_SD), self.params, self.seeds_S, counters_S).tokens_B

    def _draw(self, logits_STV: Tensor, counters_ST: Tensor, draft_S: Tensor | None) -> Tensor:
        """Draws the next token at every place, keeps those that count -> all of them, [S, T].

        The first place counts; the second where the first drew the draft that it stands on.
        """
        size = counters_ST.shape
        seeds = self.seeds_S[:, None].expand(size).flatten()
        sampled = sample(logits_STV.flatten(0, 1), self.params, seeds, counters_ST.flatten())
        drawn = list(zip(*(column.tolist() for column in sampled), strict=True))
        drafts = [None] * size[0] if draft_S is None else draft_S.tolist()
        for i, draft in enumerate(drafts):
            if self.reasons[i] is not None:
                continue
            first = drawn[i * size[1]]
            self._take(i, first)
            if draft is not None:
                self.speculation.num_drafted += 1
                if first[0] == draft:
                    self.speculation.num_accepted += 1
                    if self.reasons[i] is None:
                        self._take(i, drawn[i * size[1] + 1])
        return sampled.tokens_B.view(size)

    def _take(self, i: int, drawn: tuple[int, float, float]) -> None:
        self.sampled[i].append(drawn)
        self.reasons[i] = self._ended(i, drawn[0])

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
            tokens=tokens,
            logprobs=logprobs,
            kept_mass=kept_mass,
            stop_reason=reason,
            policy_version=0,
            seed=self.seeds[i],
        )
