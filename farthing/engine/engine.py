"""Prompts -> completions, in process and on the trainer's own weights: schedule, run, postprocess.

The engine holds a reference to the policy module, so a weight_sync is only a new `policy_version`: there is no copy.

Shapes: S active slots, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from farthing.data.batches import ROUND_ROWS, ROUND_TOKENS, round_up
from farthing.engine.cache import KVCache, Prefill, PromptCache
from farthing.engine.decode import Capture, DecodeStep, Rounding, cuda_graphs
from farthing.engine.sampler import Sampled, SamplingParams, sample
from farthing.engine.scheduler import Request, Scheduler
from farthing.errors import RecipeError
from farthing.models.decoder import Decoder
from farthing.tokenizer import Tokenizer


class StopReason(StrEnum):
    """Why a completion ended."""

    END_OF_TEXT = "end_of_text"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    """It was cut at max_tokens: the model had not finished."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy sampled for one prompt."""

    tokens: list[int]
    """Sampled ids, the end-of-text token included where it was sampled."""
    logprobs: list[float]
    """`rollout_logprobs`: under the true sampling distribution, at the temperature used."""
    kept_mass: list[float]
    """Probability that top-k and top-p left at each token; all 1 when they are off."""
    stop_reason: StopReason
    policy_version: int
    seed: int


class Engine:
    """Generates for one model. `num_slots` sequences are in flight at most; the cache grows to the longest request."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, num_slots: int = 64, capture: Capture | None = None) -> None:
        """`capture` is how decode steps are recorded and replayed; by default CUDA graphs where the model is on CUDA."""
        self.model, self.tokenizer, self.num_slots = model, tokenizer, num_slots
        self.policy_version = 0
        self._capture = capture or cuda_graphs(model)
        self.rounding = Rounding(is_coarse=self._capture is not None)
        self._decode: DecodeStep | None = None

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[list[Completion]]:
        """One list of completions per prompt, one completion per seed of it; the prompt is prefilled once."""
        self._check_lengths(prompts, params)
        if not any(seeds):
            return [[] for _ in prompts]
        self.model.pack_weights()
        # rounded up, so that how many positions a decode step reads, and how its sums round, depends on this call alone
        # and not on what the cache once held: a resumed attempt starts with an empty one
        longest = self.rounding.positions(max(len(p) for p in prompts) + params.max_tokens)
        num_slots = min(self.num_slots, sum(len(s) for s in seeds))
        batch = _Batch(self, self._step_for(num_slots, longest), num_slots, params)
        requests = [Request(i, prompt, list(s)) for i, (prompt, s) in enumerate(zip(prompts, seeds, strict=True))]
        return batch.run(requests)

    def rest(self) -> None:
        """Gives back the memory that only generation needs, for an update to use; the next `generate` takes it anew."""
        if self._decode is not None and not self._decode.is_worth_keeping:
            self._decode = None
        self.model.drop_packed()

    def _step_for(self, num_slots: int, num_positions: int) -> DecodeStep:
        """The decode step, with a cache that holds so much."""
        if self._decode is None or not self._decode.fits(self.model, num_slots, num_positions):
            self._decode = None  # its cache goes before the new one comes
            cache = KVCache(self.model.shape, num_slots, num_positions, self.model.embed.weight)
            self._decode = DecodeStep(self.model, cache, self._capture)
        return self._decode

    def _check_lengths(self, prompts: Sequence[list[int]], params: SamplingParams) -> None:
        for prompt in prompts:
            if not prompt:
                raise RecipeError("a prompt has no tokens; check the question and the renderer's template")
            if len(prompt) + params.max_tokens > self.model.shape.max_positions:
                raise RecipeError(
                    f"a prompt of {len(prompt)} tokens plus max_tokens={params.max_tokens} exceeds the model's "
                    f"{self.model.shape.max_positions} positions; lower max_completion_tokens or shorten the prompts"
                )


class _Batch:
    """One `generate` call: what is in flight, slot by slot."""

    def __init__(self, engine: Engine, step: DecodeStep, num_slots: int, params: SamplingParams) -> None:
        self.model, self.tokenizer, self.params = engine.model, engine.tokenizer, params
        self.step, self.cache, self.rounding = step, step.cache, engine.rounding
        self.policy_version = engine.policy_version
        self.scheduler = Scheduler(num_slots)
        self.device = engine.model.embed.weight.device
        self.requests: list[Request] = []
        self.prefilled: dict[int, tuple[PromptCache, int, Tensor]] = {}
        self.done: list[dict[int, Completion]] = []
        S, T = num_slots, params.max_tokens
        self.tokens_ST = torch.zeros(S, T, dtype=torch.int64, device=self.device)
        self.logprobs_ST = torch.zeros(S, T, device=self.device)
        self.kept_mass_ST = torch.ones(S, T, device=self.device)
        self.num_sampled_S = torch.zeros(S, dtype=torch.int64, device=self.device)
        self.prompt_length_S = torch.zeros(S, dtype=torch.int64, device=self.device)
        self.slot_index = torch.arange(S, device=self.device)
        self.seeds_S = torch.zeros(S, dtype=torch.int64, device=self.device)

    def run(self, requests: list[Request]) -> list[list[Completion]]:
        self.requests = requests
        self.cache.clear()
        self.done = [{} for _ in requests]
        self.scheduler.submit([r for r in requests if r.seeds])
        while self.scheduler.has_work:
            self._admit()
            if self.scheduler.active:
                self._decode()
        return [[done[i] for i in range(len(r.seeds))] for r, done in zip(requests, self.done, strict=True)]

    def _admit(self) -> None:
        """Prefills newly arrived prompts together, copies each into its slots and samples the first tokens."""
        admitted = self.scheduler.admit()
        if not admitted:
            return
        self._prefill([request for request, _ in admitted if request.index not in self.prefilled])
        slots_all, logits = [], []
        for request, slots in admitted:
            prompts, row, logits_V = self.prefilled[request.index]
            self.cache.place_prompt(slots, prompts, row, request.index)
            first = request.num_placed - len(slots)
            self.seeds_S[slots] = torch.tensor(request.seeds[first : request.num_placed], device=self.device)
            self.prompt_length_S[slots] = len(request.prompt)
            self.num_sampled_S[slots] = 0
            slots_all += slots
            logits.append(logits_V.expand(len(slots), -1))
            if not request.num_waiting:
                del self.prefilled[request.index]
        index = torch.tensor(slots_all, device=self.device)
        counters = torch.zeros_like(index)
        self._record(index, sample(torch.cat(logits), self.params, self.seeds_S[index], counters))
        self._finish()

    def _prefill(self, requests: list[Request]) -> None:
        if not requests:
            return
        lengths = [len(r.prompt) for r in requests]
        width = min(round_up(max(lengths), ROUND_TOKENS), self.model.shape.max_positions)
        # rows of padding are work too: of few prompts none, of many a few, so that the matmuls see few different shapes
        shape = len(requests) if len(requests) < ROUND_ROWS else round_up(len(requests), ROUND_ROWS), width
        tokens = torch.zeros(shape, dtype=torch.int64, device=self.device)
        for row, request in enumerate(requests):
            tokens[row, : lengths[row]] = torch.tensor(request.prompt, device=self.device)
        prefill = Prefill()
        hidden = self.model(tokens, attend=prefill)
        ends = torch.tensor(lengths, device=self.device) - 1
        last = hidden[torch.arange(len(requests), device=self.device), ends]
        logits = self.model.logits(last)
        prompts = prefill.finish(lengths)
        for row, request in enumerate(requests):
            self.prefilled[request.index] = (prompts, row, logits[row])

    def _decode(self) -> None:
        """One forward pass: the last sampled token of every active slot -> its next token."""
        num_active = len(self.scheduler.active)
        slots = self.slot_index[:num_active]
        num_sampled = self.num_sampled_S[:num_active]
        # a few idle slots may ride along, so that the matmuls see few different shapes (see data/batches.py)
        riding = self.rounding.slots(num_active, self.scheduler.num_slots)
        positions = (self.prompt_length_S[:riding] + self.num_sampled_S[:riding] - 1).clamp_(min=0)
        positions[num_active:] = 0
        last_tokens = self.tokens_ST[:riding].gather(1, (self.num_sampled_S[:riding] - 1).clamp_(min=0)[:, None])
        longest = self.rounding.positions(int(positions.max()) + 1)
        logits = self.step(last_tokens.squeeze(1), positions, longest)[:num_active]
        self._record(slots, sample(logits, self.params, self.seeds_S[:num_active], num_sampled))
        self._finish()

    def _record(self, slots: Tensor, sampled: Sampled) -> None:
        at = self.num_sampled_S[slots]
        self.tokens_ST[slots, at] = sampled.tokens_B
        self.logprobs_ST[slots, at] = sampled.logprobs_B
        self.kept_mass_ST[slots, at] = sampled.kept_mass_B
        self.num_sampled_S[slots] = at + 1

    def _finish(self) -> None:
        """Takes out what ended, and closes the gaps it left."""
        finished = self._finished()
        if not finished:
            return
        for slot, reason in finished.items():
            request, completion = self.scheduler.active[slot]
            count = int(self.num_sampled_S[slot])
            self.done[request][completion] = Completion(
                tokens=self.tokens_ST[slot, :count].tolist(),
                logprobs=self.logprobs_ST[slot, :count].tolist(),
                kept_mass=self.kept_mass_ST[slot, :count].tolist(),
                stop_reason=reason,
                policy_version=self.policy_version,
                seed=self.requests[request].seeds[completion],
            )
        moves = self.scheduler.release(list(finished))
        if moves:
            sources, targets = [m[0] for m in moves], [m[1] for m in moves]
            longest = int((self.prompt_length_S[sources] + self.num_sampled_S[sources]).max())
            self.cache.move(sources, targets, longest)
            rows = (self.tokens_ST, self.logprobs_ST, self.kept_mass_ST)
            for state in (*rows, self.num_sampled_S, self.prompt_length_S, self.seeds_S):
                state[targets] = state[sources]

    def _finished(self) -> dict[int, StopReason]:
        """Slots whose last token ended them. One comparison a step; stop strings need the text and are checked last."""
        num_active = len(self.scheduler.active)
        num_sampled = self.num_sampled_S[:num_active]
        last = self.tokens_ST[:num_active].gather(1, (num_sampled - 1).clamp(min=0)[:, None]).squeeze(1)
        at_end = (last == self.tokenizer.eos_id) & (not self.params.ignore_eos)
        at_limit = num_sampled >= self.params.max_tokens
        finished: dict[int, StopReason] = {}
        if bool((at_end | at_limit).any()):
            finished = {int(s): StopReason.LENGTH for s in at_limit.nonzero()}
            finished |= {int(s): StopReason.END_OF_TEXT for s in at_end.nonzero()}
        if self.params.stop:
            finished |= {s: StopReason.STOP_STRING for s in range(num_active) if self._ends_with_stop(s, finished)}
        return finished

    def _ends_with_stop(self, slot: int, finished: dict[int, StopReason]) -> bool:
        if finished.get(slot) is StopReason.END_OF_TEXT:
            return False
        longest = max(len(s) for s in self.params.stop)
        count = int(self.num_sampled_S[slot])
        # a token is at least one byte, so the last `longest` * 4 tokens hold any stop string that just ended
        tail = self.tokens_ST[slot, max(0, count - 4 * longest) : count].tolist()
        last_piece = len(self.tokenizer.decode(tail[-1:]))
        text = self.tokenizer.decode(tail)
        return any(text.find(s, max(0, len(text) - len(s) - last_piece)) >= 0 for s in self.params.stop)
