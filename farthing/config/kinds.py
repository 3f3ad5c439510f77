"""Every kind of stage -> what a table under [stages] may be, told by its `kind`."""

from typing import Annotated

from pydantic import Field

from farthing.config.collecting import ColdStartConfig, RejectionSamplingConfig
from farthing.config.stages import GrpoConfig, PretrainConfig, SftConfig, StageConfig

STAGE_KINDS: tuple[type[StageConfig], ...] = (
    PretrainConfig,
    SftConfig,
    GrpoConfig,
    ColdStartConfig,
    RejectionSamplingConfig,
)

AnyStage = Annotated[
    PretrainConfig | SftConfig | GrpoConfig | ColdStartConfig | RejectionSamplingConfig, Field(discriminator="kind")
]
