"""The table of an `evaluate` stage: which models, on which suites of held-out problems."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from farthing.config.base import SOURCE, Config, Count, Name, NonNegative
from farthing.config.parts import RewardConfig, TaskConfig
from farthing.config.stages import Leaves, StageConfig


class SuiteConfig(Config):
    """Held-out problems that every model of the table is asked, with the same luck."""

    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    num_problems: Count = 256
    samples: Count = 4
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_completion_tokens: Count
    stop: list[str] = []
    reward: RewardConfig = RewardConfig()
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Must be that of the stages trained on the same tasks: what is held out is told apart by it."""


class EvaluateConfig(StageConfig):
    """Every model of `models` on every suite, as in the paper's table of Dev1, Dev2 and Dev3 (arXiv:2501.12948, table 3)."""

    leaves: ClassVar[Leaves] = "table"
    kind: Literal["evaluate"]
    purpose: Literal["train", "data", "experiment"] = "experiment"
    models: Annotated[list[str], Field(min_length=1)]
    """Stages that leave a model, or "source"."""
    suites: Annotated[dict[Name, SuiteConfig], Field(min_length=1)]
    num_slots: Count = 256
    num_steps: Count = 1
    """Follows: one step for each model on each suite."""

    @model_validator(mode="before")
    @classmethod
    def _what_follows(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("models"), list) and isinstance(data.get("suites"), dict):
            first = {"start_from": data["models"][0]} if data["models"] else {}
            return data | {"num_steps": max(1, len(data["models"]) * len(data["suites"]))} | first
        return data

    def needs(self) -> dict[str, Leaves]:
        return {name: "model" for name in self.models if name != SOURCE}
