"""The tables under [stages], one class for every kind of stage."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from farthing.config.asked import AskedConfig
from farthing.config.base import SOURCE, Config, Count, NonNegative, Share
from farthing.config.model import ModelConfig
from farthing.config.parts import BudgetConfig, CheckpointConfig, EvalConfig, OptimConfig, RewardConfig, StyleConfig, TaskConfig
from farthing.reflection import REFLECTION_WORDS

Leaves = Literal["model", "reward_model", "data", "table"]
FILE_SUFFIX = ".jsonl"
"""What tells a file of samples from the name of a stage, in `data`."""
Word = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=1)]


class StageConfig(BudgetConfig):
    """What every stage has."""

    not_decisive: ClassVar[tuple[str, ...]] = ("budget_usd", "budget_hours", "purpose", "checkpoint", "reflection_words")
    leaves: ClassVar[Leaves] = "model"
    """What the stage leaves behind for others to read."""

    start_from: str = ""
    """Stage whose model this one starts from, or "source", the recipe's [model]. Empty: the nearest stage above that leaves a
    model, else "source"."""
    purpose: Literal["train", "data", "experiment"] = "train"
    """What its time counts as on the bill."""
    num_steps: Count
    checkpoint: CheckpointConfig = CheckpointConfig()

    def own_model(self) -> ModelConfig | None:
        """What this stage starts from where its own table describes a model: neither another stage's nor the recipe's."""
        return None

    @property
    def helpers(self) -> Mapping[str, AskedConfig]:
        """Role -> model that this stage asks for help."""
        return {}

    def needs(self) -> dict[str, Leaves]:
        """Stages whose artefacts this one reads besides the model it starts from, and what each of them must leave."""
        models = (asked.model for asked in self.helpers.values() if asked.model and not asked.is_folder)
        return {name: "model" for name in models if name != SOURCE}

    def work(self, step: int) -> float:
        """How much a step has to do, beside other steps of the stage: what times and costs to come are in proportion to."""
        return 1.0

    def reads(self) -> list[str]:
        """Stages whose artefacts this one reads besides the model it starts from."""
        return list(self.needs())

    def check_inputs(self, stages: Mapping[str, "StageConfig"]) -> None:
        """ValueError where one of the stages it reads does not leave what it needs."""


class TrainConfig(StageConfig):
    """A stage that changes weights."""

    optim: OptimConfig
    max_microbatch_tokens: Count = 8192
    """Tokens, padding included, in one forward pass."""
    recompute_activations: bool = False

    @model_validator(mode="after")
    def _warm_up_ends_before_the_decay(self) -> "TrainConfig":
        decay_from = self.optim.decay_from(self.num_steps)
        if self.optim.warmup_steps > decay_from:
            raise ValueError(
                f"optim.warmup_steps ({self.optim.warmup_steps}) must end before schedule {self.optim.schedule!r} falls, at "
                f"step {decay_from} of {self.num_steps}; lower it, or raise optim.{self.optim.schedule}.decay_from"
            )
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
    """Of a step: documents, or windows of a corpus."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    eval: EvalConfig | None = None
    max_completion_tokens: Count = 256
    """For the evaluation's completions."""
    reward: RewardConfig = RewardConfig()
    experts: ExpertsConfig = ExpertsConfig()
    """For models with a mixture of experts."""
    mtp: MtpConfig = MtpConfig()
    """For models with multi-token prediction."""

    def documents(self, step: int) -> int:
        """What a step takes: documents, or windows of a corpus."""
        return self.batch_documents


class BatchRampConfig(Config):
    """Steps that grow evenly, from `start` documents to `batch_documents` at step `steps`. V3: 3,072 to 15,360 sequences."""

    start: Count
    """Documents of the first step."""
    steps: Count
    """The step, from 0, that is the first of full size."""


class PretrainConfig(CorpusStageConfig):
    kind: Literal["pretrain"]
    tasks: list[TaskConfig] = []
    corpus: list[str] = []
    """Instead of tasks: built corpora (`farthing data build`), JSONL or text files. A step takes `batch_documents` windows,
    each packed with whole documents; `test_share` of the documents, by their content, is held out."""
    window_tokens: Annotated[int, Field(ge=2)] | None = None
    """Of a corpus: most tokens of a window; left out, the model's max_positions. A longer document is parted."""
    batch_ramp: BatchRampConfig | None = None
    """Smaller steps at first: `{ start, steps }`."""
    fim_rate: Share = 0.0
    """Of a corpus: share of the training documents that become fill-in-the-middle, prefix, suffix, middle; V3: 0.1."""
    held_out_documents: Count = 256
    """Of a corpus: for the loss in bits per byte, at the end and every `held_out_every` steps."""
    held_out_every: Annotated[int, Field(ge=0)] = 0
    """Of a corpus: steps between evaluations of the held-out loss; 0: only at the end."""
    model: ModelConfig | None = None
    """In place of the recipe's [model]: a recipe may pretrain several, such as a teacher and its student."""

    def own_model(self) -> ModelConfig | None:
        return self.model

    @model_validator(mode="after")
    def _one_origin(self) -> "PretrainConfig":
        if bool(self.tasks) == bool(self.corpus):
            raise ValueError("a pretrain stage has either `tasks` or `corpus`")
        if self.corpus and self.eval is not None:
            raise ValueError("`eval` asks problems of tasks; with `corpus` the held-out loss is the measure. Leave it out")
        alone = {"window_tokens": self.window_tokens, "fim_rate": self.fim_rate, "held_out_every": self.held_out_every}
        if self.tasks and (wrong := [name for name, value in alone.items() if value]):
            raise ValueError(f"{', '.join(wrong)} belongs to a `corpus`, and this stage has `tasks`. Leave it out")
        return self

    @model_validator(mode="after")
    def _ramp_fits(self) -> "PretrainConfig":
        ramp = self.batch_ramp
        if ramp is not None and (ramp.start >= self.batch_documents or ramp.steps > self.num_steps):
            raise ValueError(
                f"batch_ramp.start ({ramp.start}) must be below batch_documents ({self.batch_documents}), which it grows to, "
                f"and batch_ramp.steps ({ramp.steps}) at most num_steps ({self.num_steps})"
            )
        return self

    def documents(self, step: int) -> int:
        ramp = self.batch_ramp
        if ramp is None or step >= ramp.steps:
            return self.batch_documents
        return ramp.start + (self.batch_documents - ramp.start) * step // ramp.steps

    def work(self, step: int) -> float:
        return float(self.documents(step))


class SftConfig(CorpusStageConfig):
    """Fine-tuning on whole completions: documents made from `tasks`, or the samples that other stages and files hold."""

    kind: Literal["sft"]
    tasks: list[TaskConfig] = []
    """Documents to train on; with `data`, only whose held-out problems `eval` asks."""
    data: list[str] = []
    """Stages that leave data.jsonl (cold_start, rejection_sampling), and files of samples ("x.jsonl", relative to the recipe's
    folder). A step takes `batch_documents` of their samples."""
    epochs: NonNegative = 0.0
    """Passes over the data, each in an order of its own; `num_steps` is then only the most there may be. 0: `num_steps` steps.
    R1: 2 to 3."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Of the questions in `data`, by their content: for the held-out loss (of at most 256 samples), every `held_out_every`
    steps and at the end."""
    held_out_every: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations of the held-out loss; 0: only at the end."""
    too_long: Literal["error", "drop"] = "error"
    """What becomes of a sample with more tokens than the model has positions; dropped ones are counted."""
    experts: ExpertsConfig = ExpertsConfig(balance_speed=0)

    def needs(self) -> dict[str, Leaves]:
        return {name: "data" for name in self.data if not name.endswith(FILE_SUFFIX)}

    @property
    def data_files(self) -> list[str]:
        return [name for name in self.data if name.endswith(FILE_SUFFIX)]

    @model_validator(mode="after")
    def _has_something_to_learn(self) -> "SftConfig":
        if not self.tasks and not self.data:
            raise ValueError("an sft stage has `tasks`, whose documents it learns, or `data`: stages and files of samples")
        if self.data and self.eval is not None and not self.tasks:
            raise ValueError(
                "`eval` asks held-out problems of `tasks`, and this stage has `data` alone; give tasks, or no eval"
            )
        if not self.data and (self.epochs or self.held_out_every):
            raise ValueError("epochs and held_out_every belong to `data`: tasks never end. Leave them out")
        return self


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
    reflection_words: list[Word] = list(REFLECTION_WORDS)
    """Self-verification words whose number in a completion is logged as `reflection`; they change no weight."""

    @model_validator(mode="after")
    def _minibatches_fit(self) -> "GrpoConfig":
        num_rollouts = self.num_prompts * self.group_size
        if num_rollouts % self.num_minibatches:
            raise ValueError(f"num_minibatches ({self.num_minibatches}) must divide num_prompts * group_size = {num_rollouts}")
        if self.overlong_buffer >= self.max_completion_tokens:
            raise ValueError("overlong_buffer must be smaller than max_completion_tokens")
        return self
