"""A recipe file and its overrides -> one typed, complete `Recipe`. Unknown keys fail and name the closest. No torch here.

The order of the tables under [stages] is the order of the run; which stage reads what another makes is in graph.py.
`extends = "name"` starts from another recipe; tables merge, everything else is replaced.
"""

from farthing.config.base import Config
from farthing.config.evaluating import EvaluateConfig, SuiteConfig
from farthing.config.kinds import AnyStage
from farthing.config.loading import load_recipe, parse_recipe, shipped_recipes
from farthing.config.model import ModelConfig, PromptConfig, ShapeConfig, TokenizerConfig
from farthing.config.parts import (
    BudgetConfig,
    CheckpointConfig,
    EvalConfig,
    MomentsChoice,
    OptimConfig,
    RewardConfig,
    StyleConfig,
    TaskConfig,
    V3Schedule,
    WsdSchedule,
)
from farthing.config.recipe import HardwareConfig, PrecisionChoice, Recipe
from farthing.config.stages import (
    BatchRampConfig,
    CorpusStageConfig,
    ExpertsConfig,
    GrpoConfig,
    MtpConfig,
    PretrainConfig,
    SftConfig,
    StageConfig,
    TrainConfig,
)

__all__ = [
    "AnyStage", "BatchRampConfig", "BudgetConfig", "CheckpointConfig", "Config", "CorpusStageConfig", "EvalConfig",
    "EvaluateConfig", "ExpertsConfig", "GrpoConfig", "HardwareConfig", "ModelConfig", "MomentsChoice", "MtpConfig",
    "OptimConfig", "PrecisionChoice", "PretrainConfig", "PromptConfig", "Recipe", "RewardConfig", "SftConfig", "ShapeConfig",
    "StageConfig", "StyleConfig", "SuiteConfig", "TaskConfig", "TokenizerConfig", "TrainConfig", "V3Schedule", "WsdSchedule",
    "load_recipe", "parse_recipe", "shipped_recipes",
]  # fmt: skip
