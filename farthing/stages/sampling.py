"""The next problems of a stream -> scored completions of them, for stages that collect some of them, or show them a teacher.

Reinforcement learning, which replaces groups and weighs them, has its own (`grpo.collect`).
"""

from collections.abc import Sequence
from typing import Any

from farthing.config import CollectConfig, GrpoConfig, RewardConfig
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.renderer import Renderer
from farthing.rollout import Group, rollout_metrics, sampled_tokens, score_groups
from farthing.run import Run
from farthing.stages.stage import Stage
from farthing.tasks.stream import ProblemStream


def sampling_params(config: CollectConfig | GrpoConfig) -> SamplingParams:
    """As a stage's table has them."""
    return SamplingParams(config.temperature, config.top_p, config.top_k, config.max_completion_tokens, tuple(config.stop))


def sample(
    stage: Stage[Any],
    engine: Engine,
    renderer: Renderer,
    stream: ProblemStream,
    params: SamplingParams,
    step: int,
) -> list[Group]:
    """`num_prompts` groups of `group_size`; on the clock as rollout and reward, and in the step's metrics."""
    run, config = stage.run, stage.config
    reward: RewardConfig = config.reward
    with run.phase("rollout") as spent:
        problems = stream.take(config.num_prompts)
        groups = stage.sample(engine, problems, params, config.group_size, step, renderer=renderer)
    with run.phase("reward"):
        groups = score_groups(groups, reward)
        for r in (r for group in groups for r in group):
            if r.reward is not None:
                stream.record(r.problem, r.reward.accuracy)
    run.log(**rollout_metrics(groups), rollout_tokens_per_s=sampled_tokens(groups) / spent.seconds)
    if stream.level is not None:
        run.log(level=stream.level)
    return groups


def waste_truncated(run: Run, groups: Sequence[Group]) -> None:
    """Books completions that were cut off as wasted, where they cannot be of use."""
    truncated = sum(r.num_tokens for group in groups for r in group if r.is_truncated)
    run.waste("rollout", of=sampled_tokens(groups), truncated=truncated)
