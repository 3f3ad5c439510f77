"""Logprobs and advantages -> the policy loss. The only file that divides by a token count.

Every denominator is counted over the whole optimizer step before the first microbatch (`StepCounts`), so the update is
the same for any split into microbatches, any padding and any order of rollouts.

Shapes: B rollouts, T tokens. All [B, T] tensors are 0 where `loss_mask_BT` is False. R loss tokens, K outcomes of each.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

PolicyLossKind = Literal["grpo", "gspo", "cispo"]
Normalizer = Literal["token", "sequence", "constant"]
Divergence = Literal["forward", "reverse", "jsd"]


@dataclass(frozen=True)
class PolicyLossParams:
    """Switches of the policy loss; the defaults are GRPO as DeepSeek-R1 describes it, per token as in DAPO."""

    kind: PolicyLossKind = "grpo"
    normalizer: Normalizer = "token"
    clip_eps_low: float = 0.2
    clip_eps_high: float = 0.2
    kl_coef: float = 0.0
    tis_cap: float = 0.0
    """Truncated importance sampling against the engine's distribution is off at 0."""


class StepCounts(NamedTuple):
    """What one optimizer step averages over, all microbatches and ranks together."""

    num_loss_tokens: int
    num_rollouts: int
    max_completion_tokens: int


class PolicyLoss(NamedTuple):
    loss: Tensor
    """Scalar; the sum over microbatches is the loss of the step."""
    kl: Tensor
    """Mean KL to the reference over the step's tokens, detached, before `kl_coef`."""
    clipped: Tensor
    """Share of the step's tokens (for gspo: of rollouts, spread over tokens) whose gradient the clip removed."""


def token_weights(loss_mask_BT: Tensor, counts: StepCounts, normalizer: Normalizer) -> Tensor:
    """fp32 [B, T] weights that turn a sum over tokens into the step's mean.

    token     1 / all tokens of the step: each token weighs alike             DAPO, arXiv:2503.14476
    sequence  1 / (tokens of the rollout * rollouts): each rollout alike      GRPO, arXiv:2402.03300, eq. 3
    constant  1 / (rollouts * max tokens): no length bias either way          Dr. GRPO, arXiv:2503.20783
    """
    mask_BT = loss_mask_BT.float()
    if normalizer == "token":
        return mask_BT / max(counts.num_loss_tokens, 1)
    if normalizer == "sequence":
        return mask_BT / (mask_BT.sum(dim=1, keepdim=True).clamp(min=1) * counts.num_rollouts)
    return mask_BT / (counts.num_rollouts * counts.max_completion_tokens)


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B: Tensor,
    loss_mask_BT: Tensor,
    counts: StepCounts,
    params: PolicyLossParams,
    ref_logprobs_BT: Tensor | None = None,
    rollout_logprobs_BT: Tensor | None = None,
) -> PolicyLoss:
    """-(surrogate - kl_coef * KL), summed over this microbatch with the whole step's denominators."""
    weights_BT = token_weights(loss_mask_BT, counts, params.normalizer)
    log_ratio_BT = (logprobs_BT - old_logprobs_BT) * loss_mask_BT
    if params.kind == "gspo":
        log_ratio_BT = _sequence_log_ratio(log_ratio_BT, loss_mask_BT)
    advantages_B1 = advantages_B[:, None]
    surrogate_BT, clipped_BT = _surrogate(log_ratio_BT, logprobs_BT, advantages_B1, params)
    if params.tis_cap > 0 and rollout_logprobs_BT is not None:
        # trainer over engine, truncated from above (arXiv:2510.11370): corrects for the two not being equal
        surrogate_BT = surrogate_BT * (old_logprobs_BT - rollout_logprobs_BT).exp().clamp(max=params.tis_cap).detach()
    policy = -(surrogate_BT * weights_BT).sum()
    kl_BT = torch.zeros_like(weights_BT)
    if ref_logprobs_BT is not None:
        kl_BT = unbiased_kl(logprobs_BT, ref_logprobs_BT)
    mean_BT = loss_mask_BT.float() / max(counts.num_loss_tokens, 1)
    return PolicyLoss(
        loss=policy + params.kl_coef * (kl_BT * weights_BT).sum(),
        kl=(kl_BT.detach() * mean_BT).sum(),
        clipped=(clipped_BT.float() * mean_BT).sum(),
    )


def _surrogate(
    log_ratio_BT: Tensor, logprobs_BT: Tensor, advantages_B1: Tensor, params: PolicyLossParams
) -> tuple[Tensor, Tensor]:
    """The term to maximise, per token, and where the clip took its gradient away."""
    ratio_BT = log_ratio_BT.exp()
    low, high = 1 - params.clip_eps_low, 1 + params.clip_eps_high
    clipped_ratio_BT = ratio_BT.clamp(low, high)
    if params.kind == "cispo":
        # the clipped ratio is a weight, not a gate: no token loses its gradient (MiniMax-M1, arXiv:2506.13585, eq. 4)
        return clipped_ratio_BT.detach() * advantages_B1 * logprobs_BT, ratio_BT != clipped_ratio_BT
    # PPO's pessimistic bound (arXiv:1707.06347, eq. 7); two bounds are DAPO's clip-higher (arXiv:2503.14476)
    free_BT, bound_BT = ratio_BT * advantages_B1, clipped_ratio_BT * advantages_B1
    return torch.minimum(free_BT, bound_BT), bound_BT < free_BT


def _sequence_log_ratio(log_ratio_BT: Tensor, loss_mask_BT: Tensor) -> Tensor:
    """Length-normalised sequence ratio of GSPO (arXiv:2507.18071, eq. 7), spread over the rollout's tokens."""
    num_tokens_B1 = loss_mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return (log_ratio_BT.sum(dim=1, keepdim=True) / num_tokens_B1) * loss_mask_BT


def unbiased_kl(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """ref/policy - log(ref/policy) - 1 per token: unbiased and never negative (R1, eq. 2; Schulman's k3)."""
    log_ratio_BT = ref_logprobs_BT - logprobs_BT
    return log_ratio_BT.exp() - log_ratio_BT - 1


def cross_entropy(logprobs_R: Tensor, num_loss_tokens: int) -> Tensor:
    """-sum(logprobs) / tokens of the whole step, in nats, of each logprob or of their sum; for pretrain and sft."""
    return -logprobs_R.sum() / max(num_loss_tokens, 1)


def divergence(teacher_RK: Tensor, student_RK: Tensor, kind: Divergence, beta: float) -> tuple[Tensor, Tensor]:
    """How far the student is from the teacher, in nats [R], and its gradient by the student's logits [R, K].

    Both are given as logprobs of K outcomes. With P the teacher, Q the student and M = beta P + (1 - beta) Q:

    forward  sum P log(P/Q): the student covers what the teacher does          Hinton et al., arXiv:1503.02531
    reverse  sum Q log(Q/P): it keeps to what the teacher does most            MiniLLM, arXiv:2306.08543
    jsd      beta KL(P || M) + (1 - beta) KL(Q || M)                           GKD, arXiv:2306.13649, eq. 1
    """
    student_prob_RK = student_RK.exp()
    if kind == "forward":
        teacher_prob_RK = teacher_RK.exp()
        return (teacher_prob_RK * (teacher_RK - student_RK)).sum(1), student_prob_RK - teacher_prob_RK
    if kind == "reverse":
        slope_RK = teacher_RK.neg().add_(student_RK)
        value_R = (student_prob_RK * slope_RK).sum(1)
        return value_R, slope_RK.sub_(value_R[:, None]).mul_(student_prob_RK)
    mean_RK = torch.logaddexp(teacher_RK + math.log(beta), student_RK + math.log1p(-beta))
    slope_RK = student_RK - mean_RK
    to_student_R = (student_prob_RK * slope_RK).sum(1)
    to_teacher_R = (teacher_RK.exp() * (teacher_RK - mean_RK)).sum(1)
    grad_RK = slope_RK.sub_(to_student_R[:, None]).mul_(student_prob_RK).mul_(1 - beta)
    return beta * to_teacher_R + (1 - beta) * to_student_R, grad_RK


def distill_loss(
    divergence_R: Tensor, logprobs_R: Tensor, num_loss_tokens: int, temperature: float, ce_weight: float
) -> Tensor:
    """(1 - ce_weight) * temperature^2 * mean divergence + ce_weight * cross-entropy, over all tokens of the step, in nats.

    The square keeps the gradient's size: softening by `temperature` divides it by about as much (arXiv:1503.02531, section 2).
    """
    loss = (1 - ce_weight) * temperature**2 * divergence_R.sum() / max(num_loss_tokens, 1)
    return loss + ce_weight * cross_entropy(logprobs_R, num_loss_tokens) if ce_weight else loss


def pairwise_loss(chosen_B: Tensor, rejected_B: Tensor, num_pairs: int) -> Tensor:
    """-log sigmoid(chosen - rejected) over the whole step's pairs, in nats: Bradley-Terry (1952) as in InstructGPT.

    arXiv:2203.02155, eq. 1, with one pair a question. Never overflows: softplus of the other sign.
    """
    return torch.nn.functional.softplus(rejected_B - chosen_B).sum() / max(num_pairs, 1)


def pointwise_loss(scores_B: Tensor, is_safe_B: Tensor, num_labels: int) -> Tensor:
    """Logistic loss over the whole step's labels, in nats: a score is the log-odds of being safe."""
    signs_B = is_safe_B.float() * 2 - 1
    return torch.nn.functional.softplus(-signs_B * scores_B).sum() / max(num_labels, 1)
