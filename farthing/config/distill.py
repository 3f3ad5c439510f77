"""The table of a distill stage: a student learns what a teacher writes, or how it would go on."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from farthing.config.base import SOURCE, Count, NonNegative, Share
from farthing.config.model import ModelConfig
from farthing.config.parts import EvalConfig, RewardConfig, TaskConfig
from farthing.config.stages import FILE_SUFFIX, Leaves, TrainConfig

Method = Literal["sft", "logits", "on_policy"]
USED_BY: dict[str, tuple[Method, ...]] = {
    "data": ("sft", "logits"),
    "epochs": ("sft", "logits"),
    "batch_samples": ("sft", "logits"),
    "too_long": ("sft", "logits"),
    "divergence": ("logits", "on_policy"),
    "beta": ("logits", "on_policy"),
    "top_k": ("logits", "on_policy"),
    "distill_temperature": ("logits", "on_policy"),
    "ce_weight": ("logits",),
    "num_prompts": ("on_policy",),
    "group_size": ("on_policy",),
    "temperature": ("on_policy",),
}
"""Keys that only some methods use; given to another they are an error."""


class DistillConfig(TrainConfig):
    """A student of any architecture learns from a teacher: on its answers (sft, as DeepSeek-R1's students did), on its
    distributions over those answers (logits), or on its distributions over the student's own (on_policy)."""

    kind: Literal["distill"]
    method: Method
    student: ModelConfig | None = None
    """The model to train, with a tokenizer of its own; or `start_from` a stage's model, and leave it out."""
    teacher: str = ""
    """The stage whose model it is, "source", or the path of a Hugging Face folder (with a / in it). `sft` needs none: its
    teacher's answers are the data."""
    data: list[str] = []
    """Stages that leave data.jsonl, and files of samples ("x.jsonl", relative to the recipe's folder); for sft and logits."""
    epochs: NonNegative = 0.0
    """Passes over the data; `num_steps` is then only the most there may be. 0: `num_steps` steps. R1's students: 2 to 3."""
    batch_samples: Count = 64
    """Samples a step, for sft and logits."""
    too_long: Literal["error", "drop"] = "error"
    """What becomes of a sample with more tokens than the model has positions; dropped ones are counted."""
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """forward: KL(teacher || student), reverse: KL(student || teacher), jsd: the generalised Jensen-Shannon divergence.
    on_policy: reverse where it is left out."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of jsd: weight of the teacher in the mean of the two."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Compare the teacher's likeliest tokens, this many, and all others as one; 0: the whole vocabulary."""
    distill_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of both softmaxes that are compared."""
    ce_weight: Share = 0.0
    """Share of the cross-entropy of the data's tokens in the loss; the divergence has the rest. For logits."""
    tasks: list[TaskConfig] = []
    """Problems to evaluate on, and on_policy's prompts; without them there is no evaluation."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    eval: EvalConfig | None = EvalConfig()
    reward: RewardConfig = RewardConfig()
    """How answers are judged: logged, never trained on."""
    max_completion_tokens: Count = 256
    num_prompts: Count = 32
    group_size: Count = 4
    """Completions of each prompt that the student samples."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the student's sampling."""
    stop: list[str] = []
    num_slots: Count = 256
    """Completions in flight at once; bounds the memory of keys and values."""

    def own_model(self) -> ModelConfig | None:
        return self.student

    def needs(self) -> dict[str, Leaves]:
        found: dict[str, Leaves] = {name: "data" for name in self.data if not name.endswith(FILE_SUFFIX)}
        if self.teacher and self.teacher != SOURCE and not self.has_teacher_folder:
            found[self.teacher] = "model"
        return found

    @property
    def has_teacher_folder(self) -> bool:
        """The teacher is a Hugging Face folder, not a model of this run."""
        return "/" in self.teacher

    @property
    def data_files(self) -> list[str]:
        return [name for name in self.data if name.endswith(FILE_SUFFIX)]

    @model_validator(mode="before")
    @classmethod
    def _by_method(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("method") not in ("sft", "logits", "on_policy"):
            return data
        method = data["method"]
        for key, methods in USED_BY.items():
            if key in data and method not in methods and data[key] != cls.model_fields[key].default:
                raise ValueError(f'{key} is of method = "{methods[0]}", not of "{method}"; leave it out, or change the method')
        return {"divergence": "reverse"} | data if method == "on_policy" else data

    @model_validator(mode="after")
    def _whole(self) -> "DistillConfig":
        if bool(self.student) == bool(self.start_from):
            raise ValueError("a distill stage has one student: a table [student], or the model of the stage in `start_from`")
        if self.method != "on_policy" and not self.data:
            raise ValueError(f'method = "{self.method}" learns from `data`: stages that leave data.jsonl, or files of samples')
        if self.method == "on_policy" and not self.tasks:
            raise ValueError('method = "on_policy" needs `tasks`: the student answers their problems')
        has_its_tokenizer = self.student is not None and self.student.tokenizer.kind == "teacher"
        if not self.teacher and (self.method != "sft" or has_its_tokenizer):
            what = "a student with its tokenizer" if self.method == "sft" else f'method = "{self.method}"'
            raise ValueError(f'{what} needs a `teacher`: a stage, "source", or the path of a Hugging Face folder')
        if self.teacher and self.method == "sft" and not has_its_tokenizer:
            raise ValueError('method = "sft" learns from `data` alone; leave `teacher` out, or change the method')
        return self
