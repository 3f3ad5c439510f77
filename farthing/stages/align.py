"""A policy, problems, general prompts and two reward models -> R1: reinforcement learning on all scenarios.

DeepSeek-R1 (arXiv:2501.12948v2, section 3.2.2): GRPO as before, temperature lowered to 0.7; general prompts and their reward
models only in the last 400 of 1,700 steps, because longer the policy learns to trick them. We differ in standardising scores
(see `scenarios.py`) and in watching for that trick (`hacking.py`).
"""

import copy
from functools import partial
from statistics import fmean
from typing import Any

from farthing.config import AlignConfig
from farthing.engine.engine import Engine
from farthing.errors import DataError
from farthing.eval.estimators import normal_ci95
from farthing.rollout import Group, rollout_metrics
from farthing.run import Run
from farthing.stages.grpo import learn
from farthing.stages.hacking import Watch
from farthing.stages.scenarios import REASONING, ScenarioRewards, Scenarios, kind_metrics, kind_of
from farthing.stages.scoring import Scorer, open_reward_model, renderer_for
from farthing.stages.stage import Stage, Stateful, is_due
from farthing.tasks.problem import Problem

LOOKED_AT = 64
"""Prompts of each kind whose length is checked before the first step."""


def train(stage: Stage[AlignConfig]) -> None:
    """prompts of all kinds -> rollouts -> rules and reward models -> policy update, watched for reward hacking."""
    run, config, model = stage.run, stage.config, stage.model
    with run.phase("setup"):
        model.recompute_activations = config.recompute_activations
        optimizer = stage.optimizer()
        reference = copy.deepcopy(model).requires_grad_(False) if config.kl_coef > 0 else None
        engine = Engine(model, stage.renderer.tokenizer, config.num_slots)
        scenarios = Scenarios(config, stage.seed)
        scorers = open_scorers(stage)
        require_room(stage, scorers)
        rewards = ScenarioRewards(
            config, {kind: s.score for kind, s in scorers.items()}, partial(count_scoring, run), run.message
        )
        watch = Watch(config.hacking, run.message)
        held_out = {k: scenarios.held_out(k, config.eval.num_problems) for k in scenarios.streams} if config.eval else {}
        for note in scenarios.notes():
            run.message(note)
        parts: dict[str, Stateful] = {"optimizer": optimizer, "stream": scenarios, "rewards": rewards, "watch": watch}
        if reference is not None:
            parts["reference"] = reference
        first = stage.resume(parts)
        engine.policy_version = first

    evals = evaluate_all(stage, "before", engine, held_out, rewards)
    is_over = config.hacking_stop and bool(watch.alarms)
    for step in run.steps(first if is_over else config.num_steps, first):
        quick = None
        scenarios.has_preferences = step >= config.first_preference_step
        groups = learn(stage, engine, reference, optimizer, scenarios, rewards.score, step)
        with run.phase("reward"):
            metrics = scenario_metrics(groups, rewards.weights)
            level = {} if scenarios.level is None else {"level": float(scenarios.level)}
            metrics["hacking"] = watch.look(step, metrics | level)
        run.log(**metrics)
        if config.eval is not None and is_due(step, config.eval.every):
            quick = quick_all(stage, engine, held_out)
        stage.checkpoint(step, parts, quick)
        if config.hacking_stop and watch.alarms:
            run.end_after_step()

    back = go_back(stage, watch) if watch.alarms and config.hacking_stop else None
    evals |= evaluate_all(stage, "after", engine, held_out, rewards)
    facts: dict[str, Any] = {"hacking": {"alarms": watch.alarms, "last_step": run.step, "went_back_to": back}}
    stage.finish(evals, {kind: float(stream.cursor) for kind, stream in scenarios.streams.items()}, **facts)


# before the loop -------------------------------------------------------------------------------------------------------


def open_scorers(stage: Stage[AlignConfig]) -> dict[str, Scorer]:
    """The reward model of every kind of general prompt, ready to score. ModelError where it is none."""
    run, scorers = stage.run, {}
    for kind, prompts in stage.config.prompts.items():
        model, tokenizer = open_reward_model(run, prompts.stage, prompts.reward_model, stage.precision)
        renderer = renderer_for(run.recipe, tokenizer, is_ours=prompts.stage is not None)
        scorers[str(kind)] = Scorer(model, renderer, kind, stage.config.max_microbatch_tokens)
        if tokenizer.backend.to_str() != stage.renderer.tokenizer.backend.to_str():
            run.message(f"the reward model for {kind} has a tokenizer of its own: completions are tokenized anew for it")
    return scorers


def require_room(stage: Stage[AlignConfig], scorers: dict[str, Scorer]) -> None:
    """DataError where a prompt is too long: general prompts come late, and must not end a run then.

    Of a fresh stream of each kind, so that no cursor moves. A reward model with another tokenizer is asked when it scores.
    """
    config, tokenizer = stage.config, stage.renderer.tokenizer
    for kind, stream in Scenarios(config, stage.seed).streams.items():
        prompts = [stage.renderer.prompt(p.question) for p in stream.take(LOOKED_AT)]
        longest = max(len(ids) for ids in tokenizer.encode_all(prompts))
        limits = {"the model": stage.model.shape.max_positions}
        if kind in scorers and scorers[kind].renderer.tokenizer.backend.to_str() == tokenizer.backend.to_str():
            limits["its reward model"] = scorers[kind].model.decoder.shape.max_positions
        for whose, limit in limits.items():
            if longest + config.max_completion_tokens > limit:
                raise DataError(
                    f"a {kind} prompt of {longest} tokens plus max_completion_tokens = {config.max_completion_tokens} exceeds "
                    f"the {limit} positions of {whose}; shorten the prompts, or lower {stage.name}.max_completion_tokens"
                )


def count_scoring(run: Run, num_tokens: int, flops: int) -> None:
    run.count(tokens_in=num_tokens, model_flops=flops)


# in the loop -----------------------------------------------------------------------------------------------------------


def scenario_metrics(groups_P: list[Group], weights: dict[str, float]) -> dict[str, float]:
    """`accuracy` and `format` of reasoning alone, and every other kind's own; one number for all would mean nothing."""
    reasoning = [group for group in groups_P if kind_of(group[0].problem) == REASONING]
    of_reasoning = rollout_metrics(reasoning) if reasoning else {}
    metrics = {name: of_reasoning[name] for name in ("accuracy", "format") if name in of_reasoning}
    return metrics | kind_metrics(groups_P, weights)


def quick_all(stage: Stage[AlignConfig], engine: Engine, held_out: dict[str, list[Problem]]) -> float:
    """One sample of the first few problems of each kind -> mean accuracy by rule over the kinds that have gold answers.

    That is what the best checkpoint is chosen by: never by a score.
    """
    config = stage.config.eval
    assert config is not None, "a quick evaluation is due"
    found = [stage.quick_eval(engine, held_out[REASONING], config)]
    for kind in stage.config.prompts:
        problems = [p for p in held_out[kind][: config.quick_problems] if p.has_gold]
        if problems:
            with stage.run.phase("eval"):
                found.append(stage.evaluate(engine, problems, config, 1).result.pass_at_1)
            stage.run.log(**{f"eval_{kind}_accuracy": found[-1]})
    return fmean(found)


# after the loop --------------------------------------------------------------------------------------------------------


def evaluate_all(
    stage: Stage[AlignConfig], label: str, engine: Engine, held_out: dict[str, list[Problem]], rewards: ScenarioRewards
) -> dict[str, dict[str, Any]]:
    """The full evaluation of every kind: by rule, and of general prompts the reward model's scores in its own unit too."""
    config, evals = stage.config.eval, {}
    if config is None:
        return {}
    evals[label] = stage.evaluate_once(label, engine, held_out[REASONING], config)
    for kind in stage.config.prompts:

        def scores(groups_P: list[Group], kind: str = kind) -> dict[str, Any]:
            values = iter(rewards.raw_scores(kind, groups_P))
            per_problem = [fmean(next(values) for _ in group) for group in groups_P]
            return {"score": fmean(per_problem), "score_ci95": list(normal_ci95(per_problem))}

        name = f"{label}_{kind}"
        evals[name] = stage.evaluate_once(name, engine, held_out[kind], config, scores)
    return evals


def go_back(stage: Stage[AlignConfig], watch: Watch) -> int | None:
    """Takes the weights of the best checkpoint, after an alarm -> its step; None where the last step did best."""
    best = stage.go_back_to_best()
    where = "the last step did best by the rules, and stays" if best is None else f"back to the model of step {best['step']}"
    stage.run.message(f"{stage.name} ends for reward hacking ({', '.join(watch.alarms)}): {where}")
    return None if best is None else int(best["step"])
