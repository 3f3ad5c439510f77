"""A whole recipe, complete, and its digest."""

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from farthing.config.base import SOURCE, Config, Count, Name
from farthing.config.collecting import RejectionSamplingConfig
from farthing.config.distill import DistillConfig
from farthing.config.evaluating import EvaluateConfig
from farthing.config.graph import OWN, check_graph, decisive, model_input, stage_keys
from farthing.config.kinds import AnyStage, AskingStage
from farthing.config.model import ModelConfig, PromptConfig
from farthing.config.parts import BudgetConfig, TaskConfig
from farthing.config.preference import AlignConfig, PreferenceSource
from farthing.config.stages import SftConfig, StageConfig
from farthing.models.shape import ModelShape

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp8"]
AcceleratorChoice = Literal["auto", "cpu", "cuda", "mps"]
LOCAL_CPU = "local-cpu"
"""Price of the machine farthing runs on, without any GPU."""


class HardwareConfig(Config):
    """For pricing a recipe that does not run here; `device` names its price."""

    num_devices: Count
    peak_tflops: Annotated[float, Field(gt=0)]
    """Dense bf16, of one device."""
    bandwidth_gb_s: Annotated[float, Field(gt=0)]
    source: str
    prompt_tokens: Count = 128
    """Mean length of a prompt."""


class HeldOut(NamedTuple):
    """Problems that models are asked and none may have learnt."""

    tasks: list[TaskConfig]
    test_share: float
    num_problems: int

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "tasks": [task.model_dump(mode="json") for task in self.tasks]}


class Recipe(BudgetConfig):
    """A whole run, complete: what `farthing run --dry-run` prints and the run directory keeps."""

    name: str
    description: str = ""
    expect: str = ""
    """What to expect: figure, time, machine."""
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0: OMP_NUM_THREADS where it is set, else one for each physical core."""
    precision: PrecisionChoice = "auto"
    """Of weights in compute; masters are fp32 always. auto: bf16 where the hardware is faster at it. fp8: linear layers
    multiply as in DeepSeek-V3's training, all else is as with auto; emulated, and slower, where the hardware has none."""
    accelerator: AcceleratorChoice = "auto"
    """What computes. auto: a CUDA GPU where there is one and `device` is not "local-cpu", else the CPU; never mps (Apple)."""
    device: str = LOCAL_CPU
    """Key of the price book's record for what the run holds; a GPU needs its own, such as "h100-80gb"."""
    storage: str = "storage/local-disk"
    """Key of the price book's record for what keeps the run directory, by the GB-month."""
    project: str = ""
    """Folder of the project whose account this run is on; see `farthing project`."""
    runnable: bool = True
    """False: a published setting to dry-run and price, too big for an ordinary machine."""
    model: ModelConfig
    prompt: PromptConfig = PromptConfig()
    hardware: HardwareConfig | None = None
    planned_shape: ModelShape | None = None
    """The model's shape where its weights are not at hand."""
    stages: Annotated[dict[Name, AnyStage], Field(min_length=1)]

    @model_validator(mode="after")
    def _gpu_has_its_price(self) -> "Recipe":
        if self.accelerator == "cuda" and self.device == LOCAL_CPU:
            raise ValueError(
                f'accelerator = "cuda" with device = "{LOCAL_CPU}" would charge a GPU as a laptop; set device to the key of '
                "its price, such as h100-80gb (`farthing prices` lists them; your own go into prices.toml)"
            )
        return self

    @model_validator(mode="after")
    def _stages_fit_together(self) -> "Recipe":
        check_graph(self.stages)
        tables = {"model": self.model} | {f"stages.{name}.model": getattr(c, "model", None) for name, c in self.stages.items()}
        for place, table in tables.items():
            if table is not None and table.tokenizer.kind == "teacher":
                raise ValueError(f'{place}.tokenizer: kind = "teacher" is for the student of a distill stage')
        return self

    @model_validator(mode="after")
    def _one_share_for_each_task(self) -> "Recipe":
        first: dict[str, tuple[str, float]] = {}
        for name, config in self.stages.items():
            for task, share in held_out_shares(config):
                other, before = first.setdefault(task, (name, share))
                if share != before:
                    raise ValueError(
                        f"stages {other!r} and {name!r} hold out {before:g} and {share:g} of {task}: what the one holds out "
                        "the other trains on, so that held-out accuracy would be none; give both (and their suites) the same "
                        "test_share"
                    )
        return self

    def origin_of(self, stage: str) -> str:
        """The stage whose table describes the model that `stage` works on, many stages before it perhaps; SOURCE: [model]."""
        while stage != SOURCE and (start := model_input(self.stages, stage)) != OWN:
            stage = start
        return stage

    def model_of(self, stage: str) -> ModelConfig:
        """The table that describes the model that `stage` works on."""
        origin = self.origin_of(stage)
        own = None if origin == SOURCE else self.stages[origin].own_model()
        return own or self.model

    def digest(self) -> str:
        """sha256 of the canonical JSON of everything that decides the result; words for people and money are left out."""
        content = self.common() | {"stages": {name: decisive(config) for name, config in self.stages.items()}}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def common(self) -> dict[str, Any]:
        """What decides every stage's result alike."""
        return self.model_dump(
            mode="json", exclude={"description", "expect", "storage", "project", "stages", "budget_usd", "budget_hours"}
        )

    def keys(self) -> dict[str, str]:
        """Stage -> the key that names what it makes; see graph.py."""
        return stage_keys(self.stages, self.common(), {name: self.also_decides(name) for name in self.stages})

    def also_decides(self, stage: str) -> dict[str, Any]:
        """What decides a stage's result beside its own table: of one that learns samples, where files of samples come in, all
        that the recipe evaluates on, for samples of such questions are left out. Stages' own samples are of other problems."""
        config = self.stages[stage]
        learns_samples = isinstance(config, SftConfig | DistillConfig) and config.data
        if not learns_samples or not any(sample_files(other) for other in self.stages.values()):
            return {}
        return {"evaluations": [evaluation.to_json() for evaluation in self.evaluations()]}

    def evaluations(self) -> list[HeldOut]:
        """All held-out problems that the recipe asks its models."""
        found = []
        for config in self.stages.values():
            if isinstance(config, EvaluateConfig):
                found += [HeldOut(suite.tasks, suite.test_share, suite.num_problems) for suite in config.suites.values()]
            if isinstance(config, AskingStage) and config.eval is not None:
                general = [p.tasks for p in config.prompts.values()] if isinstance(config, AlignConfig) else []
                listed = [tasks for tasks in (config.tasks, *general) if tasks]
                found += [HeldOut(tasks, config.test_share, config.eval.num_problems) for tasks in listed]
        return found


def sample_files(config: StageConfig) -> list[str]:
    """Every file of samples that a stage names."""
    if isinstance(config, DistillConfig | SftConfig):
        return config.data_files
    if isinstance(config, RejectionSamplingConfig) and config.general is not None:
        return config.general.files
    return []


def held_out_shares(table: Config, share: float = 0.0) -> Iterator[tuple[str, float]]:
    """(SOURCE:NAME, share held out) of every task below a table; the nearest `test_share` above it holds."""
    share = getattr(table, "test_share", share)
    if isinstance(table, TaskConfig | PreferenceSource):
        yield table.spec.partition("?")[0], share
    for _, value in table:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,):
            if isinstance(item, Config):
                yield from held_out_shares(item, share)
