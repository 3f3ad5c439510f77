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
    """Fused AdamW on fp32 master weights; matrices decay, vectors (norms, biases) do not.

    The operator is the one that torch.optim.AdamW(fused=True) runs, to the bit. That class is not used because making one loads
    torch's compiler: two seconds of every start.
    """

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
        self.betas, self.eps, self.weight_decay, self.clip_norm = betas, eps, weight_decay, clip_norm
        self._means = [torch.zeros_like(p) for p in self.masters.params]
        self._squares = [torch.zeros_like(p) for p in self.masters.params]
        self._steps = [torch.zeros((), device=p.device) for p in self.masters.params]

    def step(self, learning_rate: float) -> float:
        """Clips, updates, publishes, clears -> the gradient norm before clipping. NaN or infinity raises, changing nothing."""
        grad_norm = torch.nn.utils.clip_grad_norm_(self.masters.params, self.clip_norm or math.inf)
        if not torch.isfinite(grad_norm):
            self.zero_grad()
            raise TrainingDiverged(f"the gradient norm is {grad_norm.item()}")
        self._adamw(learning_rate, self.weight_decay, [i for i, p in enumerate(self.masters.params) if p.ndim >= 2])
        self._adamw(learning_rate, 0.0, [i for i, p in enumerate(self.masters.params) if p.ndim < 2])
        # the operator does not say that it wrote: packed copies of weights go by the version (models/linear.py)
        torch.autograd.graph.increment_version(self.masters.params)
        self.masters.publish()
        self.zero_grad()
        return float(grad_norm)

    @torch.no_grad()
    def _adamw(self, learning_rate: float, weight_decay: float, indices: list[int]) -> None:
        """Steps the parameters of these indices that have a gradient; the others, and their moments, stay as they are."""
        grads = {i: grad for i in indices if (grad := self.masters.params[i].grad) is not None}
        if not grads:
            return
        params, means, squares, steps = (
            [tensors[i] for i in grads] for tensors in (self.masters.params, self._means, self._squares, self._steps)
        )
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            params,
            list(grads.values()),
            means,
            squares,
            [],
            steps,
            lr=learning_rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def zero_grad(self) -> None:
        for param in self.masters.params:
            param.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Name -> tensor of the masters, both moments, and the steps that each parameter has taken."""
        moments = {"means": self._means, "squares": self._squares, "steps": self._steps}
        named = {key: dict(zip(self.masters.names, tensors, strict=True)) for key, tensors in moments.items()}
        return {"masters": self.masters.state_dict(), **named}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.masters.load_state_dict(state["masters"])
        for key, tensors in (("means", self._means), ("squares", self._squares), ("steps", self._steps)):
            for name, tensor in zip(self.masters.names, tensors, strict=True):
                tensor.copy_(state[key][name])
