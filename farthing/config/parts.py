"""Tables that several kinds of stage share: tasks, rewards, evaluation, optimizer, checkpoints, budget."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from farthing.config.base import Config, Count, NonNegative, Share


class StyleConfig(Config):
    """How often a training document answers in each way; the shares must add up to 1."""

    chain: Share = 0.3
    direct: Share = 0.5
    untagged: Share = 0.2
    """The bare answer, without tags: the format is then something left to learn."""

    @model_validator(mode="after")
    def _whole(self) -> "StyleConfig":
        total = self.chain + self.direct + self.untagged
        if abs(total - 1) > 1e-9:
            raise ValueError(f"chain + direct + untagged must be 1, got {total:g}")
        return self


class TaskConfig(Config):
    spec: str
    """SOURCE:NAME, such as "gym:chain_sum", "toy:running_total" or "jsonl:problems.jsonl" (relative to the recipe's folder)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    config: dict[str, Any] = {}
    levels: list[dict[str, Any]] = []
    """A curriculum: each level's keys go over `config`; the next unlocks when the last is mastered."""
    promote_at: Share = 0.7
    window: Count = 128
    """Problems of the newest level whose mean accuracy decides on promotion."""
    current_share: Share = 0.5
    """Share of training problems taken from the newest level; the rest comes evenly from those before it."""
    styles: StyleConfig | None = None
    """Of documents made from this task, in place of the stage's."""


class RewardConfig(Config):
    accuracy: NonNegative = 1.0
    format: NonNegative = 0.0
    extract: Literal["tags", "boxed", "last_number", "text"] = "tags"


class EvalConfig(Config):
    """Held-out evaluation before, during and after a stage; pass@1 is the mean over samples, as in R1."""

    num_problems: Count = 256
    samples: Count = 8
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between quick evaluations of `quick_problems` with one sample each; 0: only before and after."""
    quick_problems: Count = 128


class OptimConfig(Config):
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_share: Share = 0.1
    """Learning rate of the last step as a share of the peak."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: NonNegative = 0.0
    clip_norm: NonNegative = 1.0
    """Global gradient norm is clipped to this; 0: off."""


class CheckpointConfig(Config):
    every: Annotated[int, Field(ge=0)] = 20
    """Steps between checkpoints; 0: only when interrupted and at the end."""
    keep_last: Count = 2
    keep_best: bool = True
    """Also keep the checkpoint with the best quick evaluation; once the stage is done, its model is stages/STAGE/best, unless
    the last step did as well. Quick evaluations are small: evaluate it in full before you believe it."""


class BudgetConfig(Config):
    """What may be spent; a budget is no part of a run's identity and may be raised when it is resumed."""

    budget_usd: Annotated[Decimal, Field(gt=0)] | None = None
    """At 80% a warning, at 100% a checkpoint and a clean stop (exit code 7)."""
    budget_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours held, idle and set-up included."""
