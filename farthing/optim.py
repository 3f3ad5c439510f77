"""Gradients -> updated weights: AdamW (arXiv:1711.05101), global-norm clipping and the learning-rate schedules.

Schedules: constant, linear and cosine to the last step; `v3` is DeepSeek-V3's (arXiv:2412.19437, section 4.2), `wsd` MiniCPM's
(arXiv:2404.06395). Moments may be kept in bf16, as V3 keeps them (section 3.3.2): they are widened, stepped in fp32 with the
operator that steps fp32 moments, and rounded to the nearest; the update is made from them before they are rounded.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from farthing.config import MomentsChoice, OptimConfig
from farthing.errors import TrainingDiverged
from farthing.precision import DTYPES, MasterWeights, Precision

WIDEN_AT_ONCE = 1 << 18
"""Elements of bf16 moments that are there in fp32 at one time: 1 MiB each, which stays in a CPU's cache. A multiple of what
the operator does at once, so that the split changes no bit."""


def learning_rate(step: int, num_steps: int, optim: OptimConfig) -> float:
    """Linear warm-up from peak / warmup_steps, then `optim.schedule`; steps count from 0."""
    peak, final, warmup = optim.learning_rate, optim.final_share, optim.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if optim.schedule == "constant":
        return peak
    decay_from = optim.decay_from(num_steps)
    if step < decay_from:
        return peak
    if optim.schedule == "v3":
        return peak * _v3_share(step, num_steps, optim)
    progress = (step - decay_from) / max(1, num_steps - 1 - decay_from)
    if optim.schedule == "wsd" and optim.wsd.decay == "exponential":
        return peak * math.pow(final, progress)
    fall = _cosine(progress) if optim.schedule == "cosine" else 1 - progress
    return peak * (final + (1 - final) * fall)


def _v3_share(step: int, num_steps: int, optim: OptimConfig) -> float:
    """Of the peak, once it falls: a cosine down to `final_share`, `final_share`, `last_share`."""
    decay_from, decay_to = optim.decay_from(num_steps), round(optim.v3.decay_to * num_steps)
    if step >= round(optim.v3.last_from * num_steps):
        return optim.v3.last_share
    if step >= decay_to:
        return optim.final_share
    return optim.final_share + (1 - optim.final_share) * _cosine((step - decay_from) / (decay_to - decay_from))


def _cosine(progress: float) -> float:
    """1 at 0, 0 at 1."""
    return (1 + math.cos(math.pi * progress)) / 2


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
        moments: MomentsChoice = "fp32",
    ) -> None:
        self.masters = MasterWeights(model, precision)
        self.betas, self.eps, self.weight_decay, self.clip_norm = betas, eps, weight_decay, clip_norm
        self._means, self._squares = (
            [torch.zeros_like(p, dtype=DTYPES[moments]) for p in self.masters.params] for _ in range(2)
        )
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
        if means[0].dtype == torch.float32:
            self._fused(params, list(grads.values()), means, squares, steps, learning_rate, weight_decay)
            return
        for param, grad, mean, square, step in zip(params, grads.values(), means, squares, steps, strict=True):
            at_once = WIDEN_AT_ONCE if param.device.type == "cpu" else param.numel()
            flat = (torch.split(x.view(-1), at_once) for x in (param, grad.contiguous(), mean, square))
            for p, g, m, s in zip(*flat, strict=True):
                mean32, square32 = m.float(), s.float()
                self._fused([p], [g], [mean32], [square32], [step], learning_rate, weight_decay)
                m.copy_(mean32)
                s.copy_(square32)

    def _fused(
        self,
        params: list[Any],
        grads: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        steps: list[Tensor],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        torch._fused_adamw_(
            params,
            grads,
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
