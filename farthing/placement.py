"""A recipe's `accelerator` -> the torch device that model, optimizer and key/value cache are on, and what to ask of it.

Everything below the stages takes its device from the model's own weights; this file alone names kinds of device.
What of it could be run by us, and what could not, says docs/gpu.md.
"""

import os
import platform
import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farthing.config import AcceleratorChoice
from farthing.config.recipe import LOCAL_CPU
from farthing.errors import RecipeError
from farthing.origin import cpu_name
from farthing.planner.hardware import find_device

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """Where a run computes."""

    device: torch.device

    @property
    def _module(self) -> Any:
        """torch.cuda, torch.mps, or what a backend outside torch registered."""
        return torch.get_device_module(self.device)

    @property
    def name(self) -> str:
        """Of the chip, as its maker calls it."""
        if self.device.type == "cuda":
            return str(torch.cuda.get_device_name(self.device))
        return cpu_name() if self.device == CPU else f"{self.device.type} of {platform.machine()}"

    def prepare(self) -> None:
        """Before anything is computed: asks for kernels that give the same bits every time, for a resume to be exact."""
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # where an operator has no such kernel torch warns once and the last bits may differ
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def synchronise(self) -> None:
        """Waits until the device has done all it was given; CPUs always have."""
        if self.device != CPU:
            self._module.synchronize()

    def peak_memory_gib(self) -> float:
        """Most memory held so far: by torch on the device, or by this whole process where the device is the CPU."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device)) / 2**30
        if self.device.type == "mps":
            return float(torch.mps.driver_allocated_memory()) / 2**30  # it keeps what was freed, so this is the most so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30

    def rng_state(self) -> dict[str, Tensor]:
        """State of torch's random numbers, by kind of device; the CPU's is always in it."""
        own = {} if self.device == CPU else {self.device.type: self._module.get_rng_state()}
        return {"cpu": torch.get_rng_state(), **own}

    def set_rng_state(self, state: dict[str, Tensor]) -> None:
        """A checkpoint from another kind of device says nothing about this one's numbers, and they stay as they are."""
        torch.set_rng_state(state["cpu"])
        if self.device != CPU and self.device.type in state:
            self._module.set_rng_state(state[self.device.type])


def place(choice: AcceleratorChoice, price_key: str | None = None) -> Placement:
    """RecipeError where the accelerator asked for is not here.

    auto: CUDA where torch finds it, else the CPU. With a `price_key`, a run's `device`, it must be one that can be the
    price of a GPU: a run that is charged as "local-cpu" stays on the CPU.
    """
    has_cuda = torch.cuda.is_available()
    if choice == "auto":
        return Placement(torch.device("cuda") if has_cuda and price_key != LOCAL_CPU else CPU)
    is_here = {"cpu": True, "cuda": has_cuda, "mps": torch.backends.mps.is_available()}
    if not is_here[choice]:
        no_cuda = choice == "cuda" and torch.version.cuda is None
        why = "this torch is built without CUDA" if no_cuda else "torch finds none here"
        allowed = ", ".join(["auto", *(name for name, here in is_here.items() if here)])
        raise RecipeError(
            f'accelerator = "{choice}", but {why}; allowed on this machine: {allowed}. '
            "Set one of them, or install a torch and a driver for the accelerator"
        )
    return Placement(torch.device(choice))


def price_note(placement: Placement, price_key: str) -> str | None:
    """What to tell where the bill charges another kind of device than the one that computes."""
    on_cpu = placement.device == CPU
    if on_cpu and price_key == LOCAL_CPU and torch.cuda.is_available():
        return (
            f'a CUDA device is here, and stays idle because the run is charged as device = "{LOCAL_CPU}"; to use it set '
            "`device` to the key of its price, such as h100-80gb (`farthing prices` lists them)"
        )
    if on_cpu and find_device(price_key) is not None:
        return f'the run computes on the CPU, and is charged as device = "{price_key}"'
    return None
