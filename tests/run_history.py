"""Curves and spending -> a run directory, written with the classes that write the real ones."""

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from farthing.clock import Slice, Stamp, phase_entry
from farthing.config import Recipe, load_recipe
from farthing.files import append_line, read_json, write_json
from farthing.ledger.entries import Ledger
from farthing.ledger.prices import load_price_book

TOML = """
name = "history"
[model]
source = "scratch"
shape = { width = 16, num_layers = 1, num_heads = 1, num_kv_heads = 1, head_width = 16, ffn_width = 16 }
[stages.base]
kind = "pretrain"
num_steps = 60
tasks = [{ spec = "toy:running_total" }]
optim = { learning_rate = 2e-3 }
eval = { num_problems = 64, samples = 1, every = 20 }
[stages.r1_zero]
kind = "grpo"
num_steps = 60
num_prompts = 8
group_size = 4
max_completion_tokens = 96
tasks = [{ spec = "toy:running_total" }]
optim = { learning_rate = 1e-4 }
eval = { num_problems = 64, samples = 8, every = 10 }
"""
PRICE = load_price_book().price("local-cpu", datetime.date(2026, 6, 1))
SPENT = {"rollout": 4.0, "reward": 0.2, "update": 3.0, "idle": 0.01}
"""Seconds of an ordinary grpo step by phase."""

Curve = Callable[[float], float]


def ramp(start: float, end: float) -> Curve:
    """Straight from start to end, with a ripple of a hundredth."""
    return lambda x: (start + (end - start) * x) * (1 + 0.01 * math.sin(97 * x))


def levelling(start: float, end: float) -> Curve:
    """Quickly at first, then hardly at all."""
    return lambda x: (end + (start - end) * math.exp(-8 * x)) * (1 + 0.01 * math.sin(97 * x))


HEALTHY_BASE: dict[str, Curve] = {
    "loss": levelling(4.0, 0.7),
    "grad_norm": levelling(5.0, 0.8),
    "learning_rate": ramp(2e-3, 2e-4),
    "train_tokens_per_s": ramp(7000, 7200),
}
HEALTHY_GRPO: dict[str, Curve] = {
    "loss": lambda x: 1e-3 * math.sin(31 * x),
    "reward": levelling(0.1, 0.7),
    "accuracy": levelling(0.06, 0.62),
    "format": levelling(0.4, 0.95),
    "completion_tokens": levelling(20, 31),
    "truncated": levelling(0.1, 0.01),
    "flat_groups": levelling(0.5, 0.25),
    "resampled_groups": lambda x: 0.0,
    "entropy": levelling(0.9, 0.35),
    "kl": lambda x: 0.0,
    "grad_norm": levelling(0.9, 0.5),
    "logprob_gap": lambda x: 1e-5,
    "logprob_gap_max": lambda x: 4e-4,
    "rollout_tokens_per_s": ramp(1500, 1600),
    "train_tokens_per_s": ramp(5000, 5100),
}


class RunHistory:
    """A run directory in the making."""

    def __init__(self, folder: Path, overrides: Sequence[str] = (), toml: str = TOML) -> None:
        self.dir, self.toml = folder / "run", folder / "history.toml"
        self.toml.parent.mkdir(parents=True, exist_ok=True)
        self.toml.write_text(toml)
        self.recipe: Recipe = load_recipe(str(self.toml), overrides)
        write_json(self.dir / "recipe.json", self.recipe.model_dump(mode="json"))
        info = {
            "name": self.recipe.name,
            "recipe_sha256": self.recipe.digest(),
            "seed": 0,
            "created": "2026-06-01T10:00:00+00:00",
            "commit": None,
            "dirty": None,
            "machine": {"matmul_peak_flops_fp32": 1e11},
        }
        write_json(self.dir / "run.json", info)
        self.ledger = Ledger.open(self.dir / "ledger.sqlite")
        self.attempt = 0
        self.usd = 0.0

    def start(self, resumed_from: tuple[str, int] | None = None) -> None:
        self.attempt += 1
        kept = None if resumed_from is None else {"stage": resumed_from[0], "step": resumed_from[1]}
        if self.attempt == 1:
            self.ledger.append(attempt=0, kind="price", detail=PRICE.detail())
        detail = {"pid": 1, "resumed_from": kept, "price": PRICE.id}
        self.ledger.append(attempt=self.attempt, kind="attempt_start", detail=detail)
        self.spend("", -1, {"setup": 2.0})

    def spend(self, stage: str, step: int, seconds: Mapping[str, float]) -> None:
        slices = {phase: Slice(held_ns=int(s * 1e9)) for phase, s in seconds.items()}
        stamp = Stamp(stage, step, "train", mono_ns=0)
        fields = [phase_entry(self.attempt, PRICE, stamp, phase, work) for phase, work in slices.items()]
        self.usd += sum(float(entry.usd) for entry in self.ledger.append_many(fields))

    def train(
        self,
        stage: str,
        curves: Mapping[str, Curve],
        steps: range | None = None,
        seconds: Mapping[str, float] = SPENT,
    ) -> None:
        """Steps of a stage; the curves run from 0 at its first step to 1 at its last."""
        num_steps = self.recipe.stages[stage].num_steps
        for step in steps or range(num_steps):
            metrics = {name: curve(step / (num_steps - 1)) for name, curve in curves.items()}
            self.spend(stage, step, seconds)
            self.log(stage, step, metrics)

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        row = {"attempt": self.attempt, "stage": stage, "step": step, "at": "2026-06-01T10:00:00.000+00:00"}
        append_line(self.dir / "metrics.jsonl", {**row, "step_time": 7.2, "usd": self.usd, **metrics})

    def log_superseded(self, stage: str, why: str) -> None:
        append_line(self.dir / "metrics.jsonl", {"attempt": self.attempt, "stage": stage, "step": -1, "superseded": why})

    def evaluation(
        self, stage: str, label: str, share: float, seconds: float = 20.0, per_task: Mapping[str, float] | None = None
    ) -> None:
        self.spend(stage, -1, {"eval": seconds})
        result: dict[str, Any] = {"pass_at_1": share, "ci95": [share - 0.03, share + 0.03], "n": 64, "samples": 8}
        result |= {"pass_at_8": min(1.0, share + 0.2), "format_only": 0.9, "mean_completion_tokens": 25.5, "truncated": 0.0}
        result |= {"temperature": 1.0, "per_task": dict(per_task or {"toy:running_total": share})}
        write_json(self.dir / "stages" / stage / f"eval_{label}.json", result)

    def finish(self, stage: str) -> None:
        folder = self.dir / "stages" / stage
        evals = {label: read_json(path) for label in ("before", "after") if (path := folder / f"eval_{label}.json").is_file()}
        result = {"weights_sha256": "0" * 64, "metrics": {}} | ({"eval": evals} if evals else {})
        write_json(folder / "result.json", result)

    def end(self, outcome: str = "ok", error: str | None = None) -> None:
        self.ledger.append(attempt=self.attempt, kind="attempt_end", detail={"outcome": outcome, "error": error})
        self.ledger.close()

    def base(self, **changed: Curve) -> None:
        """The whole of the first stage, healthy but for `changed`."""
        self.train("base", {**HEALTHY_BASE, **changed}, seconds={"update": 1.0})
        self.evaluation("base", "after", 0.06)
        self.finish("base")

    def grpo(self, before: float = 0.06, after: float = 0.6, **changed: Curve) -> None:
        """The whole of the second stage, healthy but for `changed`, with its evaluations."""
        self.evaluation("r1_zero", "before", before)
        quick: dict[str, Curve] = {"eval_accuracy": levelling(before, after), "eval_completion_tokens": ramp(20, 30)}
        curves = {**HEALTHY_GRPO, **changed}
        config = self.recipe.stages["r1_zero"].eval
        every = config.every if config else 0
        for step in range(60):
            due = quick if every and (step + 1) % every == 0 else {}
            self.train("r1_zero", {**curves, **due}, range(step, step + 1))
        self.evaluation("r1_zero", "after", after)
        self.finish("r1_zero")
