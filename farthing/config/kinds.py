"""Every kind of stage there is -> the union that a recipe's [stages] are read as."""

from typing import Annotated

from pydantic import Field

from farthing.config.distill import DistillConfig
from farthing.config.stages import CorpusStageConfig, GrpoConfig, PretrainConfig, SftConfig, StageConfig

STAGE_KINDS: tuple[type[StageConfig], ...] = (PretrainConfig, SftConfig, GrpoConfig, DistillConfig)

AnyStage = Annotated[PretrainConfig | SftConfig | GrpoConfig | DistillConfig, Field(discriminator="kind")]

AskingStage = CorpusStageConfig | GrpoConfig | DistillConfig
"""Stages that ask problems of tasks and reward the answers, at least to evaluate; for isinstance."""
