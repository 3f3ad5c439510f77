"""A recipe -> everything its stages read from outside the run: opened before the first step, and its digests.

A typo in the last stage must not be found after hours of the first, and a file must not change between two attempts.
"""

from pathlib import Path

from farthing.attempt import file_sha256
from farthing.bought import priced
from farthing.config import (
    AlignConfig,
    AskingStage,
    CollectConfig,
    DistillConfig,
    EndpointConfig,
    EvaluateConfig,
    PreferenceSource,
    PretrainConfig,
    Recipe,
    RejectionSamplingConfig,
    RewardConfig,
    RewardModelConfig,
    StageConfig,
    TaskConfig,
)
from farthing.config.recipe import sample_files
from farthing.data.corpora import corpus_digests
from farthing.data.language import require_identifier
from farthing.data.preferences import load_examples
from farthing.data.samples import iter_samples
from farthing.endpoint import read_key
from farthing.errors import DataError, RecipeError
from farthing.models.reward import load_reward_model
from farthing.rerun import TO_RUN, Planned
from farthing.stages.pretrain import window_tokens
from farthing.tasks.spec import parse_spec
from farthing.tasks.stream import ProblemStream


def check_inputs(recipe: Recipe) -> None:
    """Opens every stage's tasks and files. RecipeError or DataError says what is wrong with the first that cannot be used."""
    for name, config in recipe.stages.items():
        _check_files(name, config)
        reward = getattr(config, "reward", None)
        if isinstance(reward, RewardConfig) and reward.identify_language:
            require_identifier()
        if isinstance(config, RewardModelConfig):
            _check_preferences(config, recipe.seed)
        if isinstance(config, AlignConfig):
            _check_prompts(config, recipe.seed)
        if isinstance(config, RejectionSamplingConfig) and config.general and config.general.tasks:
            ProblemStream(config.general.tasks, recipe.seed, config.test_share)
        if isinstance(config, EvaluateConfig):
            for suite in config.suites.values():
                ProblemStream(suite.tasks, recipe.seed, suite.test_share).held_out(suite.num_problems)
        shape = recipe.model_of(name).shape
        if isinstance(config, PretrainConfig) and config.corpus and shape is not None:
            window_tokens(config, shape.max_positions)
        if not isinstance(config, AskingStage | CollectConfig) or not config.tasks:  # it learns from a corpus, or from samples
            continue
        stream = ProblemStream(config.tasks, recipe.seed, config.test_share)
        if isinstance(config, AskingStage) and config.eval is not None:
            stream.held_out(config.eval.num_problems)
        if shape is not None and config.max_completion_tokens >= shape.max_positions:
            raise RecipeError(
                f"{name}.max_completion_tokens = {config.max_completion_tokens} leaves no room for a prompt in the model's "
                f"{shape.max_positions} positions; lower it or raise shape.max_positions"
            )


def check_helpers(recipe: Recipe, plan: list[Planned]) -> None:
    """Keys and prices of the endpoints that the stages to come will ask: PriceError or RecipeError where one is missing."""
    for endpoint in who_asks(recipe, plan).values():
        read_key(endpoint)
        priced(endpoint)


def who_asks(recipe: Recipe, plan: list[Planned]) -> dict[tuple[str, str], EndpointConfig]:
    """(stage, role of its helper) -> the endpoint that will be asked, of the stages to come."""
    to_run = [planned.name for planned in plan if planned.action in TO_RUN]
    asked = {(name, role): helper for name in to_run for role, helper in recipe.stages[name].helpers.items()}
    return {who: helper.endpoint for who, helper in asked.items() if helper.endpoint is not None}


def _check_files(name: str, config: StageConfig) -> None:
    for file in map(Path, sample_files(config)):
        if not file.is_file():
            raise DataError(f"{name} names {file}, and there is no such file; correct the path, or make the file first")
        for _ in iter_samples(file):
            pass  # for its error: a bad line must not be met hours later
    for folder in model_folders(config):
        if not (folder / "config.json").is_file():
            raise RecipeError(
                f"{name} names {str(folder)!r}, which is no Hugging Face folder: it has no config.json. Correct the path (it "
                "needs a / in it), or name a stage of the recipe"
            )


def _check_preferences(config: RewardModelConfig, seed: int) -> None:
    load_examples(config, seed)
    if config.judged is not None:
        ProblemStream(config.judged.tasks, seed, config.test_share).held_out(1)


def _check_prompts(config: AlignConfig, seed: int) -> None:
    for prompts in config.prompts.values():
        stream = ProblemStream(prompts.tasks, seed, config.test_share)
        if config.eval is not None:
            stream.held_out(config.eval.num_problems)
        if prompts.stage is None:
            load_reward_model(Path(prompts.reward_model))


# what is read from where ---------------------------------------------------------------------------------------------------


def named_tasks(config: StageConfig) -> list[TaskConfig | PreferenceSource]:
    """Every task and source that a stage names."""
    found: list[TaskConfig | PreferenceSource] = []
    if isinstance(config, AskingStage | CollectConfig):
        found += config.tasks
    if isinstance(config, AlignConfig):
        found += [task for prompts in config.prompts.values() for task in prompts.tasks]
    if isinstance(config, RewardModelConfig):
        found += [*config.data, *(config.judged.tasks if config.judged else [])]
    if isinstance(config, EvaluateConfig):
        found += [task for suite in config.suites.values() for task in suite.tasks]
    if isinstance(config, RejectionSamplingConfig) and config.general is not None:
        found += config.general.tasks
    return found


def model_folders(config: StageConfig) -> list[Path]:
    """Every model folder from elsewhere."""
    found = [Path(asked.model) for asked in config.helpers.values() if asked.is_folder]
    if isinstance(config, AlignConfig):
        found += [Path(prompts.reward_model) for prompts in config.prompts.values() if prompts.stage is None]
    if isinstance(config, DistillConfig) and config.has_teacher_folder:
        found.append(Path(config.teacher))
    return found


def input_digests(recipe: Recipe) -> dict[str, str]:
    """sha256 of every file that the stages read, of models from elsewhere, and of the corpora and the tokenizers."""
    stages = list(recipe.stages.values())
    specs = [parse_spec(task.spec, task.config) for config in stages for task in named_tasks(config)]
    paths = {Path(spec.name) for spec in specs if spec.source == "jsonl"}
    paths |= {Path(file) for config in stages for file in sample_files(config)}
    models = [recipe.model, *(own for config in stages if (own := config.own_model()) is not None)]
    folders = [folder for config in stages for folder in model_folders(config)]
    folders += [Path(m.source) for m in models if m.is_folder]
    paths |= {path for folder in folders for path in folder.glob("*") if path.suffix in (".json", ".safetensors", ".jinja")}
    paths |= {Path(m.tokenizer.folder) / "tokenizer.json" for m in models if m.tokenizer.folder}
    corpora = {Path(p) for c in stages if isinstance(c, PretrainConfig) for p in c.corpus}
    corpora |= {Path(p) for m in models for p in m.tokenizer.corpus}
    digests = {str(path): file_sha256(path) for path in sorted(paths) if path.is_file()}
    return digests | corpus_digests(sorted(corpora))
