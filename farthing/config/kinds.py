"""Every kind of stage there is: the union that the tables under [stages] are read as."""

from typing import Annotated

from pydantic import Field

from farthing.config.collecting import ColdStartConfig, RejectionSamplingConfig
from farthing.config.distill import DistillConfig
from farthing.config.evaluating import EvaluateConfig
from farthing.config.preference import AlignConfig, RewardModelConfig
from farthing.config.stages import CorpusStageConfig, GrpoConfig, PretrainConfig, SftConfig, StageConfig

STAGE_KINDS: tuple[type[StageConfig], ...] = (
    PretrainConfig, SftConfig, GrpoConfig, ColdStartConfig, RejectionSamplingConfig, RewardModelConfig, AlignConfig,
    DistillConfig, EvaluateConfig,
)  # fmt: skip

AnyStage = Annotated[
    PretrainConfig
    | SftConfig
    | GrpoConfig
    | ColdStartConfig
    | RejectionSamplingConfig
    | RewardModelConfig
    | AlignConfig
    | DistillConfig
    | EvaluateConfig,
    Field(discriminator="kind"),
]

AskingStage = CorpusStageConfig | GrpoConfig | DistillConfig
"""Stages that ask problems of tasks and reward the answers, at least to evaluate; for isinstance."""
