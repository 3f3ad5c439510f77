"""The arithmetic of the FP8 bench: what part of a curve counts, and an accumulator that forgets."""

import json
from pathlib import Path

import pytest
import torch

from bench.fp8 import cut, end, losses, mean_figure, relative_error, short_sum


def test_the_end_of_a_curve_is_its_last_fifth() -> None:
    curve = [9.0] * 8 + [1.0, 3.0]
    assert end(curve) == 2.0
    assert end([5.0]) == 5.0
    assert relative_error([9.0] * 8 + [1.0, 3.02], curve) == pytest.approx(0.005)


def test_a_step_done_twice_counts_once(tmp_path: Path) -> None:
    rows = [(0, 3.0), (1, 2.0), (1, 2.5), (2, 1.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "loss": v}) + "\n" for s, v in rows))
    assert losses(tmp_path) == [3.0, 2.5, 1.0]


def test_the_target_is_of_fp8_and_of_its_whole_interval() -> None:
    assert mean_figure("fp8", [0.0010, 0.0011, 0.0012], [0, 1, 2]).reached is True
    assert mean_figure("fp8", [-0.0060, 0.0, 0.0060], [0, 1, 2]).reached is False, "the mean is 0, the interval is wide"
    assert mean_figure("fp8", [0.001], [0]).reached is None
    assert mean_figure("anything else", [0.1, 0.1, 0.1], [0, 1, 2]).reached is None


def test_fourteen_bits_are_kept_and_the_rest_is_cut_off() -> None:
    assert cut(torch.tensor([1 + 2**-13, 1 + 2**-14, -(1 + 2**-14)])).tolist() == [1 + 2**-13, 1.0, -1.0]


def test_a_short_accumulator_stands_still_and_promotion_mends_it() -> None:
    """32 channels of 2^-9 add 2^-4 to 1,024, whose last of 14 bits is 2^-3: never a step. Promoted, they add 0.25 each time."""
    a, b = torch.full((1, 1024), 2.0**-9), torch.ones(1, 1024)
    a[0, 0] = 1024
    assert short_sum(a, b, promote_every=1024).item() == 1024
    promoted = short_sum(a, b, promote_every=128).item()
    assert promoted == 1024 + 7 * 0.25
    assert (a @ b.T).item() == pytest.approx(1024 + 1023 * 2**-9)
