"""This machine -> what it reaches: the matmul peak that MFU is measured against."""

import time

import torch

from farthing.precision import DTYPES, Precision

_SIZE = 2048
_REPEATS = 5


def matmul_peak_flops(precision: Precision) -> float:
    """FLOP/s of a large square matmul, the best of a few; takes well under a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(_SIZE, _SIZE, device=device).to(DTYPES[precision])
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * _SIZE**3 / best
