"""A MODEL argument and tasks -> an `EvalResult`: what `farthing eval` runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from farthing.artefact import Artefact, open_artefact
from farthing.config import AcceleratorChoice, AskingStage, RewardConfig, TaskConfig
from farthing.engine.sampler import SamplingParams
from farthing.errors import RecipeError
from farthing.eval.evaluate import EvalResult, evaluate
from farthing.tasks.stream import ProblemStream

DEFAULT_MAX_TOKENS = 128
DEFAULT_TEST_SHARE = 0.1


def evaluate_model(
    path: Path,
    tasks: Sequence[TaskConfig],
    num: int,
    samples: int,
    temperature: float,
    top_p: float,
    max_tokens: int | None,
    extract: str | None,
    seed: int,
    accelerator: AcceleratorChoice = "auto",
) -> EvalResult:
    """What is not given comes from the run the model is from, and has defaults where it is from none."""
    artefact = open_artefact(path, accelerator)
    stage = _stage_of(artefact)
    if not tasks and (stage is None or not stage.tasks):
        why = "comes from no run" if stage is None else "was trained without tasks"
        raise RecipeError(f"{path} {why}, so --task is needed; for example --task gym:chain_sum")
    reward = stage.reward if stage else RewardConfig()
    modes = get_args(RewardConfig.model_fields["extract"].annotation)
    if extract is not None:
        if extract not in modes:
            raise RecipeError(f"--extract takes one of {', '.join(modes)}, got {extract!r}")
        reward = reward.model_copy(update={"extract": extract})
    test_share = stage.test_share if stage else DEFAULT_TEST_SHARE
    stream = ProblemStream(list(tasks) or (stage.tasks if stage else []), seed=0, test_share=test_share)
    limit = max_tokens or (stage.max_completion_tokens if stage else DEFAULT_MAX_TOKENS)
    stop: list[str] = getattr(stage, "stop", [])
    params = SamplingParams(temperature, top_p, 0, limit, tuple(stop))
    problems = stream.held_out(num)
    return evaluate(artefact.engine(), artefact.renderer, problems, reward, params, samples, seed).result


def _stage_of(artefact: Artefact) -> AskingStage | None:
    if artefact.recipe is None or artefact.stage is None:
        return None
    config: Any = artefact.recipe.stages[artefact.stage]
    return config if isinstance(config, AskingStage) else None
