"""What every stage does around its loop: evaluate before and after, resume, checkpoint, hand over a model folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from farthing.attempt import file_sha256
from farthing.checkpoint import CheckpointStore, load_state
from farthing.config import EvalConfig, OptimConfig, Recipe, RewardConfig, StageConfig
from farthing.config.base import SOURCE
from farthing.data.batches import Microbatch
from farthing.data.sample_rows import SampleRows, TooLong, tokenise_samples
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.errors import RunError, TrainingDiverged
from farthing.eval.evaluate import Evaluation, evaluate
from farthing.files import append_line, read_json, write_json
from farthing.manifest import damage, score_of, step_of
from farthing.models.decoder import Decoder
from farthing.models.huggingface import save_model, weights_sha256
from farthing.models.reward import RewardModel, save_reward_model
from farthing.optim import Optimizer, learning_rate
from farthing.precision import Precision, compute_dtype
from farthing.renderer import Renderer
from farthing.rollout import Group, prefilled_tokens, rollout, sampled_tokens
from farthing.run import Run
from farthing.sources import stage_folder, stage_model
from farthing.tasks.problem import Problem
from farthing.tasks.stream import ProblemStream
from farthing.tokenizer import Tokenizer

ConfigT = TypeVar("ConfigT", bound=StageConfig)
SAMPLES_KEPT = 8
"""Rollouts of each full evaluation that are kept to be read."""
KEEP_AT, KEEP_A_TIME = 20, 2
"""At about so many steps of a stage, so many of its training rollouts are."""


class Stateful(Protocol):
    """What a checkpoint covers."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


@dataclass
class Stage(Generic[ConfigT]):
    """One stage of a run with what it works on. `parts` are what its checkpoints hold, by name."""

    run: Run
    name: str
    config: ConfigT
    model: Decoder
    renderer: Renderer
    precision: Precision
    peak_flops: float
    last_score: float | None = None
    """Of the quick evaluation of the step done last, if it had one."""
    reward_model: RewardModel | None = None
    """In a stage that makes one: `model` with a scalar head."""

    @property
    def seed(self) -> int:
        return self.run.recipe.seed

    @property
    def trained(self) -> nn.Module:
        """What the stage trains, saves and hands over."""
        return self.model if self.reward_model is None else self.reward_model

    # before the loop -------------------------------------------------------------------------------------------------

    def optimizer(self) -> Optimizer:
        o = self._optim
        return Optimizer(
            self.trained,
            self.precision,
            betas=(o.beta1, o.beta2),
            eps=o.eps,
            weight_decay=o.weight_decay,
            clip_norm=o.clip_norm,
            moments=o.moments,
        )

    @property
    def _optim(self) -> OptimConfig:
        config: Any = self.config
        optim: OptimConfig = config.optim
        return optim

    def learning_rate(self, step: int) -> float:
        return learning_rate(step, self.config.num_steps, self._optim)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Loads the newest whole checkpoint into `parts` -> the first step to run; opens the attempt on the ledger."""
        last = self.store().load_last()
        if last is not None:
            seq, digest = last.state["ledger_head"]
            self.run.require_ledger((seq, digest))
            for name, part in parts.items():
                part.load_state_dict(last.state[name])
            self.run.accelerator.set_rng_state(last.state["torch_rng"])
            self.last_score = last.state.get("last_score")
        first = 0 if last is None else last.step + 1
        self.run.begin_stage(self.name, self.config, first)
        return first

    def file_of(self, stage: str) -> Path:
        """The file that another stage left. RunError where it is not, byte for byte, what that stage wrote."""
        result = self.run.result(stage)
        assert result is not None, "the plan runs a stage after all that it reads"
        path = self.run.stage_dir(stage) / str(result["file"])
        if not path.is_file() or file_sha256(path) != result["sha256"]:
            raise RunError(
                f"{path} is not what stage {stage} wrote (its sha256 differs, or it is gone); put it back, or make it again "
                f"with --from {stage}"
            )
        return path

    # in the loop -------------------------------------------------------------------------------------------------------

    def checkpoint(self, step: int, parts: Mapping[str, Stateful], score: float | None) -> None:
        """Saves when it is due, or the run stops here, on the clock; a model with NaN in it is never saved."""
        self.last_score = score
        is_scheduled = is_due(step, self.config.checkpoint.every) and step + 1 < self.config.num_steps
        if not self.run.stop_due() and not is_scheduled:
            return
        self.run.publish(step)
        with self.run.phase("checkpoint"):
            self.require_finite(step)
            state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            state["torch_rng"] = self.run.accelerator.rng_state()
            state["ledger_head"] = list(self.run.ledger.head())
            state["last_score"] = score
            # what is only here because the run stops no uninterrupted run would have to choose from
            self.store().save(step, state, score if is_scheduled else None)

    def require_finite(self, step: int) -> None:
        for name, parameter in self.trained.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise TrainingDiverged(f"weight {name} is not finite after step {step}")

    def store(self) -> CheckpointStore:
        c = self.config.checkpoint
        return CheckpointStore(self.run.checkpoints_dir(self.name), c.keep_last, c.keep_best, self.run.message)

    # evaluation --------------------------------------------------------------------------------------------------------

    def evaluate_once(
        self,
        label: str,
        engine: Engine,
        problems: list[Problem],
        config: EvalConfig,
        more: Callable[[list[Group]], dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """The full evaluation, kept in STAGE/eval_LABEL.json so that a resumed attempt need not repeat it.

        `more`: what else to say of its completions.
        """
        path = self.run.stage_dir(self.name) / f"eval_{label}.json"
        if path.is_file():
            kept: dict[str, Any] = read_json(path)
            return kept
        with self.run.phase("eval"):
            evaluation = self.evaluate(engine, problems, config, config.samples)
            result = evaluation.result.to_json() | (more(evaluation.groups_P) if more else {})
        self.keep_samples(label, evaluation.groups_P[:SAMPLES_KEPT])
        write_json(path, result)
        self.run.note_artefact("evaluation", [path], keeps="eval")
        return result

    def quick_eval(self, engine: Engine, problems: list[Problem], config: EvalConfig) -> float:
        """One sample of the first few problems, for the curve -> accuracy."""
        with self.run.phase("eval"):
            result = self.evaluate(engine, problems[: config.quick_problems], config, 1).result
        self.run.log(
            eval_accuracy=result.pass_at_1,
            eval_format=result.format_only,
            eval_completion_tokens=result.mean_completion_tokens,
        )
        return result.pass_at_1

    def evaluate(self, engine: Engine, problems: list[Problem], config: EvalConfig, samples: int) -> Evaluation:
        """Completions of `problems`, scored by rule and counted on the open phase."""
        max_tokens, stop, reward = self._completion_rules()
        params = SamplingParams(config.temperature, config.top_p, 0, max_tokens, stop)
        evaluation = evaluate(engine, self.renderer, problems, reward, params, samples)
        count_generation(self.run, engine.model, evaluation.tokens_in, evaluation.tokens_out, len(problems))
        return evaluation

    def sample(
        self,
        engine: Engine,
        problems: Sequence[Problem],
        params: SamplingParams,
        group_size: int,
        *place: object,
        renderer: Renderer | None = None,
    ) -> list[Group]:
        """A group of completions for each problem, counted on the open phase; seed, stage and `place` decide what is drawn."""
        path = (self.seed, self.name, *place)
        groups_P = rollout(engine, renderer or self.renderer, problems, params, group_size, path)
        count_generation(self.run, engine.model, prefilled_tokens(groups_P), sampled_tokens(groups_P), len(groups_P))
        return groups_P

    def _completion_rules(self) -> tuple[int, tuple[str, ...], RewardConfig]:
        config: Any = self.config
        return config.max_completion_tokens, tuple(getattr(config, "stop", ())), config.reward

    def keep_some(self, step: int, groups_P: Sequence[Group]) -> None:
        """Of training, now and then."""
        if is_due(step, max(1, self.config.num_steps // KEEP_AT)):
            self.keep_samples("training", groups_P[:KEEP_A_TIME])

    def keep_samples(self, when: str, groups_P: Sequence[Group]) -> None:
        """The first rollout of each group goes to samples.jsonl: which ones are kept must not depend on how good they are."""
        for group in groups_P:
            place = {"stage": self.name, "attempt": self.run.attempt, "step": self.run.step, "when": when}
            append_line(self.run.dir / "samples.jsonl", place | group[0].to_json())

    # after the loop ----------------------------------------------------------------------------------------------------

    def finish(self, evals: dict[str, dict[str, Any]], metrics: Mapping[str, float], **more: Any) -> None:
        """Writes the stage's model folder and result; only then is its training state dropped."""
        with self.run.phase("checkpoint"):
            self.require_finite(self.config.num_steps - 1)
            folder = self.run.stage_dir(self.name) / "model"
            facts = {"recipe": self.run.recipe.name, "stage": self.name, "seed": str(self.seed)}
            if self.reward_model is None:
                save_model(self.model, self.renderer.tokenizer, folder, facts)
            else:
                save_reward_model(self.reward_model, self.renderer.tokenizer, folder, facts)
            result: dict[str, Any] = {"weights_sha256": weights_sha256(self.trained), "metrics": dict(metrics), **more}
            result["num_steps"] = self.config.num_steps  # where the data decided, fewer than the recipe's
            if best := self._keep_best(facts):
                result["best"] = best
        if evals:
            result["eval"] = evals
        self.run.end_stage(result)
        self.store().clear()

    def finish_file(self, name: str, metrics: Mapping[str, float], **more: Any) -> None:
        """The same for a stage whose result is one file, data.jsonl or table.json, that lies in its folder already."""
        digest = file_sha256(self.run.stage_dir(self.name) / name)
        self.run.end_stage({"file": name, "sha256": digest, "metrics": dict(metrics), **more})
        self.store().clear()

    def _keep_best(self, facts: dict[str, str]) -> dict[str, Any] | None:
        """Writes the best checkpoint's model to STAGE/best -> its step and score; None where the last model is as good."""
        best = self.go_back_to_best() if self.config.checkpoint.keep_best else None
        if best is None:
            return None
        folder = self.run.stage_dir(self.name) / "best"
        save_model(self.model, self.renderer.tokenizer, folder, facts | {"step": str(best["step"])})
        return best

    def go_back_to_best(self) -> dict[str, Any] | None:
        """Gives `model` the weights of the best checkpoint -> its step and score; None where the last step did as well."""
        path = self.store().best()
        if path is None or damage(path) is not None:
            return None
        step, score = step_of(path), score_of(path)
        if score is None or (self.last_score is not None and self.last_score >= score):
            return None
        self.model.load_state_dict(load_state(path)["optimizer"]["masters"], strict=False)
        self.last_score = score
        return {"step": step, "eval_accuracy": score}


def open_input(run: Run, name: str, precision: Precision) -> tuple[Decoder, Tokenizer]:
    """The model that stage `name` left, that of a folder, or (SOURCE) the recipe's own, where the run computes. RunError where
    it is not the one that the stage wrote."""
    device = run.accelerator.device
    model, tokenizer = stage_model(run.recipe, run.dir, name, compute_dtype(precision, device))
    model.to(device)
    if name == SOURCE or name not in run.recipe.stages:
        return model, tokenizer
    result = run.result(name)
    assert result is not None, "the plan runs a stage after all that it reads"
    if weights_sha256(model) != result["weights_sha256"]:
        raise RunError(
            f"the weights in {stage_folder(run.dir, name)} are not those that stage {name} wrote (their sha256 differs); put "
            f"them back, or make them again with --from {name}"
        )
    return model, tokenizer


def open_samples(
    stage: Stage[Any],
    data: Sequence[str],
    max_positions: int,
    too_long: TooLong,
    held_out_share: float = 0.0,
) -> SampleRows:
    """The rows of `data`: what other stages left, and files of samples; tokenised once, into the run directory. Without those
    of questions that this recipe evaluates any model on."""
    run, needed = stage.run, stage.config.needs()
    files: dict[Path, str] = {}
    for name in data:
        result = run.result(name) if name in needed else None
        path = stage.file_of(name) if name in needed else Path(name)
        files[path] = str(run.info["inputs"][name] if result is None else result["sha256"])
    folder = run.dir / "corpus" / stage.name
    tokenise_samples(files, stage.renderer, folder, max_positions, too_long, evaluated_questions(run.recipe))
    samples = SampleRows(folder, stage.seed, held_out_share)
    if samples.num_leaked:
        run.message(f"{stage.name}: {samples.num_leaked:,} samples of questions that models are evaluated on dropped")
    if samples.num_dropped:
        run.message(f"{samples.num_dropped:,} samples of more than {max_positions:,} tokens dropped, {len(samples):,} kept")
    return samples


def evaluated_questions(recipe: Recipe) -> set[str]:
    """Content hashes of all held-out problems that the recipe asks."""
    asked = ((ProblemStream(e.tasks, recipe.seed, e.test_share), e.num_problems) for e in recipe.evaluations())
    return {problem.content_hash for stream, count in asked for problem in stream.held_out(count)}


def held_out(stream: ProblemStream, config: EvalConfig | None) -> list[Problem]:
    return [] if config is None else stream.held_out(config.num_problems)


def is_due(step: int, every: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def count_generation(run: Run, model: Decoder, tokens_in: int, tokens_out: int, num_prompts: int) -> None:
    """Puts tokens prefilled and sampled onto the open phase, with their FLOPs; contexts are taken at their means."""
    prompt = tokens_in / max(num_prompts, 1)
    prefill = model.shape.forward_flops(tokens_in, prompt / 2, num_prompts)
    flops = prefill + model.shape.forward_flops(tokens_out, prompt, tokens_out)
    run.count(tokens_in=tokens_in, tokens_out=tokens_out, model_flops=flops)


def training_flops(model: Decoder, batches: Sequence[Microbatch], with_mtp: bool = False) -> int:
    """Forward and backward: three times the forward pass. Recomputed activations are not counted (model FLOPs)."""
    sizes = batch_sizes(batches)
    return 3 * (model.shape.forward_flops(*sizes) + (model.shape.mtp_flops(*sizes) if with_mtp else 0))


def batch_sizes(batches: Sequence[Microbatch]) -> tuple[int, float, int]:
    """(tokens, mean tokens that each attends to, logits): what the FLOPs of a forward pass are counted from."""
    num_tokens = sum(b.num_tokens for b in batches)
    context = sum(b.num_context_tokens for b in batches) / max(num_tokens, 1)
    return num_tokens, context, sum(len(b.targets_R) for b in batches)
