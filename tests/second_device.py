"""A device named `second` that computes with the CPU's kernels and takes no tensor of the CPU: a GPU as far as mixing goes.

PyTorch lets a backend of its own be written in Python (the key PrivateUse1). This one wraps CPU tensors. It refuses what a GPU
refuses: operators given tensors of two devices, but for single numbers, copies, and indices, which may lie on the CPU.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
CPU = torch.device("cpu")
MIXED = {
    aten.copy_.default,
    aten._copy_from.default,
    aten.index.Tensor,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
BY_NAME = {
    "empty.memory_format": aten.empty.memory_format,
    "empty_strided": aten.empty_strided.default,
    "arange": aten.arange.default,
    "arange.start": aten.arange.start,
    "arange.start_step": aten.arange.start_step,
    "_copy_from": aten._copy_from.default,
}
"""What comes without a tensor of ours, or from inside PyTorch where Python's dispatch is off."""


class SecondTensor(torch.Tensor):
    """A tensor on `second`; `raw` holds its numbers."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "SecondTensor":
        made: SecondTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.shape, raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=torch.device("second", 0)
        )
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.raw.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"on second: {self.raw!r}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In files it is a tensor of the CPU, as a GPU's is for whoever loads it there."""
        return self.raw.__reduce_ex__(protocol)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: "SecondTensor") -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw = value.raw

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return run(func, *args, **(kwargs or {}))


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operator, by the CPU's kernel."""
    wanted = kwargs.get("device")
    raw_args = _raw(args, func)
    if func is aten._copy_from.default:
        raw_args[1].copy_(raw_args[0])
        return args[1]
    raw_kwargs = {name: CPU if name == "device" else _raw(value, func) for name, value in kwargs.items()}
    result = func(*raw_args, **raw_kwargs)
    if func is aten._to_copy.default and wanted is not None and torch.device(wanted).type == "cpu":
        return result
    return _same_or_wrapped(func, args, kwargs, result)


def _raw(value: Any, func: Any) -> Any:
    """The CPU's tensors behind ours; one that is the CPU's own already does not belong here."""
    if isinstance(value, SecondTensor):
        return value.raw
    if isinstance(value, list | tuple):
        return [_raw(item, func) for item in value]
    if isinstance(value, Tensor) and value.ndim and func not in MIXED:
        raise RuntimeError(f"{func} was given tensors on second and on {value.device}: {value.shape}")
    return value


def _wrap(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_wrap(item) for item in value)
    return SecondTensor(value) if isinstance(value, Tensor) else value


@functools.cache
def _aliases(func: Any) -> tuple[int | None, bool]:
    """(place of the argument that is written to and returned, whether the result is a view)."""
    infos = [a.alias_info for a in func._schema.arguments]
    written = [i for i, info in enumerate(infos) if info is not None and info.is_write]
    return (written[0] if written and func._schema.returns else None), not written and any(infos)


def _same_or_wrapped(func: Any, args: Sequence[Any], kwargs: Any, result: Any) -> Any:
    """In-place and out operators return what they were given, others a new tensor or a view."""
    written, is_view = _aliases(func)
    if written is not None and isinstance(result, Tensor):
        return args[written] if written < len(args) else kwargs[func._schema.arguments[written].name]
    if is_view:
        # a view of an ordinary tensor is an ordinary one in inference mode too
        with torch.inference_mode(args[0].is_inference()):
            return _wrap(result)
    return _wrap(result)


class _Module:
    """What torch.get_device_module("second") gives."""

    num_synchronised = 0

    def synchronize(self) -> None:
        self.num_synchronised += 1

    def get_rng_state(self) -> Tensor:
        return torch.arange(4, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor) -> None:
        assert state.tolist() == [0, 1, 2, 3]

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """It draws no numbers."""


def register() -> torch.device:
    """The device; registered once in a process."""
    if not hasattr(torch, "second"):
        _setup_privateuseone_for_python_backend("second", _Module())
        _library.append(torch.library.Library("aten", "IMPL"))
        for name, operator in BY_NAME.items():
            _library[0].impl(name, functools.partial(run, operator), "PrivateUse1")
    return torch.device("second")


_library: list[Any] = []
