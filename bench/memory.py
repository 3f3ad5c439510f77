"""GRPO on SmolLM2-135M with 64 completions of 256 tokens: peak resident memory of the whole process tree."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

import psutil

from bench.results import Figure, write

SETTINGS = (
    "r1_zero.num_steps=2", "r1_zero.num_prompts=8", "r1_zero.group_size=8", "r1_zero.max_completion_tokens=256",
    "r1_zero.num_slots=64", "r1_zero.checkpoint.every=0", "r1_zero.stop=[]",
    "r1_zero.eval={num_problems=8, samples=1}",
    "r1_zero.reward={accuracy=1.0, format=0.0, extract='text'}",
)  # fmt: skip
NUM_TOKENS = 256
LIMIT_GIB = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(measure=measure)


def measure(_args: argparse.Namespace) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-m", "bench.sides.farthing_full_grpo", folder, *SETTINGS])
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.05)
        if process.returncode:
            raise SystemExit(f"the run failed with {process.returncode}")
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    length, flat = fmean(row["completion_tokens"] for row in rows), fmean(row["flat_groups"] for row in rows)
    if length < NUM_TOKENS or flat:
        raise SystemExit(
            f"completions had {length:.1f} tokens on average, {flat:.0%} of groups were flat: nothing was measured"
        )
    gib = peak / 2**30
    figure = Figure("peak resident memory", gib, "GiB", 1, f"under {LIMIT_GIB} GiB", gib < LIMIT_GIB)
    note = "Two steps, every completion at its full length and trained on; worker processes included, sampled at 20 Hz."
    return write("memory", "python -m bench memory", [figure], note)


def _resident(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (root, *root.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
