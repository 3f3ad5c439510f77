"""Start-up: CPU seconds of `farthing --help`; `farthing run` to its first rollout, with kernels built before and not."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.results import Figure, write

HELP_LIMIT_S, ROLLOUT_LIMIT_S = 0.3, 6.0
WARMUP_SHARE, SHORT_RUN_S = 0.05, 300
# one step of pretraining, then GRPO at once: what comes before a rollout, without the minutes of training in between
TO_GRPO = (
    "base.num_steps=1", "base.optim.warmup_steps=0", "r1_zero.num_steps=1", "r1_zero.optim.warmup_steps=0",
    "r1_zero.eval.num_problems=1", "r1_zero.eval.samples=1",
)  # fmt: skip
DEADLINE_S = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one sample of each; goes to runs/bench, no report")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    count = 1 if args.quick else args.samples
    _help_seconds()
    helps = [_help_seconds() for _ in range(count)]
    warm = [_to_first_grpo_step({}) for _ in range(count)]
    cold = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_to_first_grpo_step({"XDG_CACHE_HOME": cache}))
    built_s = max(0.0, median(cold) - median(warm))
    share = built_s / SHORT_RUN_S
    figures = [
        _figure("farthing --help, CPU", [cpu for cpu, _ in helps], f"under {HELP_LIMIT_S:g} s", HELP_LIMIT_S),
        _figure("farthing --help, wall", [wall for _, wall in helps]),
        _figure("farthing run r1-zero-tiny to its first GRPO step", warm, f"under {ROLLOUT_LIMIT_S:g} s", ROLLOUT_LIMIT_S),
        _figure("the same, nothing cached (kernels are built)", cold),
        Figure(
            "warm-up share of a 5-minute run",
            100 * share,
            "%",
            count,
            f"under {WARMUP_SHARE:.0%}",
            share < WARMUP_SHARE,
            note="the difference of those two",
        ),
    ]
    note = (
        "To the first GRPO step: the process starts, pretrains one step, evaluates one problem, then samples, rewards and "
        "updates with the recipe's own sizes; the first rollout lies before its end."
    )
    path = Path("runs/bench/startup-quick.json") if args.quick else None
    return write("startup", f"python -m bench {' '.join(sys.argv[1:])}", figures, note, path=path)


def _figure(name: str, seconds: Sequence[float], target: str = "", limit: float | None = None) -> Figure:
    value = median(seconds)
    reached = None if limit is None else value < limit
    return Figure(name, value, "s", len(seconds), target, reached, spread=(min(seconds), max(seconds)))


def _help_seconds() -> tuple[float, float]:
    """CPU and wall seconds of the process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "farthing", "--help"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"farthing --help left with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, wall


def _to_first_grpo_step(env: Mapping[str, str]) -> float:
    """Seconds until the step is logged; the run is killed then."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "-m", "farthing", "run", "r1-zero-tiny", "--run-dir", str(run_dir), "--plain"]
        for setting in TO_GRPO:
            command += ["--set", setting]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **env})
        while not _has_step(run_dir, "r1_zero"):
            if process.poll() is not None or time.perf_counter() - started > DEADLINE_S:
                # it may have ended between the two looks
                if _has_step(run_dir, "r1_zero"):
                    break
                process.kill()
                raise SystemExit(f"no GRPO step was logged: {process.communicate()[1].decode()[-500:]}")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        process.kill()
        process.communicate()
        return seconds


def _has_step(run_dir: Path, stage: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
        return any(json.loads(line)["stage"] == stage for line in lines if line.endswith("\n"))
    return False
