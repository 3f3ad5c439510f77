"""Engine and held-out problems -> an `EvalResult`: pass@1 as the mean over samples, as DeepSeek-R1 reports it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from farthing.config import RewardConfig
from farthing.engine.engine import Engine
from farthing.engine.sampler import SamplingParams
from farthing.eval.estimators import mean_ci95, pass_at_k
from farthing.renderer import Renderer
from farthing.rollout import Group, prefilled_tokens, rollout, sampled_tokens, score_groups
from farthing.tasks.problem import Problem


@dataclass(frozen=True)
class EvalResult:
    """What `eval --json` prints. Shares are in [0, 1]."""

    pass_at_1: float
    ci95: tuple[float, float]
    """95% confidence interval of pass_at_1 over problems."""
    pass_at_8: float | None
    """None with fewer than 8 samples."""
    format_only: float
    """Share of completions that keep the format, whether or not the answer is right: reported apart from accuracy."""
    language_consistency: float
    """Share of the chain's words in the target language, mean over completions."""
    mixed: float
    """Share of completions with any foreign word in their chain."""
    readable: float
    """Share of completions that break no rule of readability."""
    mean_completion_tokens: float
    truncated: float
    n: int
    samples: int
    temperature: float
    per_task: dict[str, float]
    """pass@1 by task."""

    def to_json(self) -> dict[str, Any]:
        return {
            "pass_at_1": self.pass_at_1,
            "pass_at_8": self.pass_at_8,
            "format_only": self.format_only,
            "language_consistency": self.language_consistency,
            "mixed": self.mixed,
            "readable": self.readable,
            "mean_completion_tokens": self.mean_completion_tokens,
            "n": self.n,
            "ci95": list(self.ci95),
            "samples": self.samples,
            "temperature": self.temperature,
            "truncated": self.truncated,
            "per_task": self.per_task,
        }


@dataclass(frozen=True)
class Evaluation:
    """The result, with the rollouts behind it and the work they took."""

    result: EvalResult
    groups_P: list[Group]
    tokens_in: int
    tokens_out: int


def evaluate(
    engine: Engine,
    renderer: Renderer,
    problems: Sequence[Problem],
    reward: RewardConfig,
    params: SamplingParams,
    samples: int,
    seed: int = 0,
) -> Evaluation:
    """`samples` completions of each problem, scored. The same seed asks the same questions with the same luck."""
    groups_P = score_groups(rollout(engine, renderer, problems, params, samples, ("eval", seed)), reward)
    return Evaluation(summarise(groups_P, params.temperature), groups_P, prefilled_tokens(groups_P), sampled_tokens(groups_P))


def summarise(groups_P: Sequence[Group], temperature: float) -> EvalResult:
    accuracy_PG = [[r.reward.accuracy for r in group if r.reward is not None] for group in groups_P]
    rollouts = [r for group in groups_P for r in group]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    samples = len(accuracy_PG[0])
    per_problem = [fmean(accuracy_G) for accuracy_G in accuracy_PG]
    per_task: dict[str, list[float]] = {}
    for group, share in zip(groups_P, per_problem, strict=True):
        per_task.setdefault(group[0].problem.task, []).append(share)
    num_correct = [sum(a >= 1 for a in accuracy_G) for accuracy_G in accuracy_PG]
    return EvalResult(
        pass_at_1=fmean(per_problem),
        ci95=mean_ci95(per_problem),
        pass_at_8=fmean(pass_at_k(c, samples, 8) for c in num_correct) if samples >= 8 else None,
        format_only=fmean(r.format for r in rewards),
        language_consistency=fmean(r.language for r in rewards),
        mixed=fmean(float(r.language < 1) for r in rewards),
        readable=fmean(float(not r.unreadable) for r in rewards),
        mean_completion_tokens=fmean(r.num_tokens for r in rollouts),
        truncated=fmean(float(r.is_truncated) for r in rollouts),
        n=len(groups_P),
        samples=samples,
        temperature=temperature,
        per_task={task: fmean(shares) for task, shares in sorted(per_task.items())},
    )
