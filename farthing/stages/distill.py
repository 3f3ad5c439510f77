"""A teacher's answers, or a teacher, and a student -> a student that answers as the teacher does.

sft        cross-entropy on the teacher's answers      DeepSeek-R1, arXiv:2501.12948, supplement B.4.3: 2 to 3 epochs, batch 64
logits     divergence from the teacher's next-token distribution at every token of them     arXiv:1503.02531
on_policy  the same on what the student samples        GKD, arXiv:2306.13649; MiniLLM, arXiv:2306.08543

On its own samples the student gets the exact gradient of each token's divergence over the whole vocabulary; how its choices
change the states it gets into is left out, as in GKD. Whether an answer is right is logged, and not trained on.

Shapes: R tokens that carry loss, S flat tokens of a microbatch, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from farthing.config import DistillConfig
from farthing.config.distill import Method
from farthing.data.batches import Microbatch, Row, microbatches, padding_share
from farthing.data.sample_rows import SampleRows
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.errors import RecipeError, TrainingDiverged
from farthing.loss import cross_entropy, distill_loss
from farthing.models.decoder import Decoder
from farthing.models.divergence import Comparison, token_divergences
from farthing.models.head import source_logprobs
from farthing.optim import Optimizer
from farthing.precision import set_precision
from farthing.rollout import Rollout
from farthing.stages.sampling import sample
from farthing.stages.stage import (
    Stage,
    Stateful,
    batch_sizes,
    held_out,
    is_due,
    open_input,
    open_samples,
    training_flops,
)
from farthing.tasks.stream import ProblemStream


def train(stage: Stage[DistillConfig]) -> None:
    """samples, or the student's own rollouts -> the teacher's opinion -> student update; evaluations, checkpoints when due."""
    run, model = stage.run, stage.model
    with run.phase("setup"):
        teacher = open_teacher(stage)
        stream = open_tasks(stage)
        problems = held_out(stream, stage.config.eval) if stream is not None else []
        samples = None if stage.config.method == "on_policy" else open_data(stage, teacher)
        config = stage.config
        model.recompute_activations = config.recompute_activations
        optimizer = stage.optimizer()
        engine = Engine(model, stage.renderer.tokenizer, config.num_slots)
        params = SamplingParams(config.temperature, max_tokens=config.max_completion_tokens, stop=tuple(config.stop))
        parts: dict[str, Stateful] = {"optimizer": optimizer}
        parts |= ({"stream": stream} if stream else {}) | ({"samples": samples} if samples else {})
        first = stage.resume(parts)
        engine.policy_version = first

    evals = {}
    if config.eval is not None and problems:
        evals["before"] = stage.evaluate_once("before", engine, problems, config.eval)

    for step in run.steps(config.num_steps, first):
        score = None
        rollouts: list[Rollout] = []
        if stream is not None and samples is None:
            groups = sample(stage, engine, stage.renderer, stream, params, step)
            stage.keep_some(step, groups)
            rollouts = [r for group in groups for r in group]
        with run.phase("update") as spent:
            engine.rest()
            rows = [r.row for r in rollouts] if samples is None else samples.take(config.batch_samples)
            learning_rate = stage.learning_rate(step)
            tally = update(model, teacher, optimizer, rows, config, learning_rate, rollouts)
            run.count(tokens_trained=tally.num_tokens, model_flops=tally.flops)
            run.waste("update", of=10**6, padding=round(tally.padding * 10**6))
        with run.phase("weight_sync"):
            # the engine reads the student's own weights: there is nothing to copy
            engine.policy_version = step + 1
        run.log(**tally.metrics(config.method), learning_rate=learning_rate)
        run.log(train_tokens_per_s=tally.num_tokens / spent.seconds, mfu=tally.flops / spent.seconds / stage.peak_flops)
        if samples is not None:
            run.log(samples=samples.cursor, epochs=samples.epochs)
        if config.eval is not None and problems and is_due(step, config.eval.every):
            score = stage.quick_eval(engine, problems, config.eval)
        stage.checkpoint(step, parts, score)

    if config.eval is not None and problems:
        evals["after"] = stage.evaluate_once("after", engine, problems, config.eval)
    stage.finish(evals, counted(samples, stream))


# what is learned from ------------------------------------------------------------------------------------------------------


def open_teacher(stage: Stage[DistillConfig]) -> Decoder | None:
    """The frozen teacher, for the methods that ask it. RecipeError where it and the student do not speak the same tokens."""
    config = stage.config
    if config.method == "sft":
        return None
    teacher, tokenizer = open_input(stage.run, config.teacher, stage.precision)
    if difference := stage.renderer.tokenizer.difference(tokenizer):
        raise RecipeError(
            f'method = "{config.method}" compares student and teacher token by token, and their tokenizers differ: '
            f"{difference}. "
            'Give a student from scratch the teacher\'s (tokenizer.kind = "teacher"), or use method = "sft"'
        )
    set_precision(teacher, stage.precision)
    return teacher.requires_grad_(False)


def open_data(stage: Stage[DistillConfig], teacher: Decoder | None) -> SampleRows:
    """The rows of `data`, without those of `problems`. With `epochs`, the stage's number of steps becomes what they take."""
    config = stage.config
    max_positions = min(m.shape.max_positions for m in (stage.model, teacher) if m is not None)
    samples = open_samples(stage, config.data, max_positions, config.too_long)
    if config.epochs:
        num_steps = min(config.num_steps, samples.num_steps(config.epochs, config.batch_samples))
        stage.run.message(f"{len(samples):,} samples, {num_steps:,} steps of {config.batch_samples}")
        stage.config = config.model_copy(update={"num_steps": num_steps})
    return samples


def open_tasks(stage: Stage[DistillConfig]) -> ProblemStream | None:
    if not stage.config.tasks:
        return None
    stream = ProblemStream(stage.config.tasks, stage.seed, stage.config.test_share)
    for note in stream.notes():
        stage.run.message(note)
    return stream


def counted(samples: SampleRows | None, stream: ProblemStream | None) -> dict[str, float]:
    """What the stage used, for its result."""
    return {"prompts": float(stream.cursor if stream is not None else 0)} if samples is None else samples.counts()


# the update ----------------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Sums over the microbatches of a step; each in nats, over its tokens."""

    num_loss_tokens: int
    loss: float = 0.0
    """The mean already: loss.py divides it."""
    divergence: float = 0.0
    cross_entropy: float = 0.0
    entropy: float = 0.0
    gap: float = 0.0
    gap_max: float = 0.0
    num_tokens: int = 0
    flops: int = 0
    grad_norm: float = 0.0
    padding: float = 0.0

    def add_gap(self, gap_R: Tensor) -> None:
        self.gap += float(gap_R.sum())
        self.gap_max = max(self.gap_max, float(gap_R.max()))

    def metrics(self, method: Method) -> dict[str, float]:
        count = max(self.num_loss_tokens, 1)
        found = {"loss": self.loss, "entropy": self.entropy / count, "grad_norm": self.grad_norm, "padding": self.padding}
        if method != "sft":
            found["distill_kl"] = self.divergence / count
        if method == "logits":
            found["distill_ce"] = self.cross_entropy / count
        if self.gap_max:
            found |= {"logprob_gap": self.gap / count, "logprob_gap_max": self.gap_max}
        return found


def update(
    model: Decoder,
    teacher: Decoder | None,
    optimizer: Optimizer,
    rows: Sequence[Row],
    config: DistillConfig,
    learning_rate: float,
    rollouts: Sequence[Rollout] = (),
) -> Tally:
    """One optimizer step on `rows`; where they are the student's own `rollouts`, engine and trainer are compared too."""
    require_fit(rows, teacher)
    batches = microbatches(rows, config.max_microbatch_tokens)
    tally = Tally(sum(len(b.targets_R) for b in batches), num_tokens=sum(len(r.tokens) for r in rows))
    tally.flops, tally.padding = training_flops(model, batches), padding_share(batches)
    if teacher is not None:
        tally.flops += teacher.shape.forward_flops(*batch_sizes(batches))
    for batch in batches:
        logprobs_R = backward(model, teacher, batch, config, tally)
        if rollouts and config.temperature == 1:  # the engine's logprobs are at that temperature, the trainer's at 1
            sampled = [v for i in batch.rows for v in rollouts[i].completion.logprobs]
            sampled_R = torch.tensor(sampled, device=logprobs_R.device)
            tally.add_gap((logprobs_R - sampled_R).abs())
    if tally.loss != tally.loss:
        optimizer.zero_grad()
        raise TrainingDiverged("the distillation loss is NaN")
    tally.grad_norm = optimizer.step(learning_rate)
    return tally


def backward(model: Decoder, teacher: Decoder | None, batch: Microbatch, config: DistillConfig, tally: Tally) -> Tensor:
    """Adds a microbatch's gradient, with the whole step's denominator -> the student's logprobs of its tokens, [R]."""
    batch = batch.to(model.embed.weight.device)
    hidden_SD = model(batch.tokens_1S, batch.positions_1S, batch.attend).squeeze(0)
    if teacher is None:
        logprobs_R, entropy_R = source_logprobs(model, hidden_SD, batch.sources_R, batch.targets_R)
        loss = cross_entropy(logprobs_R, tally.num_loss_tokens)
    else:
        with torch.no_grad():
            teacher_SD = teacher(batch.tokens_1S, batch.positions_1S, batch.attend).squeeze(0)
        how = Comparison(config.divergence, config.beta, config.top_k, config.distill_temperature)
        divergence_R, logprobs_R, entropy_R = token_divergences(
            model, hidden_SD, teacher, teacher_SD, batch.sources_R, batch.targets_R, how
        )
        loss = distill_loss(divergence_R, logprobs_R, tally.num_loss_tokens, how.temperature, config.ce_weight)
        tally.divergence += float(divergence_R.detach().sum())
    torch.autograd.backward(loss)
    tally.loss += float(loss.detach())
    tally.cross_entropy -= float(logprobs_R.detach().sum())
    tally.entropy += float(entropy_R.sum())
    return logprobs_R.detach()


def require_fit(rows: Sequence[Row], teacher: Decoder | None) -> None:
    """The engine looks at the student's positions only."""
    longest = max(len(r.tokens) for r in rows)
    if teacher is not None and longest > teacher.shape.max_positions:
        raise RecipeError(
            f"a prompt with its completion has {longest} tokens and the teacher {teacher.shape.max_positions} positions; lower "
            "max_completion_tokens, or take another teacher"
        )
