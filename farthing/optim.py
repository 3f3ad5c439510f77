"""Gradients -> updated weights: AdamW (arXiv:1711.05101), global-norm clipping and the learning-rate schedules."""

import math
from typing import Any, Literal

import torch
from torch import nn

from farthing.errors import TrainingDiverged
from farthing.precision import MasterWeights, Precision

Schedule = Literal["constant", "cosine", "linear"]


def learning_rate(step: int, *, peak: float, num_steps: int, warmup_steps: int, schedule: Schedule, final: float) -> float:
    """Linear warm-up from peak / warmup_steps, then `schedule` down to `final` * peak at the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    fall = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return peak * (final + (1 - final) * fall)


class Optimizer:
    """torch's fused AdamW on fp32 master weights; matrices decay, vectors (norms, biases) do not."""

    def __init__(
        self,
        model: nn.Module,
        precision: Precision,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
    ) -> None:
        self.masters = MasterWeights(model, precision)
        self.clip_norm = clip_norm
        groups = [
            {"params": [p for p in self.masters.params if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in self.masters.params if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)

    def step(self, learning_rate: float) -> float:
        """Clips, updates, publishes, clears -> the gradient norm before clipping. NaN or infinity raises, changing nothing."""
        grad_norm = torch.nn.utils.clip_grad_norm_(self.masters.params, self.clip_norm or math.inf)
        if not torch.isfinite(grad_norm):
            self.zero_grad()
            raise TrainingDiverged(f"the gradient norm is {grad_norm.item()}")
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.masters.publish()
        self.zero_grad()
        return float(grad_norm)

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"masters": self.masters.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.masters.load_state_dict(state["masters"])
        self._adamw.load_state_dict(state["adamw"])
