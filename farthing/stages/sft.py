"""Samples that other stages and files hold, or documents made from tasks, and a model -> the model fine-tuned on them.

DeepSeek-R1 (arXiv:2501.12948, section 2.3.3): two epochs, from the base model each time. The loss is on completions alone, and
rows are packed without padding, by the update that pretraining has.
"""

from farthing.config import SftConfig
from farthing.data.corpus import Corpus
from farthing.data.sample_rows import SampleRows
from farthing.engine.engine import Engine
from farthing.stages.pretrain import held_out_nats, learn
from farthing.stages.stage import Stage, Stateful, held_out, is_due, open_samples
from farthing.tasks.stream import ProblemStream

HELD_OUT_SAMPLES = 256
"""At most, for the held-out loss."""


def train(stage: Stage[SftConfig]) -> None:
    """samples or documents -> batches -> cross-entropy -> AdamW, with evaluations and checkpoints when due."""
    run, model = stage.run, stage.model
    with run.phase("setup"):
        model.recompute_activations = stage.config.recompute_activations
        optimizer = stage.optimizer()
        stream = open_tasks(stage)
        problems = held_out(stream, stage.config.eval) if stream is not None else []
        samples = open_data(stage)
        config = stage.config
        engine = Engine(model, stage.renderer.tokenizer)
        source = samples if samples is not None else documents(stage, stream)
        parts: dict[str, Stateful] = {"optimizer": optimizer}
        parts |= {"samples": samples} if samples is not None else {"stream": stream} if stream is not None else {}
        first = stage.resume(parts)

    share_prompts = model.shape.moe is None
    for step in run.steps(config.num_steps, first):
        score = None
        learn(stage, optimizer, source.take, step, share_prompts)
        if samples is not None:
            run.log(samples=samples.cursor, epochs=samples.epochs)
            if samples.num_held_out and is_due(step, config.held_out_every):
                run.log(held_out_loss=held_out_loss(stage, samples))
        elif stream is not None:
            run.log(documents=stream.cursor)
        if config.eval is not None and is_due(step, config.eval.every):
            score = stage.quick_eval(engine, problems, config.eval)
            engine.rest()
        stage.checkpoint(step, parts, score)

    after = {} if config.eval is None else {"after": stage.evaluate_once("after", engine, problems, config.eval)}
    engine.rest()  # a product with packed weights differs by a rounding, and a resumed attempt may have none
    stage.finish(after, counted(stage, samples, stream))


def open_data(stage: Stage[SftConfig]) -> SampleRows | None:
    """The rows of `data`; None without data. With `epochs`, the stage's number of steps becomes
    what they take."""
    config = stage.config
    if not config.data:
        return None
    max_positions = stage.model.shape.max_positions
    samples = open_samples(stage, config.data, max_positions, config.too_long, config.held_out_share)
    if config.epochs:
        num_steps = min(config.num_steps, samples.num_steps(config.epochs, config.batch_documents))
        stage.run.message(f"{len(samples):,} samples, {num_steps:,} steps of {config.batch_documents}")
        stage.config = config.model_copy(update={"num_steps": num_steps})
    if config.held_out_share and not samples.num_held_out:
        share = f"held_out_share = {config.held_out_share:g}"
        stage.run.message(f"{stage.name}: no question falls to {share} of so few: there is no held-out loss")
    return samples


def open_tasks(stage: Stage[SftConfig]) -> ProblemStream | None:
    config = stage.config
    if not config.tasks:
        return None
    stream = ProblemStream(config.tasks, stage.seed, config.test_share)
    for note in stream.notes():
        stage.run.message(note)
    return stream


def documents(stage: Stage[SftConfig], stream: ProblemStream | None) -> Corpus:
    assert stream is not None, "SftConfig has tasks or data"
    return Corpus(stream, stage.renderer, stage.config.styles)


def held_out_loss(stage: Stage[SftConfig], samples: SampleRows) -> float:
    """Cross-entropy of the held-out samples' completions, in nats a token."""
    nats, num_tokens = held_out_nats(stage, samples.held_out(HELD_OUT_SAMPLES), share_prompts=stage.model.shape.moe is None)
    return nats / num_tokens


def counted(stage: Stage[SftConfig], samples: SampleRows | None, stream: ProblemStream | None) -> dict[str, float]:
    """What the stage used, and the held-out loss, for its result."""
    if samples is None:
        return {"documents": float(stream.cursor if stream is not None else 0)}
    found = samples.counts()
    if samples.num_held_out:
        found |= {"held_out_samples": float(samples.num_held_out), "held_out_loss": held_out_loss(stage, samples)}
    return found
