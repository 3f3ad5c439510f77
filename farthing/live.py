"""Steps of a run -> what a person sees while it goes: a rich table, plain lines, or tensorboard curves."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from farthing.config import StageConfig
from farthing.errors import RecipeError
from farthing.metrics import METRICS
from farthing.run import Metrics

COLUMNS: dict[str, tuple[str, str]] = {
    "loss": ("loss", "{:.3f}"),
    "distill_kl": ("to teacher", "{:.3f}"),
    "reward": ("reward", "{:.3f}"),
    "accuracy": ("correct", "{:.1%}"),
    "eval_accuracy": ("held-out", "{:.1%}"),
    "held_out_bits_per_byte": ("bits/byte", "{:.3f}"),
    "preference_accuracy": ("in order", "{:.1%}"),
    "eval_preference_accuracy": ("held-out", "{:.1%}"),
    "completion_tokens": ("length", "{:.1f}"),
    "kept": ("kept", "{:,.0f}"),
    "entropy": ("entropy", "{:.3f}"),
    "logprob_gap": ("gap", "{:.0e}"),
    "rollout_tokens_per_s": ("sample t/s", "{:,.0f}"),
    "train_tokens_per_s": ("train t/s", "{:,.0f}"),
    "step_time": ("s/step", "{:.1f}"),
    "budget": ("budget", "{:.0%}"),
}
"""Metric -> its heading and format in the table; those a stage does not log are left out."""

ROWS_SHOWN = 12


EVALUATIONS = {"eval_accuracy", "eval_preference_accuracy", "held_out_bits_per_byte"}
"""Metrics of steps with an evaluation, which a log always shows."""


class Pace:
    """Steps done so far -> time and dollars still to come, at the recent pace; steps of a growing batch by their work."""

    def __init__(self) -> None:
        self.num_steps = self.done = 0
        self._work: Callable[[int], float] = lambda step: 1.0
        self._left = 0.0
        self._recent: list[tuple[float, float, float]] = []
        """Of the latest steps: work, seconds, dollars of the run at its end."""

    def start(self, num_steps: int, first_step: int, work: Callable[[int], float] = lambda step: 1.0) -> None:
        self.num_steps, self.done, self._work = num_steps, first_step, work
        self._left = sum(map(work, range(first_step, num_steps)))
        self._recent = []

    def step(self, step: int, metrics: Metrics) -> None:
        self.done = step + 1
        work = self._work(step)
        self._left -= work
        self._recent = [*self._recent, (work, metrics["step_time"], metrics["usd"])][-50:]

    @property
    def seconds_left(self) -> float:
        work = sum(work for work, _, _ in self._recent)
        return sum(seconds for _, seconds, _ in self._recent) / work * self._left if work else 0.0

    @property
    def usd_at_end(self) -> float:
        """What the run will have cost when this stage ends."""
        if len(self._recent) < 2:
            return self._recent[-1][2] if self._recent else 0.0
        spent, work = self._recent[-1][2] - self._recent[0][2], sum(work for work, _, _ in self._recent[1:])
        return self._recent[-1][2] + spent / work * self._left


def clock_text(seconds: float) -> str:
    """75 -> 1:15, 3700 -> 1:01:40."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class LiveTable:
    """A table of the latest steps with a bar, the time left, and the money."""

    def __init__(self, console: Console) -> None:
        self.console, self.pace = console, Pace()
        self.stage = ""
        self._rows: list[tuple[int, Metrics]] = []
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveTable":
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.update(Text(""))
        self._live.__exit__(None, None, None)

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        self._print_last()
        self.stage, self._rows = stage, []
        self.pace.start(config.num_steps, first_step, config.work)
        again = f", going on at step {first_step}" if first_step else ""
        self.console.print(f"[bold]{stage}[/bold]: {config.num_steps} steps{again}")
        self._live.update(Text("  preparing: held-out problems, first evaluation ..."))

    def on_step(self, stage: str, step: int, metrics: Metrics) -> None:
        self.pace.step(step, metrics)
        self._rows = [*self._rows, (step, metrics)][-ROWS_SHOWN:]
        self._live.update(self._render())

    def on_message(self, text: str) -> None:
        self.console.print(f"[yellow]{text}[/yellow]")

    def _render(self) -> RenderableType:
        shown = [name for name in COLUMNS if any(name in metrics for _, metrics in self._rows)]
        # one space between columns: all of them fit into 80
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("step", justify="right")
        for name in shown:
            table.add_column(COLUMNS[name][0], justify="right")
        for step, metrics in self._rows:
            cells = [COLUMNS[name][1].format(metrics[name]) if name in metrics else "" for name in shown]
            table.add_row(str(step + 1), *cells)
        pace = self.pace
        status = Text(
            f"step {pace.done}/{pace.num_steps}   {clock_text(pace.seconds_left)} left   "
            f"${self._rows[-1][1]['usd']:.4f} so far, about ${pace.usd_at_end:.4f} after this stage"
        )
        bar = ProgressBar(total=pace.num_steps, completed=pace.done, width=60)
        # a bar does not end its line, padding does
        return Group(table, Padding(bar, 0), status)

    def _print_last(self) -> None:
        """Leaves a stage's last step on the screen when the next stage begins."""
        if self._rows:
            step, metrics = self._rows[-1]
            self.console.print(plain_line(self.stage, step, metrics, self.pace), style="dim")


class PlainLines:
    """One line a step, for logs; a step within the same second as the last line is left out, evaluations never are."""

    def __init__(self, write: Callable[[str], object], min_gap_s: float = 1.0) -> None:
        self.write, self.min_gap_s, self.pace = write, min_gap_s, Pace()
        self._last = -min_gap_s

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        self.pace.start(config.num_steps, first_step, config.work)
        self.write(f"stage {stage}: {config.num_steps} steps, from step {first_step}")

    def on_step(self, stage: str, step: int, metrics: Metrics) -> None:
        self.pace.step(step, metrics)
        now = time.monotonic()
        if now - self._last >= self.min_gap_s or EVALUATIONS & metrics.keys() or self.pace.done == self.pace.num_steps:
            self._last = now
            self.write(plain_line(stage, step, metrics, self.pace))

    def on_message(self, text: str) -> None:
        self.write(text)


def plain_line(stage: str, step: int, metrics: Metrics, pace: Pace) -> str:
    cells = [f"{head} {form.format(metrics[name])}" for name, (head, form) in COLUMNS.items() if name in metrics]
    left = f"left {clock_text(pace.seconds_left)}  ${metrics['usd']:.4f} (~${pace.usd_at_end:.4f})"
    return f"{stage} {step + 1}/{pace.num_steps}  {'  '.join(cells)}  {left}"


class TensorBoard:
    """Curves under RUN/tensorboard, one tag per metric and stage."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RecipeError("--tensorboard needs the extra: pip install 'farthing[track]'") from error
        self._writer = SummaryWriter(str(folder))

    def on_stage(self, stage: str, config: StageConfig, first_step: int) -> None:
        self._writer.add_text(f"{stage}/config", f"```\n{config.model_dump_json(indent=2)}\n```")

    def on_step(self, stage: str, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            unit = METRICS[name].unit
            tag = f"{stage}/{name}" + (f" [{unit}]" if unit else "")
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def on_message(self, text: str) -> None:
        """Messages have no curve."""
