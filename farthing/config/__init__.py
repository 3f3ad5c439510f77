"""A recipe file and its overrides -> one typed, complete `Recipe`. Unknown keys fail and name the closest. No torch here.

The order of the tables under [stages] is the order of the run; which stage reads what another makes is in graph.py.
`extends = "name"` starts from another recipe; tables merge, everything else is replaced.
"""

from farthing.config.asked import AskedConfig, EndpointConfig, EndpointPriceConfig, JudgeConfig, PairJudgeConfig, TeacherConfig
from farthing.config.base import Config
from farthing.config.collecting import ColdStartConfig, CollectConfig, ExampleConfig, GeneralConfig, RejectionSamplingConfig
from farthing.config.distill import DistillConfig
from farthing.config.evaluating import EvaluateConfig, SuiteConfig
from farthing.config.kinds import AnyStage, AskingStage
from farthing.config.loading import load_recipe, parse_recipe, shipped_recipes
from farthing.config.model import ModelConfig, PromptConfig, ShapeConfig, TokenizerConfig
from farthing.config.parts import (
    BudgetConfig,
    CheckpointConfig,
    EvalConfig,
    MomentsChoice,
    OptimConfig,
    ReadabilityConfig,
    RewardConfig,
    StyleConfig,
    TaskConfig,
    V3Schedule,
    WsdSchedule,
)
from farthing.config.preference import (
    AlignConfig,
    HackingConfig,
    JudgedConfig,
    PreferenceSource,
    RewardModelConfig,
    ScenarioConfig,
)
from farthing.config.recipe import AcceleratorChoice, HardwareConfig, PrecisionChoice, Recipe
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
    "AcceleratorChoice", "AlignConfig", "AnyStage", "AskedConfig", "AskingStage", "BatchRampConfig", "BudgetConfig",
    "CheckpointConfig", "ColdStartConfig", "CollectConfig", "Config", "CorpusStageConfig", "DistillConfig", "EndpointConfig",
    "EndpointPriceConfig", "EvalConfig", "EvaluateConfig", "ExampleConfig", "ExpertsConfig", "GeneralConfig", "GrpoConfig",
    "HackingConfig", "HardwareConfig", "JudgeConfig", "JudgedConfig", "ModelConfig", "MomentsChoice", "MtpConfig",
    "OptimConfig", "PairJudgeConfig", "PrecisionChoice", "PreferenceSource", "PretrainConfig", "PromptConfig",
    "ReadabilityConfig", "Recipe", "RejectionSamplingConfig", "RewardConfig", "RewardModelConfig", "ScenarioConfig",
    "SftConfig", "ShapeConfig", "StageConfig", "StyleConfig", "SuiteConfig", "TaskConfig", "TeacherConfig", "TokenizerConfig",
    "TrainConfig", "V3Schedule", "WsdSchedule", "load_recipe", "parse_recipe", "shipped_recipes",
]  # fmt: skip
