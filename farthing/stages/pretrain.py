"""Random weights and a procedural mixture -> a base model. Next-token cross-entropy on the completions of documents.

`sft` is the same loop from given weights; only where the recipe's stage starts differs.
"""

import math
from pathlib import Path

import torch

from farthing.config import CorpusStageConfig, PretrainConfig
from farthing.data.batches import Microbatch, Row, microbatches, padding_share
from farthing.data.corpus import Corpus
from farthing.data.documents import DocumentStream, tokenise
from farthing.engine.engine import Engine
from farthing.errors import DataError, TrainingDiverged
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

    for step in run.steps(config.num_steps, first):
        score = None
        with run.phase("update") as spent:
            rows = corpus.take(config.batch_documents)
            require_fit(rows, model.shape.max_positions)
            learning_rate = stage.learning_rate(step)
            batches = microbatches(rows, config.max_microbatch_tokens, share_prompts=model.shape.moe is None)
            padding = padding_share(batches)
            weights = Weights.at(step, config.num_steps, model, config.mtp, config.experts)
            tally, grad_norm = update(model, optimizer, batches, learning_rate, weights)
            update_balance(model, tally.loads, balance_speed(config, step))
            num_tokens, flops = sum(len(r.tokens) for r in rows), training_flops(model, batches, weights.mtp > 0)
            run.count(tokens_trained=num_tokens, model_flops=flops)
            run.waste("update", of=10**6, padding=round(padding * 10**6))
        run.log(loss=tally.loss, grad_norm=grad_norm, learning_rate=learning_rate, documents=stream.cursor)
        run.log(padding=padding)
        log_extras(run, step, tally, weights)
        run.log(train_tokens_per_s=num_tokens / spent.seconds, mfu=flops / spent.seconds / stage.peak_flops)
        if config.eval is not None and is_due(step, config.eval.every):
            score = stage.quick_eval(engine, problems, config.eval)
            engine.rest()
        stage.checkpoint(step, parts, score)

    after = {} if config.eval is None else {"after": stage.evaluate_once("after", engine, problems, config.eval)}
    metrics = {"documents": float(stream.cursor)}
    if isinstance(stream, DocumentStream) and isinstance(config, PretrainConfig):
        with run.phase("eval"):
            rows, num_bytes = stream.held_out(config.held_out_documents)
            metrics["held_out_bits_per_byte"] = bits_per_byte(model, rows, num_bytes, config.max_microbatch_tokens)
    stage.finish(after, metrics)


def open_corpus(
    stage: Stage[CorpusStageConfig],
) -> tuple[Corpus | DocumentStream, ProblemStream | DocumentStream, list[Problem]]:
    """Where rows come from, what of it a checkpoint keeps, and the problems to evaluate on."""
    run, config = stage.run, stage.config
    if isinstance(config, PretrainConfig) and config.corpus:
        folder = run.dir / "corpus" / stage.name
        tokenise([Path(p) for p in config.corpus], stage.renderer.tokenizer, folder, run.info["inputs"])
        documents = DocumentStream(folder, stage.model.shape.max_positions, stage.seed, config.test_share)
        return documents, documents, []
    stream = ProblemStream(config.tasks, stage.seed, config.test_share)
    for note in stream.notes():
        run.message(note)
    return Corpus(stream, stage.renderer, config.styles), stream, held_out(stream, config.eval)


@torch.no_grad()
def bits_per_byte(model: Decoder, rows: list[Row], num_bytes: int, max_tokens: int) -> float:
    """Bits the model needs for `rows`, end of text included, for each of their `num_bytes` bytes of text."""
    nats = 0.0
    for batch in microbatches(rows, max_tokens):
        logprobs_BT, _ = completion_logprobs(model, batch)
        nats += float(cross_entropy(logprobs_BT, 1))
    return nats / math.log(2) / num_bytes


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
            loads = {str(layer): [int(n) for n in load_E] for layer, load_E in tally.loads.items()}
            row = {"stage": run.stage, "step": step, "max_violation": violations, "tokens": loads}
            append_line(run.dir / "expert_loads.jsonl", row)
