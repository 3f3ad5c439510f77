"""A model in fp32, bf16 or fp8 -> the same model, with fp32 master weights and gradients for the optimizer.

In bf16 the module itself holds bf16 weights, which trainer and engine share, so no forward pass casts a weight.
Gradients are added up in fp32 (a bf16 sum over microbatches loses small ones), the optimizer steps fp32 masters, and
`publish` rounds these into the module: mixed precision as in arXiv:1710.03740, without loss scaling, which bf16 does not need.

fp8 is said of the products of linear layers alone (`models/fp8_linear.py`). All else is computed in the type that the machine
is best at, bf16 or fp32, and masters and gradients are fp32 as ever.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from farthing.config import PrecisionChoice
from farthing.models.fp8_linear import use_fp8

Compute = Literal["fp32", "bf16"]
Precision = Literal[Compute, "fp8"]
DTYPES: dict[Compute, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def best_precision(device: torch.device) -> Compute:
    """bf16 on GPUs that have it (Ampere on) and on CPUs that multiply it faster than fp32 (AMX), else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_amx_tile_supported() else "fp32"


def resolve_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    return best_precision(device) if choice == "auto" else choice


def compute_precision(precision: Precision, device: torch.device) -> Compute:
    """Of weights and activations. Beside fp8 products that is the device's best: bf16 without hardware for it takes
    hundreds of times as long as fp32."""
    return best_precision(device) if precision == "fp8" else precision


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    return DTYPES[compute_precision(precision, device)]


def set_precision(model: nn.Module, precision: Precision) -> None:
    """Casts the weights to the type of compute where they are, and says how linear layers multiply."""
    model.to(compute_dtype(precision, next(model.parameters()).device))
    use_fp8(model, precision == "fp8")


class MasterWeights:
    """The fp32 parameters an optimizer owns. Computed in fp32 they are the module's own; in bf16 they are copies."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        self._module = model
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        owned = dict(model.named_parameters())
        is_rounded = compute_precision(precision, next(model.parameters()).device) == "bf16"
        self._masters = [owned[name].detach().float() for name in self.names] if is_rounded else None
        set_precision(model, precision)
        self._module_params = [owned[name] for name in self.names]
        if self._masters is None:
            self.params: list[nn.Parameter] = self._module_params
            return
        self.params = [nn.Parameter(m) for m in self._masters]
        for param, master in zip(self._module_params, self.params, strict=True):
            param.register_post_accumulate_grad_hook(_move_grad_to(master))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def publish(self) -> None:
        """Rounds the masters into the module; nothing to do where they are its own."""
        if self._masters is not None:
            for param, master in zip(self._module_params, self.params, strict=True):
                param.copy_(master)

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> fp32 master; and the state that no gradient trains, such as the biases that balance experts."""
        masters = {name: p.detach() for name, p in zip(self.names, self.params, strict=True)}
        return masters | dict(self._module.named_buffers())

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, param in zip(self.names, self.params, strict=True):
            param.copy_(state[name])
        for name, buffer in self._module.named_buffers():
            buffer.copy_(state[name])
        self.publish()


class _move_grad_to:  # noqa: N801 - reads as a function where it is used
    """Hook: adds a parameter's bf16 gradient to its master's fp32 one, and frees it."""

    def __init__(self, master: nn.Parameter) -> None:
        self.master = master

    def __call__(self, param: Tensor) -> None:
        grad = param.grad
        if grad is None:
            return
        if self.master.grad is None:
            self.master.grad = grad.float()
        else:
            self.master.grad += grad
        param.grad = None
