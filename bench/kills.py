"""SIGKILL at random moments, resumed by the same command: equal digests, exact sums, dead attempts on the bill."""

import argparse
import datetime
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.results import Figure, write

MICRO = Path(__file__).parent.parent / "tests" / "data" / "micro.toml"
SET_UP_EVERY = 5
"""So many kills of a stage for one before any begins."""
LONGER = ("--set", "base.num_steps=400", "--set", "r1_zero.num_steps=200")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=22)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, pieces = Path(folder) / "whole", Path(folder) / "pieces"
        started, started_at = time.monotonic(), time.time()
        process = _start(whole)
        while not (whole / "metrics.jsonl").is_file() and process.poll() is None:
            time.sleep(0.01)
        setup_s = time.monotonic() - started
        process.communicate()
        seconds = time.monotonic() - started
        bill = _json("bill", whole)
        held_s = bill["held_s"]
        ended = datetime.datetime.fromisoformat(bill["attempts"][0]["ended_at"]).timestamp()
        # short enough that all the kills fit into one run
        latest = 1.5 * (seconds - setup_s) / args.kills
        early = killed = 0
        for number in range(args.kills):
            if number % SET_UP_EVERY == 0:
                early += _killed(pieces, "", rng.uniform(0.3, 1) * setup_s)
            killed += _killed(pieces, "stage ", rng.uniform(0, latest))
        _start(pieces).communicate()
        one, many, bill = _json("show", whole), _json("show", pieces), _json("bill", pieces)
    equal = sum(a["weights_sha256"] == b["weights_sha256"] for a, b in zip(one["stages"], many["stages"], strict=True))
    sums = sum(Decimal(a["usd"]) for a in bill["attempts"]) == Decimal(bill["total_usd"])
    dead = [a for a in bill["attempts"] if a["outcome"] == "killed"]
    figures = [
        Figure("kills while a stage runs", killed, "", args.kills, "20 random moments", killed >= 20, seeds=[args.seed]),
        Figure("kills during set-up", early, "", early, seeds=[args.seed]),
        Figure("stages with equal digests", equal, f"of {len(one['stages'])}", 1, "all", equal == len(one["stages"])),
        Figure("ledger sums exact", float(sums), "", 1, "1", sums),
        Figure(
            "dead attempts on the bill",
            len(dead),
            "",
            killed + early,
            "of every kill while a stage runs",
            len(dead) >= killed,
            note="a kill during set-up leaves one if the ledger was open",
        ),
        Figure(
            "hours held against wall time of the process",
            abs(ended - started_at - held_s) / held_s * 100,
            "%",
            1,
            "within 0.5%",
            abs(ended - started_at - held_s) <= 0.005 * held_s,
            note="uninterrupted run, from the start of its process to the end of its attempt",
        ),
        Figure("wasted", float(bill["wasted_usd"]) / float(bill["total_usd"]) * 100, "% of the bill", killed),
    ]
    return write("kills", f"python -m bench kills --kills {args.kills} --seed {args.seed}", figures)


def _start(run_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "farthing", "run", str(MICRO), "--run-dir", str(run_dir), "--plain", *LONGER]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _killed(run_dir: Path, wait_for: str, seconds: float) -> bool:
    """SIGKILL so many seconds after a line that begins with `wait_for`; False where the process had ended by then."""
    process = _start(run_dir)
    assert process.stdout is not None
    if wait_for:
        next((line for line in process.stdout if line.startswith(wait_for)), None)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _json(verb: str, run_dir: Path) -> Any:
    command = [sys.executable, "-m", "farthing", verb, str(run_dir), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
