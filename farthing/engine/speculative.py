"""Prompts -> the very completions that plain decoding gives, several tokens a forward pass where the model foresaw them.

The multi-token prediction modules (arXiv:2412.19437, section 2.2) each draft one token further ahead; the model's next pass
takes the last token and the drafts together. Where we differ from speculative sampling (arXiv:2211.17192): nothing is accepted
by chance. Token n of a completion is always drawn from the model's own distribution with the n-th number of its seed, as in
plain decoding, and a draft counts only if it is that token. So the distribution is plain decoding's because the tokens are.
A draft is drawn from its module's distribution with the same number: the likelier equal, the nearer the two distributions.

All sequences start together, and each leaves when it has ended: made for few of them, where a pass costs the same for one
token as for two. The engine's continuous batching is for many.

Shapes: S sequences, K drafts of each, T = 1 + K tokens of a pass, D width, N heads, H head width, L latent with the rotated
key, V value width.
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
    """What came of the drafts that were held against what the model drew; those behind a wrong one, or the end, never are."""

    num_judged: int = 0
    num_accepted: int = 0

    @property
    def acceptance_rate(self) -> float:
        return self.num_accepted / max(self.num_judged, 1)


class DraftCache(KVCache):
    """Latents of all layers and of the prediction modules, written and read several tokens at a time."""

    places_ST: Tensor | None = None

    def begin_pass(self, positions_ST: Tensor) -> None:
        """Sets where the tokens of each sequence go; each sees those up to its own place."""
        if positions_ST is self.places_ST:
            return
        self.places_ST = positions_ST
        if self.has_kernel:  # every token by itself
            self._places_X = positions_ST.flatten()
            if self._groups is None or len(self._groups[0]) != positions_ST.numel():
                starts = torch.arange(positions_ST.numel() + 1, device="cpu")
                self._groups = starts[:-1], starts, torch.zeros_like(starts[:-1])
            return
        self.rows_S1 = torch.arange(len(positions_ST), device=positions_ST.device)[:, None]
        longest = round_up(int(positions_ST.max()) + 1, ROUND_TOKENS)
        hidden = torch.arange(min(longest, self.num_positions), device=positions_ST.device) > positions_ST[:, :, None]
        self.mask_STP = torch.zeros(hidden.shape, dtype=self.kv.dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)

    def keep(self, rows: Tensor) -> None:
        """Forgets all sequences but these, which close up."""
        self.kv = self.kv[:, :, rows]

    def attend_latent(self, mla: LatentAttention, q_STNH: Tensor, latent_STL: Tensor) -> Tensor:
        """As `KVCache.attend_latent`, for T tokens: [S, T, N, V]."""
        assert self.places_ST is not None, "begin_pass must come before a forward pass"
        S, T, N = q_STNH.shape[:3]
        latents = self.kv[mla.layer, 0, :, 0]
        if self._groups is not None:
            new = q_STNH.flatten(0, 1), latent_STL.flatten(0, 1), mla.up()
            return decode_latents(*new, latents, self._places_X, self._groups, T).view(S, T, N, -1)
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
        self.active = list(range(len(seeds)))
        """Sequence of each row."""
        self.sampled: list[list[tuple[int, float, float]]] = [[] for _ in seeds]
        self.reasons: list[StopReason | None] = [None] * len(seeds)
        self.speculation = Speculation()
        self._rope_of: Tensor | None = None
        num_positions = min(round_up(max(map(len, prompts)) + params.max_tokens, ROUND_TOKENS), model.shape.max_positions)
        layers = model.shape.model_copy(update={"num_layers": model.shape.num_layers + model.shape.mtp_depth})
        self.cache = DraftCache(layers, len(seeds), num_positions, model.embed.weight)

    def run(self) -> list[Completion]:
        drafts = self._prefill()
        while self.active:
            drafts = self._pass(drafts)
        return [self._completion(i) for i in range(len(self.seeds))]

    def _prefill(self) -> list[list[int]]:
        """Fills the cache and draws the first tokens -> the first drafts."""
        lengths = [len(p) for p in self.prompts]
        longest = min(round_up(max(lengths), ROUND_TOKENS), self.cache.num_positions)
        tokens_ST = self._tensor([prompt + [0] * (longest - len(prompt)) for prompt in self.prompts])
        prefill = Prefill()
        hidden_STD = self.model(tokens_ST, attend=prefill)
        rows_S1, ends_S = torch.arange(len(lengths), device=self.device)[:, None], self._tensor(lengths) - 1
        first_S1, _ = self._draw(self.model.logits(hidden_STD[rows_S1, ends_S[:, None]]), [[]] * len(lengths))
        # what lies behind a shorter prompt is written over before it is seen
        self.cache.kv[: -self.model.shape.mtp_depth, :, :, :, :longest] = prefill.finish(lengths).kv
        self._prefill_modules(hidden_STD, tokens_ST)
        # the modules are asked behind the last token, and once more behind those whose following tokens were not all there
        window = min(self.model.shape.mtp_depth, *lengths)
        positions_ST = ends_S[:, None] + torch.arange(1 - window, 1, device=self.device)
        next_ST = torch.cat((tokens_ST[rows_S1, positions_ST[:, 1:]], first_S1), dim=1)
        return self._draft(hidden_STD[rows_S1, positions_ST], next_ST, positions_ST, [window - 1] * len(lengths))

    def _prefill_modules(self, hidden_STD: Tensor, tokens_ST: Tensor) -> None:
        """Fills the cache of the modules: module k at each place sees the k + 1 tokens behind it."""
        num_layers, depth = self.model.shape.num_layers, self.model.shape.mtp_depth
        for k in range(min(depth, tokens_ST.shape[1] - 1)):
            hidden_STD, next_ST = hidden_STD[:, :-1], tokens_ST[:, k + 1 :]
            if k + 1 == depth:  # nobody asks the last one yet
                latents_STL = self.model.look_ahead_latents(k, hidden_STD, next_ST)
            else:
                prefill = Prefill()
                hidden_STD = self.model.look_ahead(k, hidden_STD, next_ST, attend=prefill)
                latents_STL = prefill.finish([]).kv[0, 0, :, 0]
            self.cache.kv[num_layers + k, 0, :, 0, : next_ST.shape[1]] = latents_STL

    def _pass(self, drafts: list[list[int]]) -> list[list[int]]:
        """Each sequence's last token and its drafts through the model -> the next drafts."""
        tokens_ST = self._tensor([[self.sampled[i][-1][0], *own] for i, own in zip(self.active, drafts, strict=True)])
        places = [len(self.prompts[i]) + len(self.sampled[i]) - 1 for i in self.active]
        # a draft beyond its sequence's end may lie beyond the cache too; nobody sees the last place
        last = self.cache.num_positions - 1
        positions_ST = self._tensor([[min(place + t, last) for t in range(tokens_ST.shape[1])] for place in places])
        self.cache.begin_pass(positions_ST)
        hidden_STD = self.model(tokens_ST, self._rope(positions_ST), self.cache)
        next_ST, accepted = self._draw(self.model.logits(hidden_STD), drafts)
        return self._draft(hidden_STD, next_ST, positions_ST, accepted)

    def _draw(self, logits_STV: Tensor, drafts: list[list[int]]) -> tuple[Tensor, list[int]]:
        """Draws the next token at every place, keeps those that count -> all of them, [S, T]; how many drafts of each row held.

        The first place counts; each further one where the place before drew the draft that it stands on: then it was drawn from
        the right distribution.
        """
        T = logits_STV.shape[1]
        seeds = self._tensor([self.seeds[i] for i in self.active for _ in range(T)])
        counters = self._tensor([len(self.sampled[i]) + t for i in self.active for t in range(T)])
        sampled = sample(logits_STV.flatten(0, 1), self.params, seeds, counters)
        drawn, accepted = list(zip(*(column.tolist() for column in sampled), strict=True)), []
        for row, own in enumerate(drafts):
            i, num_held = self.active[row], 0
            first, *others = drawn[row * T : (row + 1) * T]
            self._take(i, first)
            for draft, behind in zip(own, others, strict=True):
                self.speculation.num_judged += 1
                if draft != self.sampled[i][-1][0]:
                    break
                num_held += 1
                if self.reasons[i] is not None:
                    break
                self._take(i, behind)
            self.speculation.num_accepted += num_held
            accepted.append(num_held)
        return sampled.tokens_B.view(-1, T), accepted

    def _draft(self, hidden_STD: Tensor, next_ST: Tensor, positions_ST: Tensor, at: list[int]) -> list[list[int]]:
        """The tokens foreseen behind the last one of each sequence that has not ended, at most one a module.

        `hidden_STD` and `next_ST` are what the model made of the tokens at these positions and the tokens that follow them; row
        s's last token is next_ST[s, at[s]]. Sequences that have ended leave the cache.
        What a module keeps of a place whose following tokens were drafts that did not hold stays as it is: a draft's matter.
        """
        going = [row for row, i in enumerate(self.active) if self.reasons[i] is None]
        if len(going) < len(self.active):
            self.active, at = [self.active[row] for row in going], [at[row] for row in going]
            rows = self._tensor(going)
            self.cache.keep(rows)
            hidden_STD, next_ST, positions_ST = hidden_STD[rows], next_ST[rows], positions_ST[rows]
        counts = [len(self.sampled[i]) for i in self.active]
        depth = min(self.model.shape.mtp_depth, self.params.max_tokens - 1 - min(counts)) if counts else 0
        drafts: list[list[int]] = []
        if depth:
            self.cache.begin_pass(positions_ST)
            seeds_S = self._tensor([self.seeds[i] for i in self.active])
            last_S = self._tensor([row * next_ST.shape[1] + place for row, place in enumerate(at)])
        for k in range(depth):
            if k:  # the module sees one token further: the draft just made, behind what is known
                next_ST = next_ST.roll(-1, dims=1)
                next_ST.view(-1)[last_S] = self._tensor(drafts[-1])
            hidden_STD = self.model.look_ahead(k, hidden_STD, next_ST, self._rope(positions_ST), self.cache)
            logits_SV = self.model.logits(hidden_STD.flatten(0, 1)[last_S])
            counters_S = self._tensor([count + k for count in counts])
            drafts.append(sample(logits_SV, self.params, seeds_S, counters_S).tokens_B.tolist())
        return [list(own) for own in zip(*drafts, strict=True)] if drafts else [[] for _ in self.active]

    def _rope(self, positions_ST: Tensor) -> tuple[Tensor, Tensor]:
        """Looked up once for the layers and the modules: the positions of a pass are made here, and never written to."""
        if self._rope_of is not positions_ST:
            self._rope_of, self._turned = positions_ST, self.model.rope(positions_ST.shape[1], positions_ST)
        return self._turned

    def _tensor(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

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
