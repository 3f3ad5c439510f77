"""A recipe -> what `--dry-run` prints: batch arithmetic in words, and memory, time and dollars before they are spent.

For a recipe that runs here, speed comes from a short probe of the real model on this machine. For one that does not,
it is counted FLOPs over an assumed share of the device's published peak. Either way the assumptions are printed.
"""

import datetime
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console

from farthing.budget import Budget, Spent
from farthing.config import CorpusStageConfig, EvaluateConfig, GrpoConfig, PretrainConfig, Recipe, StageConfig, TrainConfig
from farthing.ledger.prices import cost, load_price_book
from farthing.models.shape import ModelShape
from farthing.probe import Speed, assumed_speed, probe_speed
from farthing.rerun import Action, plan_stages

GIB = 1 << 30
TO_RUN = ("run", "resume", "again")
WORDS: dict[Action, str] = {
    "keep": "done, and kept",
    "run": "",
    "resume": "begun, and goes on: ",
    "again": "runs again: ",
    "leave": "left out",
}
"""Before the cost of a stage."""
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
        share = f"{self.cache_share:.1%} of multi-head attention's"
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
    price = load_price_book().price(recipe.device, datetime.date.today())
    speed = probe_speed(recipe) if recipe.runnable else assumed_speed(recipe)
    stages = []
    for name, config in recipe.stages.items():
        seconds = stage_seconds(config, speed)
        usd = cost(int(seconds * 1e9), speed.num_devices, price.usd_per_device_hour)
        memory = memory_bytes(config, speed) / GIB
        action, why = planned[name].action, planned[name].why
        words = arithmetic(config, speed.document_tokens)
        stages.append(StageForecast(name, config.kind, words, seconds, usd, memory, action, why))
    against = against_budgets(recipe, stages)
    assumptions = [
        *speed.assumptions,
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
        assumptions=assumptions,
    )


def against_budgets(recipe: Recipe, stages: list[StageForecast]) -> list[str]:
    """What the forecast is of every budget that the recipe sets."""
    each = {stage.name: Spent(stage.usd, int(stage.seconds * 1e9)) for stage in stages}
    whole = Spent(sum((spent.usd for spent in each.values()), Decimal(0)), sum(spent.held_ns for spent in each.values()))
    budget = Budget(recipe, recipe.stages)
    used = dict(pair for name, spent in each.items() for pair in budget.used(whole, name, spent))
    return [f"at most {share:.0%} of {what}; at 100% the run stops with a checkpoint" for what, share in used.items()]


def arithmetic(config: StageConfig, document_tokens: float) -> str:
    """The sizes of a step in words, and of the stage."""
    if isinstance(config, GrpoConfig):
        rollouts = config.num_prompts * config.group_size
        return (
            f"{config.num_prompts} prompts x {config.group_size} completions = {rollouts:,} rollouts a step = "
            f"{config.num_minibatches} minibatch(es) of {rollouts // config.num_minibatches:,}, up to "
            f"{config.max_completion_tokens:,} tokens each, in microbatches of at most "
            f"{config.max_microbatch_tokens:,} tokens; {config.num_steps:,} steps = "
            f"{config.num_steps * rollouts:,} rollouts of {config.num_steps * config.num_prompts:,} prompts"
        )
    if isinstance(config, EvaluateConfig):
        asked = " + ".join(f"{s.num_problems:,} x {s.samples} of {name}" for name, s in config.suites.items())
        return f"{len(config.models)} models, each {asked} completions"
    assert isinstance(config, CorpusStageConfig)
    is_corpus = isinstance(config, PretrainConfig) and config.corpus
    what, each = ("windows", "at most") if is_corpus else ("documents", "about")
    ramp = config.batch_ramp if isinstance(config, PretrainConfig) else None
    grows = f", {ramp.start:,} at first and more for {ramp.steps:,} steps," if ramp else ""
    total = num_documents(config)
    return (
        f"{config.batch_documents:,} {what} a step{grows} in microbatches of at most {config.max_microbatch_tokens:,} "
        f"tokens; {config.num_steps:,} steps = {total:,} {what} of {each} {document_tokens:,.0f} tokens = {each} "
        f"{in_short(total * document_tokens)} tokens"
    )


def num_documents(config: CorpusStageConfig) -> int:
    """Of all steps; of a corpus its windows."""
    return sum(map(config.documents, range(config.num_steps)))


def in_short(count: float) -> str:
    """14_800_016_793_600 -> 14.80T."""
    size, letter = next(((size, letter) for size, letter in SIZES if count >= size), (1, ""))
    return f"{count / size:.2f}{letter}" if letter else f"{count:.0f}"


def stage_seconds(config: StageConfig, speed: Speed) -> float:
    """Steps plus evaluations at the speed given."""
    prompt = speed.prompt_tokens
    if isinstance(config, EvaluateConfig):
        tokens = sum(s.num_problems * s.samples * s.max_completion_tokens for s in config.suites.values())
        return len(config.models) * tokens / speed.sampled_per_s
    if isinstance(config, GrpoConfig):
        rollouts = config.num_prompts * config.group_size
        length = config.max_completion_tokens
        step = rollouts * length / speed.sampled_per_s + rollouts * (prompt + length) / speed.trained_per_s
        total = config.num_steps * step
    else:
        assert isinstance(config, CorpusStageConfig)
        length = config.max_completion_tokens
        total = num_documents(config) * speed.document_tokens / speed.trained_per_s
    if isinstance(config, PretrainConfig) and config.corpus:
        times = 1 + (config.num_steps // config.held_out_every if config.held_out_every else 0)
        # a forward pass is a third of a step
        total += times * config.held_out_documents * speed.document_tokens / speed.trained_per_s / 3
    if config.eval is not None:
        full = config.eval.num_problems * config.eval.samples * (2 if isinstance(config, GrpoConfig) else 1)
        quick = config.num_steps // config.eval.every * config.eval.quick_problems if config.eval.every else 0
        total += (full + quick) * length / speed.sampled_per_s
    return total


def memory_bytes(config: StageConfig, speed: Speed) -> float:
    """Weights, masters, gradients, two moments, the reference, the larger of activations and key/value cache."""
    shape: ModelShape = speed.shape
    if isinstance(config, EvaluateConfig):
        longest = max(s.max_completion_tokens for s in config.suites.values()) + speed.prompt_tokens
        cache = config.num_slots * longest * shape.cache_bytes_per_token(speed.bytes_per_weight)
        return shape.num_params() * speed.bytes_per_weight + cache
    assert isinstance(config, TrainConfig)
    per_param = 8 + 2 * (2 if config.optim.moments == "bf16" else 4) + (2 if speed.bytes_per_weight == 2 else 0)
    is_grpo = isinstance(config, GrpoConfig)
    if isinstance(config, GrpoConfig) and config.kl_coef > 0:
        per_param += speed.bytes_per_weight
    layer_values = 14 * shape.width + 4 * shape.active_ffn_width + 4 * shape.num_heads * shape.head_width
    layers = 1 if config.recompute_activations else shape.num_layers
    activations = config.max_microbatch_tokens * layer_values * layers * speed.bytes_per_weight
    cache = 0
    if is_grpo:
        assert isinstance(config, GrpoConfig)
        slots = min(config.num_slots, config.num_prompts * config.group_size)
        positions = speed.prompt_tokens + config.max_completion_tokens
        cache = int(slots * positions * shape.cache_bytes_per_token(speed.bytes_per_weight))
    return (shape.num_params() + shape.mtp_params()) * per_param + activations + cache


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
