"""The tables under [stages], one class for every kind of stage."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from farthing.config.base import Config, Count, NonNegative, Share
from farthing.config.parts import BudgetConfig, CheckpointConfig, EvalConfig, OptimConfig, RewardConfig, TaskConfig

Leaves = Literal["model", "reward_model", "data", "table"]


class StageConfig(BudgetConfig):
    """What every stage has."""

    leaves: ClassVar[Leaves] = "model"
    """What the stage leaves behind for others to read."""

    start_from: str = ""
    """Stage whose model this one starts from, or "source", the recipe's [model]. Empty: the nearest stage above that leaves a
    model, else "source"."""
    purpose: Literal["train", "data", "experiment"] = "train"
    """What its time counts as on the bill."""
    num_steps: Count
    checkpoint: CheckpointConfig = CheckpointConfig()

    def reads(self) -> list[str]:
        """Stages whose artefacts this one reads besides the model it starts from."""
        return []

    def check_inputs(self, stages: Mapping[str, "StageConfig"]) -> None:
        """ValueError where one of the stages it reads does not leave what it needs."""


class TrainConfig(StageConfig):
    """A stage that changes weights."""

    optim: OptimConfig
    max_microbatch_tokens: Count = 8192
    """Tokens, padding included, in one forward pass."""
    recompute_activations: bool = False


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


class ExpertsConfig(Config):
    """How the load of a mixture of experts is kept even; the defaults are DeepSeek-V3's."""

    balance_speed: NonNegative = 0.001
    """How far every expert's bias moves at each step; 0: frozen."""
    freeze_from: Share = 0.966
    """Share of the steps after which the biases are frozen; V3: after 14.3 of 14.8 trillion tokens."""
    balance_coef: NonNegative = 1e-4
    """Weight of the sequence-wise balance loss; 0: off."""


class MtpConfig(Config):
    """Weight of multi-token prediction in the loss; the defaults are DeepSeek-V3's."""

    weight: NonNegative = 0.3
    later_weight: NonNegative = 0.1
    later_from: Share = 0.676
    """Share of the steps after which `later_weight` holds; V3: after 10 of 14.8 trillion tokens."""


class CorpusStageConfig(TrainConfig):
    """What pretrain and sft share: documents made of a question and a completion."""

    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    styles: StyleConfig = StyleConfig()
    batch_documents: Count = 64
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    eval: EvalConfig | None = None
    max_completion_tokens: Count = 256
    """For the evaluation's completions."""
    reward: RewardConfig = RewardConfig()
    experts: ExpertsConfig = ExpertsConfig()
    """For models with a mixture of experts."""
    mtp: MtpConfig = MtpConfig()
    """For models with multi-token prediction."""


class PretrainConfig(CorpusStageConfig):
    kind: Literal["pretrain"]
    tasks: list[TaskConfig] = []
    corpus: list[str] = []
    """Instead of tasks: built corpora (`farthing data build`), JSONL or text files. A step takes `batch_documents` windows of
    at most model.shape.max_positions tokens; `test_share` of the documents, by their content, is held out."""
    held_out_documents: Count = 256
    """Of a corpus: for the loss in bits per byte at the end."""

    @model_validator(mode="after")
    def _one_origin(self) -> "PretrainConfig":
        if bool(self.tasks) == bool(self.corpus):
            raise ValueError("a pretrain stage has either `tasks` or `corpus`")
        if self.corpus and self.eval is not None:
            raise ValueError("`eval` asks problems of tasks; with `corpus` the held-out loss is the measure. Leave it out")
        return self


class SftConfig(CorpusStageConfig):
    kind: Literal["sft"]
    experts: ExpertsConfig = ExpertsConfig(balance_speed=0)


class GrpoConfig(TrainConfig):
    """R1-Zero's reinforcement learning; the defaults follow the paper where a size does not matter."""

    kind: Literal["grpo"]
    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    reward: RewardConfig = RewardConfig(accuracy=1.0, format=0.1)
    eval: EvalConfig | None = EvalConfig()
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    num_prompts: Count = 32
    group_size: Annotated[int, Field(ge=2)] = 16
    num_minibatches: Count = 1
    """Optimizer steps per rollout batch (one inner epoch)."""
    max_completion_tokens: Count
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stop: list[str] = []
    num_slots: Count = 256
    """Completions in flight at once; bounds the memory of keys and values."""
    loss: Literal["grpo", "gspo", "cispo"] = "grpo"
    normalizer: Literal["token", "sequence", "constant"] = "token"
    advantage: Literal["grpo", "mean_only", "rloo"] = "grpo"
    clip_eps_low: NonNegative = 0.2
    clip_eps_high: NonNegative = 0.2
    kl_coef: NonNegative = 0.0
    reference_every: Annotated[int, Field(ge=0)] = 0
    """Steps after which the policy becomes the new reference; 0: never. R1: 400."""
    tis_cap: NonNegative = 0.0
    """Truncated importance sampling between trainer and engine; 0: off."""
    old_logprobs: Literal["rollout", "recompute"] = "recompute"
    """With several minibatches: take the engine's logprobs as the old ones, or compute them with the trainer."""
    dynamic_sampling: Annotated[int, Field(ge=0)] = 0
    """DAPO: replace groups without signal by new prompts, at most this many times a step; 0: off."""
    overlong_buffer: Annotated[int, Field(ge=0)] = 0
    """DAPO: tokens before the limit over which a length penalty rises to 1; 0: off."""

    @model_validator(mode="after")
    def _minibatches_fit(self) -> "GrpoConfig":
        num_rollouts = self.num_prompts * self.group_size
        if num_rollouts % self.num_minibatches:
            raise ValueError(f"num_minibatches ({self.num_minibatches}) must divide num_prompts * group_size = {num_rollouts}")
        if self.overlong_buffer >= self.max_completion_tokens:
            raise ValueError("overlong_buffer must be smaller than max_completion_tokens")
        return self
