"""Problems -> groups of rollouts -> rewards. The reward line is `score_groups`; the trainer learns from `Rollout.row`.

Shapes: P prompts, G rollouts of each.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from farthing.advantage import overlong_penalty
from farthing.config import RewardConfig
from farthing.data.batches import Row
from farthing.engine.engine import Completion, Engine, StopReason
from farthing.engine.sampler import SamplingParams
from farthing.reflection import REFLECTION_WORDS, count_words
from farthing.renderer import Renderer
from farthing.rewards.score import Reward, score_all
from farthing.tasks.problem import Problem


@dataclass(frozen=True, slots=True)
class Rollout:
    """One prompt with one completion and, once scored, its reward."""

    problem: Problem
    prompt_tokens: list[int]
    completion: Completion
    text: str
    """The completion as the verifier reads it, the prompt's prefill in front."""
    reward: Reward | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.completion.tokens)

    @property
    def is_truncated(self) -> bool:
        return self.completion.stop_reason is StopReason.LENGTH

    @property
    def row(self) -> Row:
        """Prompt and completion; the completion carries the loss."""
        return Row([*self.prompt_tokens, *self.completion.tokens], len(self.prompt_tokens))

    def to_json(self) -> dict[str, Any]:
        """What a person wants to read of it: a line of samples.jsonl."""
        reward = self.reward
        return {
            "task": self.problem.task,
            "question": self.problem.question,
            "answer": self.problem.answer,
            "completion": self.text,
            "read": reward.answer if reward else None,
            "accuracy": reward.accuracy if reward else None,
            "reward": reward.value if reward else None,
            "parts": dict(reward.parts) if reward else {},
            "tokens": self.num_tokens,
            "stop_reason": str(self.completion.stop_reason),
        }


Group = list[Rollout]
"""The G rollouts of one prompt."""


def rollout_seed(*path: object) -> int:
    """A 63-bit seed for one rollout, from its place in the run: (run seed, stage, step, prompt, completion)."""
    digest = hashlib.blake2b("/".join(map(str, path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rollout(
    engine: Engine,
    renderer: Renderer,
    problems: Sequence[Problem],
    params: SamplingParams,
    group_size: int,
    seed_path: tuple[object, ...],
) -> list[Group]:
    """P groups of G rollouts; the n-th completion of the n-th problem has its own seed under `seed_path`."""
    prompts = renderer.tokenizer.encode_all([renderer.prompt(p.question) for p in problems])
    seeds = [[rollout_seed(*seed_path, p, g) for g in range(group_size)] for p in range(len(problems))]
    completions_PG = engine.generate(prompts, seeds, params)
    decode = renderer.tokenizer.decode
    return [
        [Rollout(problem, prompt, c, renderer.prefill + decode(c.tokens)) for c in completions_G]
        for problem, prompt, completions_G in zip(problems, prompts, completions_PG, strict=True)
    ]


def score_groups(groups_P: Sequence[Group], config: RewardConfig) -> list[Group]:
    """The same groups with every rollout's reward: accuracy by the problem's verifier, plus format and language."""
    rollouts = [r for group in groups_P for r in group]
    rewards = score_all([r.text for r in rollouts], [r.problem for r in rollouts], config)
    scored = iter([replace(r, reward=reward) for r, reward in zip(rollouts, rewards, strict=True)])
    return [[next(scored) for _ in group] for group in groups_P]


def reward_values(groups_P: Sequence[Group], max_tokens: int, overlong_buffer: int) -> Tensor:
    """fp32 rewards [P, G], on the CPU where they come from, with DAPO's length penalty where a buffer is given."""
    values = [[r.reward.value for r in group if r.reward is not None] for group in groups_P]
    rewards_PG = torch.tensor(values, dtype=torch.float32, device="cpu")
    if overlong_buffer:
        num_tokens_PG = torch.tensor([[r.num_tokens for r in group] for group in groups_P], device="cpu")
        rewards_PG = rewards_PG + overlong_penalty(num_tokens_PG, max_tokens, overlong_buffer)
    return rewards_PG


def rollout_metrics(groups_P: Sequence[Group], reflection_words: Sequence[str] = REFLECTION_WORDS) -> dict[str, float]:
    """Means over all rollouts, by the names of `metrics.METRICS`."""
    rollouts = [r for group in groups_P for r in group]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    count = len(rollouts)
    return {
        "accuracy": sum(r.accuracy for r in rewards) / count,
        "format": sum(r.format for r in rewards) / count,
        "language": sum(r.language for r in rewards) / count,
        "mixed": sum(r.language < 1 for r in rewards) / count,
        "readable": sum(not r.unreadable for r in rewards) / count,
        "completion_tokens": sum(r.num_tokens for r in rollouts) / count,
        "truncated": sum(r.is_truncated for r in rollouts) / count,
        "reflection": count_words([r.text for r in rollouts], reflection_words).total() / count,
    }


def sampled_tokens(groups_P: Sequence[Group]) -> int:
    return sum(r.num_tokens for group in groups_P for r in group)


def prefilled_tokens(groups_P: Sequence[Group]) -> int:
    """Prompt tokens that went through the model: once a group."""
    return sum(len(group[0].prompt_tokens) for group in groups_P)


def wasted_tokens(groups_P: Sequence[Group], flat_P: Sequence[bool]) -> dict[str, int]:
    """Sampled tokens that teach nothing or little, counted once: of flat groups, and of completions cut short elsewhere."""
    signal = [r for group, flat in zip(groups_P, flat_P, strict=True) if not flat for r in group]
    flat = sum(r.num_tokens for group, is_flat in zip(groups_P, flat_P, strict=True) if is_flat for r in group)
    return {"flat_groups": flat, "truncated": sum(r.num_tokens for r in signal if r.is_truncated)}
