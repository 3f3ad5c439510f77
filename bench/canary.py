"""This machine -> which precisions are worth measuring, its limits, and a matmul that tells when it was disturbed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from farthing.placement import place
from farthing.precision import DTYPES, Precision
from farthing.probe import matmul_peak_flops

CANARY_SIZE = 1024
CANARY_REPEATS = 6
READ_BYTES = 1 << 30


def bf16_hardware() -> str:
    """ "AMX", "AVX512-bf16" or "": without either a bf16 matmul is emulated, and a large one takes minutes."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    cpuinfo = Path("/proc/cpuinfo")
    return "AVX512-bf16" if cpuinfo.is_file() and "avx512_bf16" in cpuinfo.read_text() else ""


def precisions(choice: str) -> tuple[list[Precision], str]:
    """(what to measure, what to say of the rest) for `--precision`; SystemExit for bf16 where it cannot be measured."""
    hardware = bf16_hardware()
    if choice == "fp32":
        return ["fp32"], ""
    if choice == "bf16":
        if not hardware:
            raise SystemExit("--precision bf16 needs a CPU with AMX or AVX512-bf16; this one has neither. Take fp32 or auto")
        return ["bf16"], ""
    return (["fp32", "bf16"], "") if hardware else (["fp32"], "bf16 not measured: the CPU has neither AMX nor AVX512-bf16.")


def canary(precision: Precision) -> float:
    """Seconds of a fixed matmul, the best of a few."""
    a = torch.ones(CANARY_SIZE, CANARY_SIZE, dtype=DTYPES[precision])
    return _best(lambda: a @ a, CANARY_REPEATS)


@dataclass(frozen=True)
class Limits:
    """What the machine reaches in the two things that generation and training are made of."""

    matmul_flops: float
    """FLOP/s of a large matmul, measured."""
    read_bytes: float
    """Bytes/s of reading memory that no cache holds, measured."""

    def better(self, other: "Limits") -> "Limits":
        return Limits(max(self.matmul_flops, other.matmul_flops), max(self.read_bytes, other.read_bytes))


@dataclass(frozen=True)
class Counted:
    """FLOPs and bytes that a piece of work cannot do without."""

    flops: float
    bytes: float = 0.0

    def bound_s(self, limits: Limits) -> tuple[float, str]:
        """The shortest time it can take, and what bounds it."""
        compute_s, read_s = self.flops / limits.matmul_flops, self.bytes / limits.read_bytes
        return (compute_s, "matmul peak") if compute_s >= read_s else (read_s, "read bandwidth")


def measure_limits(precision: Precision) -> Limits:
    """Half a second to a second; the better of two measurements at different times is nearer to the limit."""
    memory = torch.ones(READ_BYTES // 4)
    return Limits(matmul_peak_flops(precision, place("cpu")), READ_BYTES / _best(lambda: memory.sum(), 5))


def _best(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
