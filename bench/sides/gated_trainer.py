"""What both TRL trainers are given: settings of a plain CPU run at one precision, and the gate between two steps."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from bench.serve import Answer, Gate

PACKAGES = ("torch", "transformers", "trl")
WEIGHTS = {"fp32": "float32", "autocast": "float32", "bf16": "bfloat16"}
"""Mode -> dtype of the weights; autocast computes in bf16 on fp32 weights."""


def settings(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """Arguments of a trainer's config. TRL turns autocast and gradient checkpointing on unless told otherwise."""
    return {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": work["mode"] == "autocast",
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": WEIGHTS[work["mode"]]},
        "max_steps": 1_000_000,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1_000_000,
    }


class StepGate(TrainerCallback):  # type: ignore[misc]
    """Holds the trainer after each optimizer step."""

    def __init__(self, gate: Gate, count: Callable[[], tuple[int, int]]) -> None:
        """`count` gives (completions or rows, tokens) of the step that ended."""
        self.gate, self.count = gate, count

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rows, tokens = self.count()

        def check() -> Answer:
            return {"completions": rows, "finite": all(bool(torch.isfinite(p).all()) for p in kwargs["model"].parameters())}

        self.gate.step_ended(tokens, check)
