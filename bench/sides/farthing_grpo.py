"""farthing's GRPO as `farthing run` runs it, clock and ledger included; a step (rollout, reward, update) is a sample."""

import math
import tempfile
from pathlib import Path
from typing import Any

from bench.serve import Gate, Line, Stopped, reward_of
from farthing.config import StageConfig, parse_recipe
from farthing.pipeline import run_recipe
from farthing.rewards.score import VERIFIERS


class Steps:
    """A run's watcher that hands each step's figures to the gate, and holds the run there."""

    def __init__(self, gate: Gate, num_completions: int) -> None:
        self.gate, self.num_completions = gate, num_completions

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        pass

    def on_message(self, text: str) -> None:
        pass

    def on_step(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        check = {"completions": self.num_completions, "finite": math.isfinite(metrics["loss"] + metrics["grad_norm"])}
        self.gate.step_ended(round(metrics["completion_tokens"] * self.num_completions), lambda: check)


def recipe_of(work: dict[str, Any]) -> dict[str, Any]:
    """Without a KL term, evaluations or checkpoints: what TRL's trainer does in the same step."""
    stage = {
        "kind": "grpo",
        "num_steps": 1_000_000,
        "num_prompts": work["num_prompts"],
        "group_size": work["group"],
        "max_completion_tokens": work["new_tokens"],
        "max_microbatch_tokens": work["microbatch_tokens"],
        "num_slots": work["num_prompts"] * work["group"],
        "tasks": [{"spec": f"jsonl:{work['problems']}"}],
        "reward": {"accuracy": 1.0, "format": 0.0, "extract": "text"},
        "optim": {"learning_rate": 1e-6},
        "checkpoint": {"every": 0},
        "eval": None,
    }
    return {
        "name": "bench",
        "threads": work["threads"],
        "precision": work["precision"],
        "model": {"source": work["model"]},
        "prompt": {"template": work["template"]},
        "stages": {"grpo": stage},
    }


def main() -> None:
    line = Line()
    work = line.work()
    VERIFIERS["exact"] = lambda answer, _problem: reward_of(answer)
    steps = Steps(Gate(line, ("torch",)), work["num_prompts"] * work["group"])
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_recipe(parse_recipe(recipe_of(work), where="bench"), Path(folder) / "run", [steps])
        except Stopped:
            return


if __name__ == "__main__":
    main()
