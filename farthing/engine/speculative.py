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
        self.active = list(range(len(seeds)))
        """Sequence of each row."""
        self.seeds_S = torch.tensor(seeds, device=self.device)
        self.rows = torch.arange(len(seeds), device=self.device)
        self.sampled: list[list[tuple[int, float, float]]] = [[] for _ in seeds]
        self.reasons: list[StopReason | None] = [None] * len(seeds)
        self.speculation = Speculation()
        num_positions = min(round_up(max(map(len, prompts)) + params.max_tokens, ROUND_TOKENS), model.shape.max_positions)
        layers = model.shape.model_copy(update={"num_layers": model.shape.num_layers + model.shape.mtp_depth})
        self.cache = DraftCache(layers, len(seeds), num_positions, model.embed.weight)

    def run(self) -> list[Completion]:
        drafts_SK, last_S, ends_S = self._prefill()
        counts_S = torch.ones_like(ends_S)
        while self.active:
            offsets_T = 1 + torch.arange(drafts_SK.shape[1] + 1, device=self.device)
            # a draft beyond its sequence's end may lie beyond the cache too; nobody sees the last place
            positions_ST = (ends_S[:, None] + offsets_T).clamp_(max=self.cache.num_positions - 1)
            self.cache.begin_pass(positions_ST)
            hidden_STD = self.model(torch.cat((last_S[:, None], drafts_SK), dim=1), positions_ST, self.cache)
            next_ST = self._draw(self.model.logits(hidden_STD), counts_S, drafts_SK)
            # where the draft is what was drawn, the token behind it was drawn from the right distribution and counts
            accepted_S = (next_ST[:, :-1] == drafts_SK).cumprod(dim=1).sum(dim=1)
            ends_S, counts_S = ends_S + 1 + accepted_S, counts_S + 1 + accepted_S
            hidden_STD, next_ST, positions_ST, accepted_S, ends_S, counts_S = self._without_ended(
                hidden_STD, next_ST, positions_ST, accepted_S, ends_S, counts_S
            )
            drafts_SK = self._draft(hidden_STD, next_ST, positions_ST, accepted_S, counts_S)
            last_S = next_ST[self.rows, accepted_S]
        return [self._completion(i) for i in range(len(self.seeds))]

    def _prefill(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fills the cache -> first drafts [S, K], first tokens, where the prompts' last tokens are."""
        lengths = [len(p) for p in self.prompts]
        longest = min(round_up(max(lengths), ROUND_TOKENS), self.cache.num_positions)
        tokens_ST = torch.zeros(len(lengths), longest, dtype=torch.int64, device=self.device)
        for row, prompt in enumerate(self.prompts):
            tokens_ST[row, : len(prompt)] = torch.tensor(prompt, device=self.device)
        ends_S = torch.tensor(lengths, device=self.device) - 1
        prefill = Prefill()
        hidden_STD = self.model(tokens_ST, attend=prefill)
        first_S = self._draw(self.model.logits(hidden_STD[self.rows, ends_S])[:, None], ends_S * 0, tokens_ST[:, :0])[:, 0]
        # what lies behind a shorter prompt is written over before it is seen
        self.cache.kv[: -self.model.shape.mtp_depth, :, :, :, :longest] = prefill.finish(lengths).kv
        self._prefill_modules(hidden_STD, tokens_ST)
        # the modules are asked behind the last token, and once more behind those whose following tokens were not all there
        window = min(self.model.shape.mtp_depth, *lengths)
        positions_ST = ends_S[:, None] + torch.arange(1 - window, 1, device=self.device)
        rows_S1 = self.rows[:, None]
        next_ST = torch.cat((tokens_ST[rows_S1, positions_ST[:, 1:]], first_S[:, None]), dim=1)
        hidden_STD, next_ST, positions_ST, ends_S = self._without_ended(
            hidden_STD[rows_S1, positions_ST], next_ST, positions_ST, ends_S
        )
        at_S, counts_S = torch.full_like(ends_S, window - 1), torch.ones_like(ends_S)
        return self._draft(hidden_STD, next_ST, positions_ST, at_S, counts_S), next_ST[:, -1], ends_S

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

    def _without_ended(self, *of_rows: Tensor) -> tuple[Tensor, ...]:
        """Takes the sequences that have ended out of the cache, and out of tensors that have a row for each."""
        going = [row for row, i in enumerate(self.active) if self.reasons[i] is None]
        if len(going) == len(self.active):
            return of_rows
        self.active = [self.active[row] for row in going]
        rows = torch.tensor(going, dtype=torch.int64, device=self.device)
        self.rows = self.rows[: len(going)]
        self.seeds_S = self.seeds_S[rows]
        self.cache.keep(rows)
        return tuple(x[rows] for x in of_rows)

    def _draft(self, hidden_STD: Tensor, next_ST: Tensor, positions_ST: Tensor, at_S: Tensor, counts_S: Tensor) -> Tensor:
        """The tokens foreseen behind each sequence's last one, at next_ST[:, at_S] -> [S, K], at most one a module.

        `hidden_STD` and `next_ST` are what the model made of the tokens at these positions, and the tokens that follow them.
        What a module keeps of a place whose following tokens were drafts that did not hold stays as it is: a draft's matter.
        """
        room = self.params.max_tokens - 1 - min((len(self.sampled[i]) for i in self.active), default=0)
        drafts: list[Tensor] = []
        for depth in range(min(self.model.shape.mtp_depth, room if self.active else 0)):
            if depth:  # the module sees one token further: the draft just made, behind what is known
                next_ST = next_ST.roll(-1, dims=1)
                next_ST[self.rows, at_S] = drafts[-1]
            self.cache.begin_pass(positions_ST)
            hidden_STD = self.model.look_ahead(depth, hidden_STD, next_ST, positions_ST, self.cache)
            logits_SV = self.model.logits(hidden_STD[self.rows, at_S])
            drafts.append(sample(logits_SV, self.params, self.seeds_S, counts_S + depth).tokens_B)
        return torch.stack(drafts, dim=1) if drafts else next_ST[:, :0]

    def _draw(self, logits_STV: Tensor, counts_S: Tensor, drafts_SK: Tensor) -> Tensor:
        """Draws the next token at every place, keeps those that count -> all of them, [S, T].

        The first place counts; each further one where the places before drew the drafts that it stands on.
        """
        size = logits_STV.shape[:2]
        counters_ST = counts_S[:, None] + torch.arange(size[1], device=self.device)
        seeds = self.seeds_S[:, None].expand(size).flatten()
        sampled = sample(logits_STV.flatten(0, 1), self.params, seeds, counters_ST.flatten())
        drawn = list(zip(*(column.tolist() for column in sampled), strict=True))
        for row, drafts in enumerate(drafts_SK.tolist()):
            i = self.active[row]
            first, *others = drawn[row * size[1] : (row + 1) * size[1]]
            self._take(i, first)
            for draft, behind in zip(drafts, others, strict=True):
                if self.reasons[i] is not None:
                    break
                self.speculation.num_judged += 1
                if draft != self.sampled[i][-1][0]:
                    break
                self.speculation.num_accepted += 1
                self._take(i, behind)
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
