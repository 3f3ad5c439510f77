"""Rewards of a group -> advantages, one per rollout.

Shapes: P prompts, G rollouts of each.
"""

from typing import Literal

from torch import Tensor

AdvantageKind = Literal["grpo", "mean_only", "rloo"]

STD_EPS = 1e-6


def group_advantages(rewards_PG: Tensor, kind: AdvantageKind = "grpo") -> Tensor:
    """fp32 [P, G]; a group whose rewards are all equal gets zeros whatever the kind.

    grpo       (r - mean) / std of the group             DeepSeekMath, arXiv:2402.03300, eq. 3; R1, arXiv:2501.12948
    mean_only  r - mean: hard and easy prompts weigh alike         Dr. GRPO, arXiv:2503.20783
    rloo       r - mean of the other rollouts of the group         RLOO, arXiv:2402.14740
    """
    # the mean of equal numbers can be off by a rounding, which would leave a flat group something to learn
    centred_PG = (rewards_PG - rewards_PG.mean(dim=1, keepdim=True)).masked_fill(is_flat(rewards_PG)[:, None], 0.0)
    if kind == "grpo":
        return centred_PG / (rewards_PG.std(dim=1, keepdim=True, unbiased=False) + STD_EPS)
    if kind == "rloo":
        group_size = rewards_PG.shape[1]
        return centred_PG * (group_size / (group_size - 1))
    return centred_PG


def is_flat(rewards_PG: Tensor) -> Tensor:
    """bool [P]: groups that carry no signal, because every rollout of them got the same reward."""
    return (rewards_PG.max(dim=1).values - rewards_PG.min(dim=1).values) <= STD_EPS


def overlong_penalty(num_tokens: Tensor, max_tokens: int, buffer_tokens: int) -> Tensor:
    """Soft overlong punishment, DAPO (arXiv:2503.14476, eq. 13): 0 up to max - buffer, then linearly to -1 at max."""
    excess = (num_tokens.float() - (max_tokens - buffer_tokens)).clamp(min=0.0)
    return -(excess / buffer_tokens).clamp(max=1.0)
