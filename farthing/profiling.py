"""A recipe's stage -> where the time of its steps goes: phases, operators, MFU, bytes against bandwidth, padding, memory.

The stage itself runs, in a scratch directory: one step to warm up, a few for the clock, and one more under torch.profiler,
whose own cost (often a third) therefore stays out of the phases. No evaluations, no checkpoints.
"""

import contextlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from farthing.config import (
    CollectConfig,
    DistillConfig,
    GrpoConfig,
    PretrainConfig,
    Recipe,
    RewardModelConfig,
    SftConfig,
    StageConfig,
)
from farthing.config.base import SOURCE
from farthing.config.graph import OWN, model_input
from farthing.data.samples import DATA_FILE
from farthing.errors import RecipeError
from farthing.kept import run_info
from farthing.ledger.entries import Ledger
from farthing.models.shape import ModelShape
from farthing.pipeline import run_recipe
from farthing.placement import Placement, place
from farthing.precision import compute_dtype, compute_precision, resolve_precision
from farthing.probe import read_bandwidth_bytes
from farthing.run import Metrics
from farthing.sources import stage_folder, stage_shape

OPERATORS_SHOWN = 12


@dataclass(frozen=True)
class Phase:
    name: str
    seconds: float
    """Of a mean step."""
    share: float
    tokens_per_s: float | None
    mfu: float | None
    """Counted model FLOPs over the measured matmul peak."""


@dataclass(frozen=True)
class Operator:
    name: str
    calls: int
    self_cpu_s: float
    """In the one profiled step, without what it called."""
    self_gpu_s: float
    """Of the kernels that it launched; 0 on a CPU."""
    share: float
    """Of the step's seconds on the GPU where there are any, else of those on the CPU."""


@dataclass(frozen=True)
class StepProfile:
    """All of one mean step, but for `operators`, which are of one profiled step."""

    recipe: str
    stage: str
    num_steps: int
    step_s: float
    phases: list[Phase]
    operators: list[Operator]
    mfu: float
    matmul_peak_flops: float
    rollout_bytes: float | None
    """Least bytes that decoding must read: all weights once a decoding step, and each completion's keys and values."""
    rollout_bandwidth_share: float | None
    read_bandwidth_bytes_per_s: float
    padding: float | None
    completion_tokens: float | None
    peak_memory_gib: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Enough(Exception):
    """The steps that were wanted are done."""


class _Profiler:
    """Watches a run: step 0 warms up, `num_steps` are timed, the next one is profiled."""

    def __init__(self, num_steps: int, placement: Placement) -> None:
        self.num_steps = num_steps
        self.metrics: list[Metrics] = []
        on_gpu = [ProfilerActivity.CUDA] if placement.device.type == "cuda" else []
        self.torch = profile(activities=[ProfilerActivity.CPU, *on_gpu])

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        """Nothing is known yet."""

    def on_step(self, stage: str, step: int, metrics: Metrics) -> None:
        if 1 <= step <= self.num_steps:
            self.metrics.append(metrics)
        if step == self.num_steps:
            self.torch.start()
        if step == self.num_steps + 1:
            self.torch.stop()
            raise _Enough

    def on_message(self, text: str) -> None:
        """Notes on the data were given when the recipe was first run."""


def profile_recipe(
    recipe: Recipe, stage: str | None, num_steps: int, base: Path | None, trace: Path | None, of_run: Path | None = None
) -> StepProfile:
    """Profiles `stage` (default the last) from the model in `base` (default the recipe's own source); writes the trace.

    `of_run`: where what else the stage reads lies. RecipeError where the recipe has no such stage or does not run here.
    """
    alone = only_stage(recipe, stage, num_steps, base, of_run)
    name, config = next(iter(alone.stages.items()))
    placement = place(recipe.accelerator, recipe.device)
    precision, watcher = resolve_precision(recipe.precision, placement.device), _Profiler(num_steps, placement)
    with TemporaryDirectory() as scratch:
        run_dir = Path(scratch) / "run"
        with contextlib.suppress(_Enough):
            run_recipe(alone, run_dir, [watcher])
        compute = compute_precision(precision, placement.device)
        peak_flops = run_info(run_dir)["machine"][f"matmul_peak_flops_{compute}"]
        work = phase_work(run_dir, name, range(1, num_steps + 1))
        shape = stage_shape(alone, run_dir, name)
    if trace is not None:
        trace.parent.mkdir(parents=True, exist_ok=True)
        watcher.torch.export_chrome_trace(str(trace))
    step_s = fmean(m["step_time"] for m in watcher.metrics)
    flops = sum(w["model_flops"] for w in work.values()) / num_steps
    bandwidth = read_bandwidth_bytes(placement)
    read = None
    if isinstance(config, GrpoConfig | CollectConfig) or (isinstance(config, DistillConfig) and config.method == "on_policy"):
        width = compute_dtype(precision, placement.device).itemsize
        sampled = work["rollout"]
        read = rollout_bytes(shape, config, sampled["tokens_in"] / num_steps, sampled["tokens_out"] / num_steps, width)
    return StepProfile(
        recipe=recipe.name,
        stage=name,
        num_steps=num_steps,
        step_s=step_s,
        phases=phases(work, num_steps, peak_flops),
        operators=operators(watcher.torch),
        mfu=flops / step_s / peak_flops,
        matmul_peak_flops=peak_flops,
        rollout_bytes=read,
        rollout_bandwidth_share=None if read is None else read / (work["rollout"]["held_ns"] / 1e9 / num_steps) / bandwidth,
        read_bandwidth_bytes_per_s=bandwidth,
        padding=_mean(watcher.metrics, "padding"),
        completion_tokens=_mean(watcher.metrics, "completion_tokens"),
        peak_memory_gib=placement.peak_memory_gib(),
    )


def only_stage(recipe: Recipe, stage: str | None, num_steps: int, base: Path | None, of_run: Path | None = None) -> Recipe:
    """The recipe with one stage, just long enough, that neither evaluates nor checkpoints."""
    name = stage or list(recipe.stages)[-1]
    if name not in recipe.stages:
        raise RecipeError(f"{recipe.name} has no stage {name!r}; it has {', '.join(recipe.stages)}")
    config = recipe.stages[name]
    if config.reads() and not isinstance(config, CollectConfig | DistillConfig | SftConfig):
        raise RecipeError(
            f"{name} reads what {', '.join(config.reads())} made, and a profile runs one stage alone; to profile it, name "
            "model folders instead, RUN/stages/STAGE/model, in the recipe or with --set"
        )
    # one more than is run: what ends a stage (its model, its folder) is no part of a step
    short: dict[str, Any] = {"start_from": "", "num_steps": num_steps + 3}
    short["checkpoint"] = config.checkpoint.model_copy(update={"every": 0})
    short |= {"eval_every": 0} if isinstance(config, RewardModelConfig) else {"eval": None}
    if isinstance(config, PretrainConfig):
        short |= {"batch_ramp": None, "held_out_every": 0}  # of a batch that grows, the size at the end
    if isinstance(config, DistillConfig | SftConfig):
        short |= {"epochs": 0.0} | _inputs_by_path(config, of_run)
    if isinstance(config, SftConfig):
        short |= {"held_out_every": 0}
    if isinstance(config, CollectConfig):
        short |= {"num_samples": 0} | dict.fromkeys(config.helpers)  # nobody is asked: only what is sampled is profiled
    changed: dict[str, Any] = {"stages": {name: config.model_copy(update=short)}}
    if base is not None:
        changed["model"] = recipe.model.model_copy(update={"source": str(base), "shape": None})
    return recipe.model_copy(update=changed)


def _inputs_by_path(config: DistillConfig | SftConfig, run_dir: Path | None) -> dict[str, Any]:
    """`teacher` and `data` with what stages have left in the run directory in place of their names."""
    paths = {}
    for name, leaves in config.needs().items():
        folder = None if run_dir is None else stage_folder(run_dir.absolute(), name)
        path = folder if folder is None or leaves == "model" else folder.parent / DATA_FILE
        if path is None or not path.exists():
            raise RecipeError(f"a step of this stage reads what {name} leaves; profile a run directory in which {name} is done")
        paths[name] = str(path)
    data: dict[str, Any] = {"data": [paths.get(name, name) for name in config.data]}
    return data | ({"teacher": paths.get(config.teacher, config.teacher)} if isinstance(config, DistillConfig) else {})


def model_before(recipe: Recipe, stage: str | None, run_dir: Path) -> Path | None:
    """The model that the stage before `stage` left in a run directory; None where there is none yet."""
    name = stage or list(recipe.stages)[-1]
    before = model_input(recipe.stages, name) if name in recipe.stages else SOURCE
    folder = run_dir / "stages" / before / "model"
    return folder if before not in (SOURCE, OWN) and folder.is_dir() else None


def phase_work(run_dir: Path, stage: str, steps: range) -> dict[str, dict[str, int]]:
    """Phase -> time, tokens and FLOPs that the ledger has of these steps."""
    work: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        for entry in ledger.entries():
            if entry.kind == "phase" and entry.stage == stage and entry.step in steps:
                for key in ("held_ns", "tokens_in", "tokens_out", "tokens_trained", "model_flops"):
                    work[entry.phase][key] += getattr(entry, key)
    return work


def phases(work: dict[str, dict[str, int]], num_steps: int, peak_flops: float) -> list[Phase]:
    """The longest first."""
    total = sum(w["held_ns"] for w in work.values())
    found = []
    for name, w in work.items():
        seconds, tokens = w["held_ns"] / 1e9, w["tokens_out"] + w["tokens_trained"]
        if not seconds:
            continue
        speed, mfu = tokens / seconds or None, w["model_flops"] / seconds / peak_flops or None
        found.append(Phase(name, seconds / num_steps, w["held_ns"] / total, speed, mfu))
    return sorted(found, key=lambda phase: -phase.seconds)


def operators(profiled: Any) -> list[Operator]:
    """All operators of the profiled step, those with most time of their own first."""
    # kernels are listed a second time, as events of the GPU itself
    events = [e for e in profiled.key_averages() if e.device_type.name == "CPU"]
    rows = [(e.key, e.count, e.self_cpu_time_total / 1e6, e.self_device_time_total / 1e6) for e in events]
    counted = 3 if any(row[3] for row in rows) else 2
    total = sum(row[counted] for row in rows)
    rows.sort(key=lambda row: -row[counted])
    return [Operator(*row, share=row[counted] / total) for row in rows]


def rollout_bytes(
    shape: ModelShape,
    config: GrpoConfig | CollectConfig | DistillConfig,
    tokens_in: float,
    tokens_out: float,
    bytes_per_weight: int,
) -> float:
    """Bytes that a step's decoding must read. Slots are taken as always full, so it is a lower bound."""
    rollouts = config.num_prompts * config.group_size
    context = tokens_in / config.num_prompts + tokens_out / rollouts / 2
    decode_steps = tokens_out / min(config.num_slots, rollouts)
    weights, keys = shape.num_params() * bytes_per_weight, shape.cache_bytes_per_token(bytes_per_weight)
    return decode_steps * weights + tokens_out * context * keys


def render(found: StepProfile, console: Console) -> None:
    """The tables a person reads."""
    console.print(f"[bold]{found.recipe}[/bold], stage {found.stage}: {found.step_s:.3f} s a step, mean of {found.num_steps}")
    table = Table("phase", "seconds", "share", "tokens/s", "of matmul peak", box=None)
    for phase in found.phases:
        speed = "" if phase.tokens_per_s is None else f"{phase.tokens_per_s:,.0f}"
        mfu = "" if phase.mfu is None else f"{phase.mfu:.1%}"
        table.add_row(phase.name, f"{phase.seconds:.3f}", f"{phase.share:.1%}", speed, mfu)
    console.print(table)
    table = Table("operator (one profiled step)", "calls", "own seconds", "share", box=None)
    for operator in found.operators[:OPERATORS_SHOWN]:
        seconds = operator.self_gpu_s or operator.self_cpu_s
        table.add_row(operator.name[:48], f"{operator.calls:,}", f"{seconds:.3f}", f"{operator.share:.1%}")
    console.print(table)
    lines = [f"MFU {found.mfu:.1%} of the {found.matmul_peak_flops / 1e9:,.0f} GFLOP/s that a large matmul reaches here"]
    if found.rollout_bytes is not None and found.rollout_bandwidth_share is not None:
        lines.append(
            f"rollout reads at least {found.rollout_bytes / 1e9:.2f} GB a step: {found.rollout_bandwidth_share:.1%} of the "
            f"{found.read_bandwidth_bytes_per_s / 1e9:.1f} GB/s that reading memory reaches here"
        )
    if found.completion_tokens is not None:
        lines.append(f"completions {found.completion_tokens:.1f} tokens on average")
    if found.padding is not None:
        lines.append(f"padding {found.padding:.1%} of the trainer's positions")
    lines.append(f"peak memory {found.peak_memory_gib:.2f} GiB, Python and torch included")
    for line in lines:
        console.print(line, highlight=False)


def _mean(metrics: list[Metrics], name: str) -> float | None:
    values = [m[name] for m in metrics if name in m]
    return fmean(values) if values else None
