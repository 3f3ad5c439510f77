"""The live table as a terminal gets it: a real run drives it, frame by frame."""

import io
import re
import time

import pytest
from rich.console import Console

from farthing.config import StageConfig, load_recipe
from farthing.live import LiveTable, Pace
from farthing.pipeline import run_recipe
from farthing.run import Metrics
from tests.conftest import MICRO

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HEADINGS = ("step", "loss", "reward", "correct", "held-out", "length", "entropy", "gap", "sample t/s", "train t/s", "s/step")


def terminal(width: int = 160) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=40)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return ESCAPES.sub("", console.file.getvalue())


class UntilDrawn:
    """Holds a step until the table, which redraws four times a second, has drawn it."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        """Only steps are waited for."""

    def on_step(self, stage: str, step: int, metrics: Metrics) -> None:
        deadline = time.monotonic() + 60
        while stage == "r1_zero" and step == 3 and "step 4/6" not in written(self.console):
            assert time.monotonic() < deadline, "the table does not redraw"
            time.sleep(0.05)

    def on_message(self, text: str) -> None:
        """Only steps are waited for."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> str:
    console = terminal()
    with LiveTable(console) as table:
        run_recipe(load_recipe(str(MICRO)), tmp_path_factory.mktemp("live") / "run", [table, UntilDrawn(console)])
    return written(console)


def test_a_run_shows_what_a_user_watches_for(seen: str) -> None:
    assert " ".join(HEADINGS).split() in [line.split() for line in seen.splitlines()]
    row = next(line for line in seen.splitlines() if re.match(r"\s*4 ", line) and "%" in line)
    assert len(row.split()) == len(HEADINGS), "every cell of a step with an evaluation is filled"
    assert re.search(r"step 4/6 +\d+:\d\d left +\$0\.\d{4} so far, about \$0\.\d{4} after this stage", seen)


def test_stages_are_named_and_their_last_step_stays_on_the_screen(seen: str) -> None:
    assert "base: 16 steps" in seen
    assert "r1_zero: 6 steps" in seen
    assert "base 16/16  loss" in seen


METRICS: Metrics = {
    "loss": -0.012, "reward": 1.05, "accuracy": 0.875, "eval_accuracy": 0.9375, "completion_tokens": 1021.5,
    "entropy": 0.351, "logprob_gap": 3e-5, "rollout_tokens_per_s": 14321.0, "train_tokens_per_s": 9876.0,
    "step_time": 12.5, "usd": 1.25,
}  # fmt: skip


def test_nothing_is_cut_on_a_terminal_of_80_columns() -> None:
    console = terminal(width=80)
    table = LiveTable(console)
    table.pace.start(110, 0)
    table.on_step("r1_zero", 99, METRICS)
    console.print(table._render())
    text = written(console)
    assert "…" not in text
    assert any(line.startswith("step 100/110") and line.strip().endswith("after this stage") for line in text.splitlines())
    for value in ("100", "-0.012", "87.5%", "93.8%", "1021.5", "0.351", "3e-05", "14,321", "9,876", "12.5", "$1.2500"):
        assert value in text


def test_steps_of_a_growing_batch_are_weighed_by_their_work() -> None:
    """Work 2, 4, 6, 8, 8. Two steps of 1 s and 2 s, the second for 4 cents: half a second and a cent a unit of the 22 left."""
    pace = Pace()
    pace.start(5, 0, [2.0, 4.0, 6.0, 8.0, 8.0].__getitem__)
    pace.step(0, {"step_time": 1.0, "usd": 0.10})
    pace.step(1, {"step_time": 2.0, "usd": 0.14})
    assert pace.seconds_left == pytest.approx(11.0)
    assert pace.usd_at_end == pytest.approx(0.14 + 0.22)


def test_time_and_money_left_are_those_of_the_steps_to_come() -> None:
    pace = Pace()
    pace.start(num_steps=10, first_step=2)
    for step, (seconds, usd) in enumerate([(2.0, 1.10), (4.0, 1.15), (3.0, 1.20)], start=2):
        pace.step(step, {"step_time": seconds, "usd": usd})
    assert pace.done == 5
    assert pace.seconds_left == pytest.approx(3.0 * 5)
    assert pace.usd_at_end == pytest.approx(1.20 + 0.05 * 5)
