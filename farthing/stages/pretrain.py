"""Random weights and a procedural mixture -> a base model. Next-token cross-entropy on the completions of documents.

`sft` is the same loop from given weights; only where the recipe's stage starts differs.
"""

from farthing.config import CorpusStageConfig
from farthing.data.batches import Microbatch, Row, microbatches, padding_share
from farthing.data.corpus import Corpus
from farthing.engine.engine import Engine
from farthing.errors import DataError, TrainingDiverged
from farthing.models.decoder import Decoder
from farthing.models.moe import max_violation, update_balance
from farthing.optim import Optimizer
from farthing.run import Run, append_line
from farthing.stages.objective import Objective, Tally, Weights
from farthing.stages.stage import Stage, Stateful, held_out, is_due, training_flops
from farthing.tasks.stream import ProblemStream

EXPERT_LOADS_EVERY = 10
"""Steps between rows of expert_loads.jsonl."""


def train(stage: Stage[CorpusStageConfig]) -> None:
    """documents -> batches -> cross-entropy -> AdamW, with evaluations and checkpoints when due."""
    run, config, model = stage.run, stage.config, stage.model
    with run.phase("setup"):
        model.recompute_activations = config.recompute_activations
        optimizer = stage.optimizer()
        stream = ProblemStream(config.tasks, stage.seed, config.test_share)
        corpus = Corpus(stream, stage.renderer, config.styles)
        engine = Engine(model, stage.renderer.tokenizer)
        problems = held_out(stream, config.eval)
        for note in stream.notes():
            run.message(note)
        parts: dict[str, Stateful] = {"optimizer": optimizer, "stream": stream}
        first = stage.resume(parts)

    for step in run.steps(config.num_steps, first):
        score = None
        with run.phase("update") as spent:
            rows = corpus.take(config.batch_documents)
            require_fit(rows, model.shape.max_positions)
            learning_rate = stage.learning_rate(step)
            batches = microbatches(rows, config.max_microbatch_tokens, share_prompts=model.shape.moe is None)
            weights = Weights.at(step, config.num_steps, model, config.mtp, config.experts)
            tally, grad_norm = update(model, optimizer, batches, learning_rate, weights)
            update_balance(model, tally.loads, balance_speed(config, step))
            num_tokens, flops = sum(len(r.tokens) for r in rows), training_flops(model, batches, weights.mtp > 0)
            run.count(tokens_trained=num_tokens, model_flops=flops)
        run.log(loss=tally.loss, grad_norm=grad_norm, learning_rate=learning_rate, documents=stream.cursor)
        run.log(padding=padding_share(batches))
        log_extras(run, step, tally, weights)
        run.log(train_tokens_per_s=num_tokens / spent.seconds, mfu=flops / spent.seconds / stage.peak_flops)
        if config.eval is not None and is_due(step, config.eval.every):
            score = stage.quick_eval(engine, problems, config.eval)
        stage.checkpoint(step, parts, score)

    after = {} if config.eval is None else {"after": stage.evaluate_once("after", engine, problems, config.eval)}
    stage.finish(after, {"documents": stream.cursor})


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
