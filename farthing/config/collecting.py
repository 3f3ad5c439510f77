"""The tables of stages that collect samples from a model: cold_start and rejection_sampling."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from farthing.config.asked import AskedConfig, JudgeConfig, TeacherConfig
from farthing.config.base import Config, Count
from farthing.config.parts import RewardConfig, TaskConfig
from farthing.config.stages import Leaves, StageConfig


class ExampleConfig(Config):
    """A question with a whole completion, tags included, to show what is wanted."""

    question: str
    completion: str


class CollectConfig(StageConfig):
    """What stages that sample and filter share. Only what is right, readable and new is kept."""

    leaves: ClassVar[Leaves] = "data"
    purpose: Literal["train", "data", "experiment"] = "data"
    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    reward: RewardConfig = RewardConfig()
    """How completions are read, checked and found readable; its weights do not matter here."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    num_samples: Annotated[int, Field(ge=0)] = 0
    """Stop when so many are kept; 0: when num_steps are over."""
    num_prompts: Count = 32
    """Problems a step."""
    group_size: Count = 4
    """Completions of each."""
    keep_per_problem: Count = 1
    well_formed: bool = False
    """Keep only what reward.format pays for: one chain in <think> tags, one answer in <answer> tags, and nothing else."""
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Completions of a group that share this much of their 5-grams (Jaccard) count as one; 1: exact repeats only, which are
    found in all that the stage has kept."""
    max_completion_tokens: Count
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stop: list[str] = []
    num_slots: Count = 256

    @property
    def most_samples(self) -> int:
        """How many it can leave at most."""
        return self.num_samples or self.num_steps * self.num_prompts * min(self.group_size, self.keep_per_problem)


class ColdStartConfig(CollectConfig):
    """Readable long chains out of R1-Zero's, to fine-tune on first."""

    kind: Literal["cold_start"]
    examples: list[ExampleConfig] = []
    """Shown before every question (few-shot); empty: none."""
    teacher: TeacherConfig | None = None

    @property
    def helpers(self) -> dict[str, AskedConfig]:
        return {"teacher": self.teacher} if self.teacher else {}


class GeneralConfig(Config):
    """Samples that are no reasoning, joined in a fixed proportion. Files come first, each line once; then tasks."""

    files: list[str] = []
    """JSONL files of samples."""
    tasks: list[TaskConfig] = []
    """Their gold answers become completions."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Of all samples; the paper: 200K of 800K."""
    chain: str = ""
    """What stands between <think> and </think> of a task's completion: nothing, or a short sentence."""

    @model_validator(mode="after")
    def _has_a_source(self) -> "GeneralConfig":
        if not self.files and not self.tasks:
            raise ValueError("general samples need `files` or `tasks`; or leave the table out")
        return self


class RejectionSamplingConfig(CollectConfig):
    """Many completions of each problem by the RL checkpoint; the good ones, joined with general samples."""

    kind: Literal["rejection_sampling"]
    group_size: Count = 8
    judge: JudgeConfig | None = None
    general: GeneralConfig | None = None

    @property
    def helpers(self) -> dict[str, AskedConfig]:
        return {"judge": self.judge} if self.judge else {}

    @model_validator(mode="after")
    def _judge_meets_its_tasks(self) -> "RejectionSamplingConfig":
        specs = [task.spec.partition("?")[0] for task in self.tasks]
        for judged in self.judge.instead_of_rules if self.judge else []:
            if not any(spec.startswith(judged) for spec in specs):
                raise ValueError(
                    f"judge.instead_of_rules names {judged!r}, and no task of this stage begins so: {', '.join(specs)}; give "
                    "SOURCE:NAME, without what follows a ?"
                )
        return self

    @property
    def most_samples(self) -> int:
        reasoning = super().most_samples
        return reasoning if self.num_samples or not self.general else int(reasoning / (1 - self.general.share))
