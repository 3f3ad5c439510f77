"""A policy and verifiable problems -> a better policy: R1-Zero's reinforcement learning.

GRPO, arXiv:2402.03300 and DeepSeek-R1, arXiv:2501.12948, section 2.2. We differ from the paper where the recipe says so:
token-level normalisation and no KL term by default, every minibatch of a rollout batch used once.

Shapes: P prompts, G rollouts of each, B rollouts of a microbatch, T tokens.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from farthing.advantage import group_advantages, is_flat
from farthing.config import GrpoConfig
from farthing.data.batches import Microbatch, lay_out, microbatches, padding_share
from farthing.engine.engine import Engine
from farthing.errors import TrainingDiverged
from farthing.loss import PolicyLossParams, StepCounts, policy_loss
from farthing.models.decoder import Decoder
from farthing.models.head import completion_logprobs
from farthing.optim import Optimizer
from farthing.rollout import (
    Group,
    Rollout,
    reward_values,
    rollout_metrics,
    sampled_tokens,
    score_groups,
    wasted_tokens,
)
from farthing.stages.sampling import sampling_params
from farthing.stages.stage import Stage, Stateful, held_out, is_due, training_flops
from farthing.tasks.problem import Problem
from farthing.tasks.stream import ProblemStream

RlConfig = TypeVar("RlConfig", bound=GrpoConfig)


def train(stage: Stage[GrpoConfig]) -> None:
    """prompts -> rollouts -> rewards -> advantages -> policy update, with evaluations and checkpoints when due."""
    run, config, model = stage.run, stage.config, stage.model
    with run.phase("setup"):
        model.recompute_activations = config.recompute_activations
        optimizer = stage.optimizer()
        reference = copy.deepcopy(model).requires_grad_(False) if config.kl_coef > 0 else None
        engine = Engine(model, stage.renderer.tokenizer, config.num_slots)
        stream = ProblemStream(config.tasks, stage.seed, config.test_share)
        problems = held_out(stream, config.eval)
        for note in stream.notes():
            run.message(note)
        parts: dict[str, Stateful] = {"optimizer": optimizer, "stream": stream}
        if reference is not None:
            parts["reference"] = reference
        first = stage.resume(parts)
        engine.policy_version = first

    evals = {}
    if config.eval is not None:
        evals["before"] = stage.evaluate_once("before", engine, problems, config.eval)

    score = partial(score_groups, config=config.reward)
    for step in run.steps(config.num_steps, first):
        quick = None
        learn(stage, engine, reference, optimizer, stream, score, step)
        if config.eval is not None and is_due(step, config.eval.every):
            quick = stage.quick_eval(engine, problems, config.eval)
        stage.checkpoint(step, parts, quick)

    if config.eval is not None:
        evals["after"] = stage.evaluate_once("after", engine, problems, config.eval)
    stage.finish(evals, {"prompts": stream.cursor})


class Prompts(Protocol):
    """Where a step's problems come from, and who is told how they went."""

    def take(self, count: int) -> list[Problem]: ...

    def replace(self, problems: Sequence[Problem]) -> list[Problem]:
        """New ones of the same kind, one for each."""

    def record(self, problem: Problem, accuracy: float) -> None: ...

    @property
    def level(self) -> int | None: ...


Score = Callable[[list[Group]], list[Group]]
"""Groups -> the same groups with every rollout's reward."""


def learn(
    stage: Stage[RlConfig],
    engine: Engine,
    reference: Decoder | None,
    optimizer: Optimizer,
    prompts: Prompts,
    score: Score,
    step: int,
) -> list[Group]:
    """One step: rollouts, rewards, advantages, the update, and what all of it logs -> the groups that were sampled."""
    run, config, model = stage.run, stage.config, stage.model
    groups_P, rewards_PG, sampled = collect(stage, engine, prompts, score, step)
    with run.phase("update") as spent:
        engine.rest()
        advantages_PG = group_advantages(rewards_PG, config.advantage)
        rollouts = [r for group in groups_P for r in group]
        tally = update(model, reference, optimizer, rollouts, advantages_PG.flatten(), config, stage.learning_rate(step))
        run.count(tokens_trained=tally.num_tokens, model_flops=tally.flops)
    with run.phase("weight_sync"):
        # the engine reads the trainer's own weights: there is nothing to copy
        engine.policy_version = step + 1
    log_step(stage, step, groups_P, rewards_PG, sampled, tally, spent.seconds)
    if prompts.level is not None:
        run.log(level=prompts.level)
    if reference is not None and is_due(step, config.reference_every):
        reference.load_state_dict(model.state_dict())
    return sampled


def collect(
    stage: Stage[RlConfig], engine: Engine, prompts: Prompts, score: Score, step: int
) -> tuple[list[Group], Tensor, list[Group]]:
    """P scored groups to learn from, their rewards [P, G], and all groups that were sampled for them.

    Dynamic sampling replaces flat groups by new prompts of the same kind (DAPO, section 3.2). What was replaced still counts
    where accuracy is measured: a policy that gets nearly everything right would look worse by what is left.
    """
    run, config = stage.run, stage.config
    groups_P, seconds = sample_and_score(stage, engine, prompts.take(config.num_prompts), prompts, score, (step, 0))
    rewards_PG = reward_values(groups_P, config.max_completion_tokens, config.overlong_buffer)
    sampled = list(groups_P)
    for attempt in range(1, config.dynamic_sampling + 1):
        flat = is_flat(rewards_PG).nonzero().flatten().tolist()
        if not flat:
            break
        problems = prompts.replace([groups_P[index][0].problem for index in flat])
        fresh, more = sample_and_score(stage, engine, problems, prompts, score, (step, attempt))
        sampled, seconds = sampled + fresh, seconds + more
        for index, group in zip(flat, fresh, strict=True):
            groups_P[index] = group
        rewards_PG = reward_values(groups_P, config.max_completion_tokens, config.overlong_buffer)
    run.log(resampled_groups=len(sampled) - len(groups_P), rollout_tokens_per_s=sampled_tokens(sampled) / seconds)
    return groups_P, rewards_PG, sampled


def sample_and_score(
    stage: Stage[RlConfig],
    engine: Engine,
    problems: Sequence[Problem],
    prompts: Prompts,
    score: Score,
    place: tuple[int, int],
) -> tuple[list[Group], float]:
    """Scored groups, one for each problem, and the seconds that sampling took; on the clock as rollout and reward."""
    run, config = stage.run, stage.config
    with run.phase("rollout") as spent:
        groups = stage.sample(engine, problems, sampling_params(config), config.group_size, *place)
    with run.phase("reward"):
        scored = score(groups)
        for r in (r for group in scored for r in group):
            if r.reward is not None:
                prompts.record(r.problem, r.reward.accuracy)
        flat_P = is_flat(reward_values(scored, config.max_completion_tokens, config.overlong_buffer)).tolist()
    run.waste("rollout", of=sampled_tokens(groups), **wasted_tokens(scored, flat_P))
    return scored, spent.seconds


def log_step(
    stage: Stage[RlConfig],
    step: int,
    groups_P: list[Group],
    rewards_PG: Tensor,
    sampled: list[Group],
    tally: "Tally",
    update_s: float,
) -> None:
    """What every step of reinforcement learning logs, and now and then some of its rollouts to read."""
    run, config, metrics = stage.run, stage.config, tally.metrics()
    run.waste("update", of=10**6, padding=round(metrics["padding"] * 10**6))
    with run.phase("reward"):
        measured = rollout_metrics(sampled, config.reflection_words)
    stage.keep_some(step, groups_P)
    run.log(reward=float(rewards_PG.mean()), flat_groups=float(is_flat(rewards_PG).float().mean()))
    run.log(**measured, **metrics, learning_rate=stage.learning_rate(step))
    run.log(staleness=step - max(r.completion.policy_version for group in groups_P for r in group))
    run.log(train_tokens_per_s=tally.num_tokens / update_s, mfu=tally.flops / update_s / stage.peak_flops)


@dataclass
class Tally:
    """Sums over the microbatches of a step."""

    loss: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    entropy: float = 0.0
    gap: float = 0.0
    gap_max: float = 0.0
    num_gap_tokens: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    flops: int = 0
    grad_norms: list[float] = field(default_factory=list)
    padding: list[float] = field(default_factory=list)

    def add_gap(self, gap_BT: Tensor, mask_BT: Tensor) -> None:
        self.gap += float(gap_BT.sum())
        self.gap_max = max(self.gap_max, float(gap_BT.max()))
        self.num_gap_tokens += int(mask_BT.sum())

    def metrics(self) -> dict[str, float]:
        steps = max(len(self.grad_norms), 1)
        return {
            "loss": self.loss / steps,
            "kl": self.kl / steps,
            "clipped": self.clipped / steps,
            "entropy": self.entropy / max(self.num_loss_tokens, 1),
            "logprob_gap": self.gap / max(self.num_gap_tokens, 1),
            "logprob_gap_max": self.gap_max,
            "grad_norm": sum(self.grad_norms) / steps,
            "padding": sum(self.padding) / max(len(self.padding), 1),
        }


def update(
    model: Decoder,
    reference: Decoder | None,
    optimizer: Optimizer,
    rollouts: Sequence[Rollout],
    advantages: Tensor,
    config: GrpoConfig,
    learning_rate: float,
) -> Tally:
    """`num_minibatches` optimizer steps, each on its share of the rollouts; groups stay together where they can."""
    tally = Tally()
    size = len(rollouts) // config.num_minibatches
    parts = [Minibatch(rollouts[i : i + size], advantages[i : i + size], config) for i in range(0, len(rollouts), size)]
    if config.num_minibatches > 1 and config.old_logprobs == "recompute":
        for part in parts:
            part.remember_old_logprobs(model)
    for part in parts:
        for number in range(len(part.batches)):
            part.backward(model, reference, number, tally)
        if tally.loss != tally.loss:
            optimizer.zero_grad()
            raise TrainingDiverged("the policy loss is NaN")
        tally.grad_norms.append(optimizer.step(learning_rate))
        tally.padding.append(padding_share(part.batches))
        tally.num_tokens += sum(len(r.tokens) for r in part.rows)
        tally.num_loss_tokens += sum(r.num_loss_tokens for r in part.rows)
        tally.flops += training_flops(model, part.batches)
    return tally


class Minibatch:
    """The rollouts of one optimizer step, laid out as microbatches, with the counts its loss divides by."""

    def __init__(self, rollouts: Sequence[Rollout], advantages: Tensor, config: GrpoConfig) -> None:
        self.config = config
        self.counts = StepCounts(sum(r.num_tokens for r in rollouts), len(rollouts), config.max_completion_tokens)
        # without a KL term a rollout of advantage 0 has no gradient: it counts above, and is not computed
        kept = [i for i in range(len(rollouts)) if config.kl_coef > 0 or advantages[i] != 0]
        self.rollouts, self.advantages = [rollouts[i] for i in kept], advantages[kept]
        self.rows = [r.row for r in self.rollouts]
        self.batches = microbatches(self.rows, config.max_microbatch_tokens)
        self.old_logprobs: list[Tensor] = []
        self.loss_params = PolicyLossParams(
            config.loss, config.normalizer, config.clip_eps_low, config.clip_eps_high, config.kl_coef, config.tis_cap
        )

    @torch.no_grad()
    def remember_old_logprobs(self, model: Decoder) -> None:
        """The policy's logprobs before the first optimizer step of this rollout batch."""
        temperature = self.config.temperature
        self.old_logprobs = [completion_logprobs(model, b, temperature)[0] for b in self.batches]

    def backward(self, model: Decoder, reference: Decoder | None, number: int, tally: Tally) -> None:
        """Adds microbatch `number`'s gradient, with the whole step's denominators."""
        config, batch = self.config, self.batches[number].to(model.embed.weight.device)
        mask_BT = batch.loss_mask_BT
        logprobs_BT, entropy_BT = completion_logprobs(model, batch, config.temperature)
        sampled_BT, rollout_logprobs_BT = self._rollout_logprobs(batch)
        ref_logprobs_BT = None
        if reference is not None:
            with torch.no_grad():
                ref_logprobs_BT, _ = completion_logprobs(reference, batch, config.temperature)
        result = policy_loss(
            logprobs_BT,
            self._old_logprobs(number, logprobs_BT, rollout_logprobs_BT),
            self.advantages[batch.rows].to(mask_BT.device),
            mask_BT,
            self.counts,
            self.loss_params,
            ref_logprobs_BT,
            sampled_BT,
        )
        torch.autograd.backward(result.loss)
        tally.loss += float(result.loss.detach())
        tally.kl += float(result.kl)
        tally.clipped += float(result.clipped)
        tally.entropy += float(entropy_BT.sum())
        if not tally.grad_norms:
            # before the first optimizer step engine and trainer hold the same weights
            tally.add_gap((logprobs_BT.detach() - rollout_logprobs_BT).abs(), mask_BT)

    def _rollout_logprobs(self, batch: Microbatch) -> tuple[Tensor, Tensor]:
        """[B, T] logprobs of the sampled tokens under the distribution they were drawn from, and under the whole softmax."""
        sampled_BT = lay_out([r.completion.logprobs for r in self.rollouts], batch)
        log_kept = [[math.log(mass) for mass in r.completion.kept_mass] for r in self.rollouts]
        return sampled_BT, sampled_BT + lay_out(log_kept, batch)

    def _old_logprobs(self, number: int, logprobs_BT: Tensor, rollout_logprobs_BT: Tensor) -> Tensor:
        """The policy before this rollout batch's first optimizer step; with a single one that is the policy now."""
        if self.config.num_minibatches == 1:
            return logprobs_BT.detach()
        return rollout_logprobs_BT if self.config.old_logprobs == "rollout" else self.old_logprobs[number]
