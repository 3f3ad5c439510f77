"""Random weights and a procedural mixture -> a base model. Next-token cross-entropy on the completions of documents."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from farthing.config import CorpusStageConfig, PretrainConfig
from farthing.data.batches import Microbatch, Row, microbatches, padding_share
from farthing.data.corpus import Corpus
from farthing.data.documents import DocumentStream, tokenise
from farthing.data.fim import fill_in_middle
from farthing.engine.engine import Engine
from farthing.errors import DataError, RecipeError, TrainingDiverged
from farthing.files import append_line
from farthing.loss import cross_entropy
from farthing.models.decoder import Decoder
from farthing.models.head import completion_logprobs
from farthing.models.moe import max_violation, update_balance
from farthing.optim import Optimizer
from farthing.run import Run
from farthing.stages.objective import Objective, Tally, Weights
from farthing.stages.stage import Stage, Stateful, held_out, is_due, training_flops
from farthing.tasks.problem import Problem
from farthing.tasks.stream import ProblemStream

EXPERT_LOADS_EVERY = 10
"""Steps between rows of expert_loads.jsonl."""


def train(stage: Stage[CorpusStageConfig]) -> None:
    """documents -> batches -> cross-entropy -> AdamW, with evaluations and checkpoints when due."""
    run, config, model = stage.run, stage.config, stage.model
    with run.phase("setup"):
        model.recompute_activations = config.recompute_activations
        optimizer = stage.optimizer()
        corpus, stream, problems = open_corpus(stage)
        engine = Engine(model, stage.renderer.tokenizer)
        parts: dict[str, Stateful] = {"optimizer": optimizer, "stream": stream}
        first = stage.resume(parts)

    bits = None
    # documents of a corpus share no prompt worth sharing: as rows of their own they take the faster way through attention
    share_prompts = model.shape.moe is None and not isinstance(stream, DocumentStream)
    for step in run.steps(config.num_steps, first):
        score = bits = None
        learn(stage, optimizer, corpus.take, step, share_prompts)
        run.log(documents=stream.cursor)
        if config.eval is not None and is_due(step, config.eval.every):
            score = stage.quick_eval(engine, problems, config.eval)
            engine.rest()
        if isinstance(stream, DocumentStream) and is_held_out_due(step, config):
            bits = held_out_bits(stage, stream)
            run.log(held_out_bits_per_byte=bits)
        stage.checkpoint(step, parts, score)

    after = {} if config.eval is None else {"after": stage.evaluate_once("after", engine, problems, config.eval)}
    metrics = {"documents": float(stream.cursor)}
    if isinstance(stream, DocumentStream):
        metrics["held_out_bits_per_byte"] = held_out_bits(stage, stream) if bits is None else bits
    stage.finish(after, metrics)


def learn(stage: Stage[Any], optimizer: Optimizer, take: Callable[[int], list[Row]], step: int, share_prompts: bool) -> None:
    """One optimizer step on the next rows: rows -> microbatches -> losses -> AdamW, on the clock and in the step's metrics."""
    run, config, model = stage.run, stage.config, stage.model
    with run.phase("update") as spent:
        rows = take(config.documents(step))
        require_fit(rows, model.shape.max_positions)
        learning_rate = stage.learning_rate(step)
        batches = microbatches(rows, config.max_microbatch_tokens, share_prompts)
        padding = padding_share(batches)
        weights = Weights.at(step, config.num_steps, model, config.mtp, config.experts)
        tally, grad_norm = update(model, optimizer, batches, learning_rate, weights)
        update_balance(model, tally.loads, balance_speed(config, step))
        num_tokens, flops = sum(len(r.tokens) for r in rows), training_flops(model, batches, weights.mtp > 0)
        run.count(tokens_trained=num_tokens, model_flops=flops)
        run.waste("update", of=10**6, padding=round(padding * 10**6))
    run.log(loss=tally.loss, grad_norm=grad_norm, learning_rate=learning_rate, padding=padding)
    log_extras(run, step, tally, weights)
    run.log(train_tokens_per_s=num_tokens / spent.seconds, mfu=flops / spent.seconds / stage.peak_flops)


def open_corpus(
    stage: Stage[CorpusStageConfig],
) -> tuple[Corpus | DocumentStream, ProblemStream | DocumentStream, list[Problem]]:
    """Where rows come from, what of it a checkpoint keeps, and the problems to evaluate on."""
    run, config = stage.run, stage.config
    if isinstance(config, PretrainConfig) and config.corpus:
        documents = open_documents(stage, config)
        return documents, documents, []
    stream = ProblemStream(config.tasks, stage.seed, config.test_share)
    for note in stream.notes():
        run.message(note)
    return Corpus(stream, stage.renderer, config.styles), stream, held_out(stream, config.eval)


def open_documents(stage: Stage[CorpusStageConfig], config: PretrainConfig) -> DocumentStream:
    """The corpus as tokens, in the run directory; made on the first attempt, which with a large corpus takes its time."""
    window = window_tokens(config, stage.model.shape.max_positions)
    folder, tokenizer = stage.run.dir / "corpus" / stage.name, stage.renderer.tokenizer
    fim = fill_in_middle(config.fim_rate, stage.seed, tokenizer)
    paths = [Path(p) for p in config.corpus]
    tokenise(paths, tokenizer, folder, stage.run.info["inputs"], config.test_share, fim)
    return DocumentStream(folder, window, stage.seed, config.test_share)


def window_tokens(config: PretrainConfig, max_positions: int) -> int:
    """Of a corpus: what the recipe says, or all that the model has. RecipeError where that is not as much."""
    window = config.window_tokens or max_positions
    if window > max_positions:
        raise RecipeError(
            f"window_tokens is {window} and the model has {max_positions} positions; "
            "lower it, or raise model.shape.max_positions"
        )
    return window


def is_held_out_due(step: int, config: CorpusStageConfig) -> bool:
    return isinstance(config, PretrainConfig) and is_due(step, config.held_out_every)


def held_out_bits(stage: Stage[CorpusStageConfig], documents: DocumentStream) -> float:
    """Bits the model needs for the held-out documents, their ends included, for each byte of their text."""
    assert isinstance(stage.config, PretrainConfig)
    rows, num_bytes = documents.held_out(stage.config.held_out_documents)
    return held_out_nats(stage, rows, share_prompts=False)[0] / math.log(2) / num_bytes


@torch.no_grad()
def held_out_nats(stage: Stage[Any], rows: list[Row], share_prompts: bool) -> tuple[float, int]:
    """Cross-entropy of the rows' loss tokens, in nats, and how many these are; on the clock as evaluation."""
    model = stage.model
    with stage.run.phase("eval"):
        batches = microbatches(rows, stage.config.max_microbatch_tokens, share_prompts)
        stage.run.count(tokens_in=sum(b.num_tokens for b in batches), model_flops=training_flops(model, batches) // 3)
        nats = sum(float(cross_entropy(completion_logprobs(model, batch)[0], 1)) for batch in batches)
    return nats, sum(len(b.targets_R) for b in batches)


def require_fit(rows: list[Row], max_positions: int) -> None:
    """Nothing is cut in silence: a document that is too long is an error."""
    longest = max(len(r.tokens) for r in rows)
    if longest > max_positions:
        raise DataError(
            f"a document has {longest} tokens and the model {max_positions} positions; shorten the task's problems, or raise "
            "model.shape.max_positions"
        )


def balance_speed(config: CorpusStageConfig, step: int) -> float:
    """Of the experts' biases at this step; they end frozen, as in V3."""
    return config.experts.balance_speed if step < config.experts.freeze_from * config.num_steps else 0.0


def update(
    model: Decoder, optimizer: Optimizer, batches: list[Microbatch], learning_rate: float, weights: Weights
) -> tuple[Tally, float]:
    """One optimizer step over all of `batches` -> (losses in nats per token and loads, gradient norm)."""
    objective = Objective(model, batches, weights)
    for batch in batches:
        objective.backward(batch)
    tally = objective.tally
    if tally.loss != tally.loss or tally.mtp_loss != tally.mtp_loss:
        optimizer.zero_grad()
        raise TrainingDiverged("the loss is NaN")
    return tally, optimizer.step(learning_rate)


def log_extras(run: Run, step: int, tally: Tally, weights: Weights) -> None:
    """What models with experts or multi-token prediction have beside the loss; loads by expert go to expert_loads.jsonl."""
    if weights.mtp:
        run.log(mtp_loss=tally.mtp_loss)
    if weights.balance:
        run.log(balance_loss=tally.balance_loss)
    if tally.loads:
        violations = {layer: max_violation(load_E) for layer, load_E in tally.loads.items()}
        run.log(max_violation=max(violations.values()), max_violation_mean=sum(violations.values()) / len(violations))
        if is_due(step, EXPERT_LOADS_EVERY):
            loads = {str(layer): load_E.long().tolist() for layer, load_E in tally.loads.items()}
            row = {"stage": run.stage, "step": step, "max_violation": violations, "tokens": loads}
            append_line(run.dir / "expert_loads.jsonl", row)
