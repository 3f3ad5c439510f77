"""Every kind of stage there is: the union that the tables under [stages] are read as."""

from typing import Annotated

from pydantic import Field

from farthing.config.preference import AlignConfig, RewardModelConfig
from farthing.config.stages import GrpoConfig, PretrainConfig, SftConfig, StageConfig

STAGE_KINDS: tuple[type[StageConfig], ...] = (PretrainConfig, SftConfig, GrpoConfig, RewardModelConfig, AlignConfig)

AnyStage = Annotated[
    PretrainConfig | SftConfig | GrpoConfig | RewardModelConfig | AlignConfig,
    Field(discriminator="kind"),
]
