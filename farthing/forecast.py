"""A recipe -> what `--dry-run` prints: batch arithmetic in words, and memory, time and dollars before they are spent.

For a recipe that runs here, speed comes from a short probe of the real model on this machine. For one that does not,
it is counted FLOPs over an assumed share of the device's published peak. Either way the assumptions are printed.
"""

import datetime
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from rich.console import Console

from farthing.budget import Budget, Spent
from farthing.config import CorpusStageConfig, GrpoConfig, Recipe, StageConfig
from farthing.ledger.prices import cost, load_price_book
from farthing.models.shape import ModelShape
from farthing.probe import Speed, assumed_speed, probe_speed

GIB = 1 << 30


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
        return sum(s.seconds for s in self.stages)

    @property
    def usd(self) -> Decimal:
        return sum((s.usd for s in self.stages), Decimal(0))

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
            console.print(
                f"  at most {duration(stage.seconds)}, ${stage.usd:.4f}, about {stage.memory_gib:.2f} GiB",
                highlight=False,
            )
        console.print(f"together at most {duration(self.seconds)} and ${self.usd:.4f}", highlight=False)
        for line in self.assumptions:
            console.print(f"  - {line}", style="dim", highlight=False)


def dry_run(recipe: Recipe) -> Forecast:
    """Probes (where the recipe can run here), counts and prices; writes nothing."""
    price = load_price_book().price(recipe.device, datetime.date.today())
    speed = probe_speed(recipe) if recipe.runnable else assumed_speed(recipe)
    stages = []
    for name, config in recipe.stages.items():
        seconds = stage_seconds(config, speed)
        usd = cost(int(seconds * 1e9), speed.num_devices, price.usd_per_device_hour)
        memory = memory_bytes(config, speed) / GIB
        stages.append(StageForecast(name, config.kind, arithmetic(config), seconds, usd, memory))
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


def arithmetic(config: StageConfig) -> str:
    """The sizes of a step in words."""
    if isinstance(config, GrpoConfig):
        rollouts = config.num_prompts * config.group_size
        return (
            f"{config.num_prompts} prompts x {config.group_size} completions = {rollouts:,} rollouts a step = "
            f"{config.num_minibatches} minibatch(es) of {rollouts // config.num_minibatches:,}, up to "
            f"{config.max_completion_tokens:,} tokens each, in microbatches of at most "
            f"{config.max_microbatch_tokens:,} tokens; {config.num_steps:,} steps = "
            f"{config.num_steps * rollouts:,} rollouts of {config.num_steps * config.num_prompts:,} prompts"
        )
    assert isinstance(config, CorpusStageConfig)
    return (
        f"{config.batch_documents} documents a step in microbatches of at most {config.max_microbatch_tokens:,} "
        f"tokens; {config.num_steps:,} steps = {config.num_steps * config.batch_documents:,} documents"
    )


def stage_seconds(config: StageConfig, speed: Speed) -> float:
    """Steps plus evaluations at the speed given."""
    prompt = speed.prompt_tokens
    if isinstance(config, GrpoConfig):
        rollouts = config.num_prompts * config.group_size
        length = config.max_completion_tokens
        step = rollouts * length / speed.sampled_per_s + rollouts * (prompt + length) / speed.trained_per_s
    else:
        assert isinstance(config, CorpusStageConfig)
        length = config.max_completion_tokens
        step = config.batch_documents * speed.document_tokens / speed.trained_per_s
    total = config.num_steps * step
    if config.eval is not None:
        full = config.eval.num_problems * config.eval.samples * (2 if isinstance(config, GrpoConfig) else 1)
        quick = config.num_steps // config.eval.every * config.eval.quick_problems if config.eval.every else 0
        total += (full + quick) * length / speed.sampled_per_s
    return total


def memory_bytes(config: StageConfig, speed: Speed) -> float:
    """Weights, masters, gradients, two moments, the reference, and the larger of activations and key/value cache.

    The cache and the weights packed for generation are gone in an update, gradients and activations in a rollout.
    """
    shape: ModelShape = speed.shape
    per_param = 16 + (2 if speed.bytes_per_weight == 2 else 0)
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
    return (shape.num_params() + shape.mtp_params()) * per_param + max(activations, cache)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
