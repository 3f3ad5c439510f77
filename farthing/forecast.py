"""A recipe -> what `--dry-run` prints: batch arithmetic in words, and memory, time and dollars before they are spent.

For a recipe that runs here, speed comes from a short probe of the real model on this machine. For one that does not,
it is counted FLOPs over an assumed share of the device's published peak. Either way the assumptions are printed.
"""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from farthing.bought import priced, rates
from farthing.budget import Budget, Spent
from farthing.config import (
    AlignConfig,
    AnyStage,
    AskingStage,
    CollectConfig,
    CorpusStageConfig,
    DistillConfig,
    EvaluateConfig,
    GrpoConfig,
    PretrainConfig,
    Recipe,
    RewardModelConfig,
    SftConfig,
    StageConfig,
    TrainConfig,
)
from farthing.config.base import SOURCE
from farthing.data.sample_rows import num_steps_of
from farthing.data.samples import DATA_FILE, iter_samples
from farthing.ledger.prices import cost, load_price_book
from farthing.models.shape import ModelShape
from farthing.probe import Speed, assumed_speed, probe_speed
from farthing.rerun import TO_RUN, Action, plan_stages
from farthing.sources import stage_shape

GIB = 1 << 30
WORDS: dict[Action, str] = {
    "keep": "done, and kept",
    "run": "",
    "resume": "begun, and goes on: ",
    "again": "runs again: ",
    "leave": "left out",
}
"""Before the cost of a stage."""
INSTRUCTION_TOKENS = 200
"""About what a helper is told before and after the question and the completion."""
SIZES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


@dataclass(frozen=True)
class StageForecast:
    name: str
    kind: str
    arithmetic: str
    """The batch in words: 32 prompts x 8 completions = 256 rollouts = ..."""
    seconds: float
    """Upper end: every completion as long as the recipe allows."""
    usd: Decimal
    memory_gib: float
    action: Action
    """What a run in the directory named would do with the stage; kept stages cost nothing."""
    why: str


@dataclass(frozen=True)
class Forecast:
    recipe: Recipe
    stages: list[StageForecast]
    num_params: int
    active_params: int
    """Of them, those that one token goes through: fewer in a mixture of experts."""
    mtp_params: int
    """Of multi-token prediction, apart from the others."""
    cache_bytes_per_token: int
    cache_share: float
    """Of what multi-head attention with as many heads would cache."""
    grouped_share: float
    """The same of grouped queries, eight to a key/value head."""
    assumptions: list[str]

    @property
    def seconds(self) -> float:
        return sum(s.seconds for s in self.stages if s.action in TO_RUN)

    @property
    def usd(self) -> Decimal:
        return sum((s.usd for s in self.stages if s.action in TO_RUN), Decimal(0))

    def to_json(self) -> dict[str, Any]:
        stages = [asdict(s) | {"usd": str(s.usd)} for s in self.stages]
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_sha256": self.recipe.digest(),
            "num_params": self.num_params,
            "active_params": self.active_params,
            "mtp_params": self.mtp_params,
            "cache_bytes_per_token": self.cache_bytes_per_token,
            "cache_share": self.cache_share,
            "grouped_share": self.grouped_share,
            "stages": stages,
            "seconds": self.seconds,
            "usd": str(self.usd),
            "memory_gib": max(s.memory_gib for s in self.stages),
            "assumptions": self.assumptions,
        }

    def render(self, console: Console) -> None:
        console.print_json(self.recipe.model_dump_json())
        active = f", {self.active_params / 1e6:,.2f}M of them active" if self.active_params != self.num_params else ""
        ahead = f"; multi-token prediction {self.mtp_params / 1e6:,.2f}M" if self.mtp_params else ""
        console.print(f"\n[bold]{self.recipe.name}[/bold]  {self.num_params / 1e6:,.2f}M parameters{active}{ahead}")
        share = f"{self.cache_share:.1%} of multi-head attention's (grouped queries, 8 to a head: {self.grouped_share:.1%})"
        console.print(f"cache {self.cache_bytes_per_token:,} bytes per token, {share}", highlight=False)
        for stage in self.stages:
            console.print(f"[bold]{stage.name}[/bold] ({stage.kind}): {stage.arithmetic}", highlight=False)
            cost = f"at most {duration(stage.seconds)}, ${stage.usd:.4f}, about {stage.memory_gib:.2f} GiB"
            why = f"{stage.why}; " if stage.why else ""
            console.print(f"  {WORDS[stage.action]}{why}{cost if stage.action in TO_RUN else ''}", highlight=False)
        console.print(f"together at most {duration(self.seconds)} and ${self.usd:.4f}", highlight=False)
        for line in self.assumptions:
            console.print(f"  - {line}", style="dim", highlight=False)


def dry_run(recipe: Recipe, run_dir: Path, only: str = "", again_from: str = "") -> Forecast:
    """Probes (where the recipe can run here), counts and prices what is still to do in `run_dir`; writes nothing."""
    planned = {p.name: p for p in plan_stages(recipe, run_dir, only, again_from)}
    price = load_price_book().price(recipe.device, datetime.datetime.now(datetime.UTC).date())
    speed = probe_speed(recipe) if recipe.runnable else assumed_speed(recipe)
    stages = []
    done = [name for name in planned if planned[name].action not in TO_RUN]
    for name in recipe.stages:
        config = within_epochs(recipe.stages, name, {d: run_dir / "stages" / d / DATA_FILE for d in done})
        here, teacher = speeds_of(recipe, name, speed)
        seconds = stage_seconds(config, here, teacher)
        usd = cost(int(seconds * 1e9), speed.num_devices, price.usd_per_device_hour) + bought_usd(config, speed)
        memory = memory_bytes(config, here, teacher) / GIB
        action, why = planned[name].action, planned[name].why
        words = arithmetic(config, speed.document_tokens)
        stages.append(StageForecast(name, config.kind, words, seconds, usd, memory, action, why))
    against = against_budgets(recipe, stages)
    others = any(recipe.origin_of(name) != SOURCE for name in recipe.stages)
    assumptions = [
        *speed.assumptions,
        *(["stages with a model of their own are taken to be as fast in FLOPs as the recipe's"] if others else []),
        *against,
        f"{price.device} at ${price.usd_per_device_hour} per device-hour ({price.date})",
    ]
    shape = speed.shape
    cache = shape.cache_bytes_per_token(speed.bytes_per_weight)
    return Forecast(
        recipe=recipe,
        stages=stages,
        num_params=shape.num_params(),
        active_params=shape.num_params(active=True),
        mtp_params=shape.mtp_params(),
        cache_bytes_per_token=cache,
        cache_share=cache / shape.gqa_cache_bytes_per_token(speed.bytes_per_weight, shape.num_heads),
        grouped_share=max(1, shape.num_heads // 8) / shape.num_heads,
        assumptions=assumptions,
    )


def within_epochs(stages: Mapping[str, AnyStage], name: str, made: Mapping[str, Path]) -> AnyStage:
    """The stage with as many steps as its passes over the data can take. Of stages whose data is `made` the samples are
    counted, of others as many as they can leave at most."""
    config = stages[name]
    if not isinstance(config, SftConfig | DistillConfig) or not config.epochs or not config.data:
        return config
    files = [*map(Path, config.data_files), *(made[s] for s in config.data if s in made)]
    num_samples = sum(1 for file in files for _ in iter_samples(file))
    for other in (stages[s] for s in config.data if s in stages and s not in made):
        num_samples += other.most_samples if isinstance(other, CollectConfig) else 0
    batch = config.batch_documents if isinstance(config, SftConfig) else config.batch_samples
    return config.model_copy(update={"num_steps": min(config.num_steps, num_steps_of(config.epochs, num_samples, batch))})


def against_budgets(recipe: Recipe, stages: list[StageForecast]) -> list[str]:
    """What the forecast is of every budget that the recipe sets."""
    each = {stage.name: Spent(stage.usd, int(stage.seconds * 1e9)) for stage in stages}
    whole = Spent(sum((spent.usd for spent in each.values()), Decimal(0)), sum(spent.held_ns for spent in each.values()))
    budget = Budget(recipe, recipe.stages)
    used = dict(pair for name, spent in each.items() for pair in budget.used(whole, name, spent))
    return [f"at most {share:.0%} of {what}; at 100% the run stops with a checkpoint" for what, share in used.items()]


def speeds_of(recipe: Recipe, name: str, speed: Speed) -> tuple[Speed, Speed | None]:
    """(of the stage's own model, of the teacher that it asks)."""
    config = recipe.stages[name]
    with TemporaryDirectory() as scratch:
        here = speed if recipe.origin_of(name) == SOURCE else speed.at(stage_shape(recipe, Path(scratch), name))
        if not isinstance(config, DistillConfig) or config.method == "sft":
            return here, None
        return here, speed.at(stage_shape(recipe, Path(scratch), config.teacher))


def arithmetic(config: StageConfig, document_tokens: float) -> str:
    """The sizes of a step in words, and of the stage."""
    if isinstance(config, GrpoConfig):
        rollouts = config.num_prompts * config.group_size
        return (
            f"{config.num_prompts} prompts x {config.group_size} completions = {rollouts:,} rollouts a step = "
            f"{config.num_minibatches} minibatch(es) of {rollouts // config.num_minibatches:,}, up to "
            f"{config.max_completion_tokens:,} tokens each, in microbatches of at most "
            f"{config.max_microbatch_tokens:,} tokens; {config.num_steps:,} steps = "
            f"{config.num_steps * rollouts:,} rollouts of {config.num_steps * config.num_prompts:,} prompts{_joining(config)}"
        )
    if isinstance(config, RewardModelConfig):
        what = "pairs" if config.learns == "helpfulness" else "labels"
        judged = f", after {config.judged.judgments} judgments of {config.num_judged:,} pairs" if config.judged else ""
        return (
            f"{config.batch_examples} {what} a step in microbatches of at most {config.max_microbatch_tokens:,} tokens; "
            f"{config.num_steps:,} steps = {config.num_steps * config.batch_examples:,} {what}{judged}"
        )
    if isinstance(config, DistillConfig):
        rows = f"{config.batch_samples} samples"
        if config.method == "on_policy":
            rollouts = config.num_prompts * config.group_size
            rows = f"{config.num_prompts} prompts x {config.group_size} completions = {rollouts:,} of the student's rollouts"
        passes = f", fewer where {config.epochs:g} passes over the data take fewer" if config.epochs else ""
        return (
            f"{rows} a step in microbatches of at most {config.max_microbatch_tokens:,} tokens; {config.num_steps:,} "
            f"steps{passes}"
        )
    if isinstance(config, CollectConfig):
        return collecting_in_words(config)
    if isinstance(config, EvaluateConfig):
        asked = " + ".join(f"{s.num_problems:,} x {s.samples} of {name}" for name, s in config.suites.items())
        return f"{len(config.models)} models, each {asked} completions"
    assert isinstance(config, CorpusStageConfig)
    is_corpus, is_data = isinstance(config, PretrainConfig) and config.corpus, isinstance(config, SftConfig) and config.data
    what, each = ("windows", "at most") if is_corpus else ("samples" if is_data else "documents", "about")
    ramp = config.batch_ramp if isinstance(config, PretrainConfig) else None
    grows = f", {ramp.start:,} at first and more for {ramp.steps:,} steps," if ramp else ""
    total = num_documents(config)
    epochs = config.epochs if isinstance(config, SftConfig) else 0
    fewer = f" (fewer where {epochs:g} passes over the data take fewer)" if epochs else ""
    return (
        f"{config.batch_documents:,} {what} a step{grows} in microbatches of at most {config.max_microbatch_tokens:,} "
        f"tokens; {config.num_steps:,} steps{fewer} = {total:,} {what} of {each} {document_tokens:,.0f} tokens = {each} "
        f"{in_short(total * document_tokens)} tokens"
    )


def _joining(config: GrpoConfig) -> str:
    if not isinstance(config, AlignConfig):
        return ""
    shares = " and ".join(f"{prompts.share:.0%} {kind}" for kind, prompts in config.prompts.items())
    return f"; from step {config.first_preference_step + 1:,} on {shares} prompts, scored by reward models"


def collecting_in_words(config: CollectConfig) -> str:
    rollouts = config.num_prompts * config.group_size
    asked = "".join(
        f"; the {role} is asked at most {count:,} times, for {config.helpers[role].max_tokens:,} tokens each"
        for role, count in num_asked(config).items()
    )
    return (
        f"{config.num_prompts} prompts x {config.group_size} completions = {rollouts:,} a step, up to "
        f"{config.max_completion_tokens:,} tokens each; at most {config.num_steps:,} steps = {config.num_steps * rollouts:,} "
        f"completions, of which at most {config.most_samples:,} samples are made{asked}"
    )


def num_asked(config: StageConfig) -> dict[str, int]:
    """Role -> requests, if every completion passed every filter before."""
    if isinstance(config, RewardModelConfig) and config.judged and config.judged.judge:
        return {"judge": config.num_judged * config.judged.judgments}
    if not isinstance(config, CollectConfig):
        return {}
    prompts = config.num_steps * config.num_prompts
    each = {"teacher": min(config.group_size, config.keep_per_problem), "judge": config.group_size}
    return {role: prompts * each[role] * asked.times for role, asked in config.helpers.items()}


def bought_usd(config: StageConfig, speed: Speed) -> Decimal:
    """Of tokens bought, at most; PriceError where they have no price. What a request says is counted in our own tokens."""
    usd = Decimal(0)
    for role, count in num_asked(config).items():
        asked = config.helpers[role]
        if asked.endpoint is not None:
            into, out = rates(asked.endpoint, priced(asked.endpoint))
            tokens_in = int(speed.prompt_tokens) + _shown_tokens(config) + INSTRUCTION_TOKENS
            usd += count * (tokens_in * into.usd_per_unit + asked.max_tokens * out.usd_per_unit)
    return usd


def _shown_tokens(config: StageConfig) -> int:
    """Of the completions in one request: one, or the two of a pair."""
    if isinstance(config, RewardModelConfig):
        return 2 * config.judged.max_completion_tokens if config.judged else 0
    return config.max_completion_tokens if isinstance(config, CollectConfig) else 0


def num_documents(config: CorpusStageConfig) -> int:
    """Of all steps; of a corpus its windows."""
    return sum(map(config.documents, range(config.num_steps)))


def in_short(count: float) -> str:
    """14_800_016_793_600 -> 14.80T."""
    size, letter = next(((size, letter) for size, letter in SIZES if count >= size), (1, ""))
    return f"{count / size:.2f}{letter}" if letter else f"{count:.0f}"


def stage_seconds(config: StageConfig, speed: Speed, teacher: Speed | None = None) -> float:
    """Steps plus evaluations at the speed given; samples of a teacher are taken at the length of the longest completion."""
    if isinstance(config, EvaluateConfig):
        tokens = sum(s.num_problems * s.samples * s.max_completion_tokens for s in config.suites.values())
        return len(config.models) * tokens / speed.sampled_per_s
    if isinstance(config, RewardModelConfig):
        return _reward_model_seconds(config, speed)
    if isinstance(config, CollectConfig):
        sampled = config.num_steps * config.num_prompts * config.group_size * config.max_completion_tokens
        return (sampled + _helpers_tokens(config)) / speed.sampled_per_s
    assert isinstance(config, AskingStage)
    prompt, length = speed.prompt_tokens, config.max_completion_tokens
    if isinstance(config, GrpoConfig):
        rollouts = config.num_prompts * config.group_size
        total = config.num_steps * rollouts * (length / speed.sampled_per_s + (prompt + length) / speed.trained_per_s)
    elif isinstance(config, DistillConfig):
        rollouts = config.num_prompts * config.group_size if config.method == "on_policy" else 0
        trained = (rollouts or config.batch_samples) * (prompt + length)
        step = rollouts * length / speed.sampled_per_s + trained / speed.trained_per_s
        step += trained / (3 * teacher.trained_per_s) if teacher is not None else 0
        total = config.num_steps * step
    else:
        total = num_documents(config) * speed.document_tokens / speed.trained_per_s
    if isinstance(config, AlignConfig):
        total += scoring_seconds(config, prompt + length, speed)
    if isinstance(config, PretrainConfig) and config.corpus:
        times = 1 + (config.num_steps // config.held_out_every if config.held_out_every else 0)
        # a forward pass is a third of a step
        total += times * config.held_out_documents * speed.document_tokens / speed.trained_per_s / 3
    if config.eval is not None and config.tasks:
        full = config.eval.num_problems * config.eval.samples * (1 if isinstance(config, CorpusStageConfig) else 2)
        quick = config.num_steps // config.eval.every * config.eval.quick_problems if config.eval.every else 0
        kinds = 1 + len(config.prompts) if isinstance(config, AlignConfig) else 1
        total += kinds * (full + quick) * length / speed.sampled_per_s
    return total


def scoring_seconds(config: AlignConfig, tokens: float, speed: Speed) -> float:
    """Forward passes of the reward models, taken to be of the policy's size: a third of training's work."""
    num_steps = config.num_steps - config.first_preference_step
    general = sum(prompts.share for prompts in config.prompts.values()) * config.num_prompts * config.group_size
    return num_steps * general * tokens / (3 * speed.trained_per_s)


def _reward_model_seconds(config: RewardModelConfig, speed: Speed) -> float:
    texts, third = (2 if config.learns == "helpfulness" else 1), 1 / 3
    scored = config.held_out_examples * (1 + (config.num_steps // config.eval_every if config.eval_every else 0))
    trained = texts * speed.document_tokens * (config.num_steps * config.batch_examples + scored * third)
    sampled = 2 * config.num_judged * config.judged.max_completion_tokens if config.judged else 0
    return trained / speed.trained_per_s + (sampled + _helpers_tokens(config)) / speed.sampled_per_s


def _helpers_tokens(config: StageConfig) -> int:
    """Sampled on this machine by models that help; what they are asked counts as of the stage's own speed."""
    local = {role: count for role, count in num_asked(config).items() if config.helpers[role].endpoint is None}
    return sum(count * config.helpers[role].max_tokens for role, count in local.items())


def memory_bytes(config: StageConfig, speed: Speed, teacher: Speed | None = None) -> float:
    """Weights, masters, gradients, two moments, the reference or the teacher, and the larger of activations and cache.

    The cache and the weights packed for generation are gone in an update, gradients and activations in a rollout.
    With fp8 every parameter is counted as if it had a rounded copy; embedding and head have none.
    """
    shape: ModelShape = speed.shape
    if isinstance(config, EvaluateConfig | CollectConfig):
        lengths = [
            s.max_completion_tokens for s in (config.suites.values() if isinstance(config, EvaluateConfig) else [config])
        ]
        longest = max(lengths) + speed.prompt_tokens
        cache = config.num_slots * longest * shape.cache_bytes_per_token(speed.bytes_per_weight)
        return shape.num_params() * (speed.bytes_per_weight + speed.rounded_bytes_per_weight) + cache
    assert isinstance(config, TrainConfig)
    per_param = 8 + 2 * (2 if config.optim.moments == "bf16" else 4) + (2 if speed.bytes_per_weight == 2 else 0)
    per_param += speed.rounded_bytes_per_weight
    if isinstance(config, GrpoConfig) and config.kl_coef > 0:
        per_param += speed.bytes_per_weight + speed.rounded_bytes_per_weight
    if isinstance(config, AlignConfig):
        per_param += speed.bytes_per_weight * len(config.prompts)  # reward models of the policy's size
    layer_values = 14 * shape.width + 4 * shape.active_ffn_width + 4 * shape.num_heads * shape.head_width
    layers = 1 if config.recompute_activations else shape.num_layers
    activations = config.max_microbatch_tokens * layer_values * layers * speed.bytes_per_weight
    cache = 0
    if isinstance(config, GrpoConfig) or (isinstance(config, DistillConfig) and config.method == "on_policy"):
        slots = min(config.num_slots, config.num_prompts * config.group_size)
        positions = speed.prompt_tokens + config.max_completion_tokens
        cache = int(slots * positions * shape.cache_bytes_per_token(speed.bytes_per_weight))
    frozen = teacher.shape.num_params() * teacher.bytes_per_weight if teacher is not None else 0
    return (shape.num_params() + shape.mtp_params()) * per_param + frozen + max(activations, cache)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
