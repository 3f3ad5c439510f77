"""A recipe file and its overrides -> one typed, complete `Recipe`. Unknown keys fail and name the closest. No torch here.

The order of the tables under [stages] is the order of the run; which stage reads what another makes is in graph.py.
`extends = "name"` starts from another recipe; tables merge, everything else is replaced.
"""

from farthing.config.base import Config
from farthing.config.kinds import AnyStage
from farthing.config.loading import load_recipe, parse_recipe, shipped_recipes
from farthing.config.model import ModelConfig, PromptConfig, ShapeConfig, TokenizerConfig
from farthing.config.parts import (
    BudgetConfig,
    CheckpointConfig,
    EvalConfig,
    OptimConfig,
    RewardConfig,
    TaskConfig,
)
from farthing.config.preference import (
    AlignConfig,
    HackingConfig,
    JudgedConfig,
    PreferenceSource,
    RewardModelConfig,
    ScenarioConfig,
)
from farthing.config.recipe import HardwareConfig, PrecisionChoice, Recipe
from farthing.config.stages import (
    CorpusStageConfig,
    ExpertsConfig,
    GrpoConfig,
    MtpConfig,
    PretrainConfig,
    SftConfig,
    StageConfig,
    StyleConfig,
    TrainConfig,
)

__all__ = [
    "AlignConfig",
    "AnyStage",
    "BudgetConfig",
    "CheckpointConfig",
    "Config",
    "CorpusStageConfig",
    "EvalConfig",
    "ExpertsConfig",
    "GrpoConfig",
    "HackingConfig",
    "HardwareConfig",
    "JudgedConfig",
    "ModelConfig",
    "MtpConfig",
    "OptimConfig",
    "PrecisionChoice",
    "PreferenceSource",
    "PretrainConfig",
    "PromptConfig",
    "Recipe",
    "RewardConfig",
    "RewardModelConfig",
    "ScenarioConfig",
    "SftConfig",
    "ShapeConfig",
    "StageConfig",
    "StyleConfig",
    "TaskConfig",
    "TokenizerConfig",
    "TrainConfig",
    "load_recipe",
    "parse_recipe",
    "shipped_recipes",
]  # fmt: skip
