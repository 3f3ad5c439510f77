"""From nothing to the first training step: clone, `make venv`, and a run until its first step is logged."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.results import Figure, write

LIMIT_MIN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(measure=measure)


def measure(_args: argparse.Namespace) -> Path:
    here = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        clone, run_dir = Path(folder) / "farthing", Path(folder) / "run"
        environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
        started = time.monotonic()
        subprocess.run(["git", "clone", "-q", str(here), str(clone)], check=True)
        subprocess.run(["make", "venv"], cwd=clone, check=True, stdout=sys.stderr, env=environment)
        installed_s = time.monotonic() - started
        command = [str(clone / ".venv/bin/farthing"), "run", "r1-zero-tiny", "--run-dir", str(run_dir), "--plain"]
        process = subprocess.Popen(command, cwd=clone, stdout=sys.stderr, env=environment)
        while not (run_dir / "metrics.jsonl").is_file() and process.poll() is None:
            time.sleep(0.05)
        minutes = (time.monotonic() - started) / 60
        if not (run_dir / "metrics.jsonl").is_file():
            raise SystemExit(f"the run ended with {process.returncode} before its first step")
        process.kill()
        process.wait()
    figures = [
        Figure("installed", installed_s / 60, "min", 1),
        Figure("first training step", minutes, "min", 1, f"under {LIMIT_MIN} min, torch downloaded", minutes < LIMIT_MIN),
    ]
    return write("install", "python -m bench install", figures)
