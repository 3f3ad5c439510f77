"""Plots of a run: what is in them, that they are the same twice, and what happens when there is little to draw."""

import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from farthing.errors import LedgerError, RunError
from farthing.panels import GRPO_HERO, smooth
from farthing.plot import draw, plot_run, read_spending
from farthing.summary import bill_of
from tests.run_history import HEALTHY_GRPO, RunHistory

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stages; the second was killed at step 20 and went on from step 9."""
    history = RunHistory(tmp_path_factory.mktemp("plot"))
    history.start()
    history.base()
    history.train("r1_zero", HEALTHY_GRPO, range(20))
    history.ledger.append(attempt=1, kind="attempt_end", detail={"outcome": "killed", "error": None})
    history.start(resumed_from=("r1_zero", 9))
    history.train("r1_zero", HEALTHY_GRPO, range(10, 60))
    history.evaluation("r1_zero", "after", 0.6)
    history.end()
    return history.dir


def test_both_files_are_written_and_the_svg_is_the_same_twice(run_dir: Path, tmp_path: Path) -> None:
    style = dict(matplotlib.rcParams)
    first, second = plot_run(run_dir, tmp_path / "a"), plot_run(run_dir, tmp_path / "b", formats=("svg",))
    assert [path.name for path in first] == ["curves.png", "curves.svg"]
    assert first[0].read_bytes().startswith(PNG_MAGIC)
    assert first[1].read_bytes() == second[0].read_bytes()
    root = ET.parse(first[1]).getroot()
    assert root.tag.endswith("svg")
    assert b"<dc:date>" not in first[1].read_bytes()
    assert dict(matplotlib.rcParams) == style, "the user's own style is left alone"


def test_the_spending_ends_at_the_bill(run_dir: Path) -> None:
    spending, bill = read_spending(run_dir), bill_of(run_dir).to_json()
    assert sum(values[-1] for values in spending.usd.values()) == pytest.approx(float(bill["total_usd"]))
    assert spending.hours[-1] * 3600 == pytest.approx(bill["held_s"])
    assert spending.hours == sorted(spending.hours)
    assert [name for name, _, _ in spending.stages] == ["", "base", "r1_zero", "", "r1_zero"]
    # attempt 2 began after set-up 2 s, base 60 s + 20 s, 20 steps of 7.21 s
    assert spending.attempts == [pytest.approx((2 + 80 + 20 * 7.21) / 3600)]


def test_steps_count_from_one_and_missing_metrics_are_left_out() -> None:
    axes = Figure().add_subplot()
    draw(axes, GRPO_HERO, [{"step": 0, "reward": 0.2}, {"step": 1, "reward": 0.4}], num_steps=2)
    raw, smoothed = axes.get_lines()
    assert np.array_equal(raw.get_xydata(), [[1, 0.2], [2, 0.4]])
    assert np.array_equal(smoothed.get_xydata(), [[1, 0.2], [2, 0.4]])
    assert axes.get_ylim()[0] == 0


def test_smoothing_keeps_the_length_and_a_constant() -> None:
    assert smooth([3.0] * 100) == pytest.approx([3.0] * 100)
    # a reach of 2 on either side at 80 values: the mean of five
    assert smooth([0.0] * 40 + [5.0] + [0.0] * 39)[38:43] == pytest.approx([1.0] * 5)
    assert smooth([1.0, 2.0]) == [1.0, 2.0]


def test_a_run_of_one_step_can_be_drawn(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.train("base", {"loss": lambda x: 4.0}, range(1))
    history.end()
    assert plot_run(history.dir, tmp_path / "out", formats=("png",))[0].stat().st_size > 10_000


def test_nothing_to_plot_and_no_run_are_said(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.end()
    with pytest.raises(RunError, match="no step of training yet"):
        plot_run(history.dir, tmp_path / "out")
    with pytest.raises(RunError, match="no run directory"):
        plot_run(tmp_path / "nowhere", tmp_path / "out")


def test_a_broken_ledger_is_not_drawn(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.train("base", {"loss": lambda x: 4.0}, range(3))
    history.end()
    (history.dir / "ledger.sqlite").unlink()
    with pytest.raises(LedgerError, match="no ledger"):
        plot_run(history.dir, tmp_path / "out")
