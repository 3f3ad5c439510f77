"""SIGKILL at random moments, resumed by the same command: equal digests, exact sums, dead attempts on the bill."""

import argparse
import datetime
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.results import Figure, write

RECIPES = Path(__file__).parent.parent / "tests" / "data"
SET_UP_EVERY = 5
"""So many kills of a stage for one before any begins."""


@dataclass(frozen=True)
class Case:
    """A recipe of seconds, and how many steps its stages take here: long enough to be struck."""

    recipe: Path
    steps: dict[str, int]

    @property
    def command(self) -> list[str]:
        longer = [argument for stage, n in self.steps.items() for argument in ("--set", f"{stage}.num_steps={n}")]
        return [sys.executable, "-m", "farthing", "run", str(self.recipe), "--plain", *longer]


CASES = {
    "kills": Case(RECIPES / "micro.toml", {"base": 400, "r1_zero": 200}),
    "kills-r1": Case(
        RECIPES / "micro_r1.toml",
        {"base": 200, "r1_zero": 30, "dev2": 40, "rejection": 20, "rm_helpful": 60, "rm_harmless": 60, "r1": 40,
         "student_on_policy": 40},
    ),
}  # fmt: skip
"""R1-Zero alone, and every stage of the R1 recipe."""


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--kills", type=int, default=22)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(measure=lambda args: measure(name, args))


def measure(name: str, args: argparse.Namespace) -> Path:
    rng, case = random.Random(args.seed), CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        whole, pieces = Path(folder) / "whole", Path(folder) / "pieces"
        started, started_at = time.monotonic(), time.time()
        process = _start(case, whole)
        while not (whole / "metrics.jsonl").is_file() and process.poll() is None:
            time.sleep(0.01)
        setup_s = time.monotonic() - started
        process.communicate()
        bill, stages = _json("bill", whole), _json("show", whole)["stages"]
        held_s = bill["held_s"]
        ended = datetime.datetime.fromisoformat(bill["attempts"][0]["ended_at"]).timestamp()
        early, hit = 0, []
        for number, (stage, longest) in enumerate(_moments(stages, args.kills, rng)):
            if number % SET_UP_EVERY == 0:
                early += _killed(case, pieces, "", rng.uniform(0.3, 1) * setup_s)
            if _killed(case, pieces, f"stage {stage}:", rng.uniform(0, longest)):
                hit.append(_stage_at_work(pieces))
        _start(case, pieces).communicate()
        bill = _json("bill", pieces)
        made = [(_made(whole, stage), _made(pieces, stage)) for stage in stages]
    equal, killed = sum(one == many for one, many in made), len(hit)
    sums = sum(Decimal(a["usd"]) for a in bill["attempts"]) == Decimal(bill["total_usd"])
    dead = [a for a in bill["attempts"] if a["outcome"] == "killed"]
    figures = [
        Figure("kills while a stage runs", killed, "", args.kills, "20 random moments", killed >= 20, seeds=[args.seed]),
        Figure("kills during set-up", early, "", early, seeds=[args.seed]),
        Figure("stages that were hit", len(set(hit)), f"of {len(made)}", killed),
        Figure("stages with equal digests", equal, f"of {len(made)}", 1, "all", equal == len(made)),
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
    return write(name, f"python -m bench {name} --kills {args.kills} --seed {args.seed}", figures)


def _moments(stages: list[dict[str, Any]], kills: int, rng: random.Random) -> Iterator[tuple[str, float]]:
    """(stage, seconds within which to strike), stage after stage; each is met once where there are kills enough, the others
    fall to stages by the time that they take. Several in one stage share its time, so that it is still at work for the last."""
    seconds = [max(float(stage["seconds"]), 0.01) for stage in stages]
    chosen = list(range(len(stages)))[:kills] + rng.choices(range(len(stages)), seconds, k=max(0, kills - len(stages)))
    for index in sorted(chosen):
        yield str(stages[index]["name"]), seconds[index] / chosen.count(index)


def _start(case: Case, run_dir: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([*case.command, "--run-dir", str(run_dir)], stdout=subprocess.PIPE, text=True)


def _killed(case: Case, run_dir: Path, wait_for: str, seconds: float) -> bool:
    """SIGKILL so many seconds after a line that begins with `wait_for`; False where the process had ended by then."""
    process = _start(case, run_dir)
    assert process.stdout is not None
    if wait_for:
        next((line for line in process.stdout if line.startswith(wait_for)), None)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _stage_at_work(run_dir: Path) -> str:
    """The first stage that has no result yet."""
    stages = json.loads((run_dir / "recipe.json").read_text())["stages"]
    return next((name for name in stages if not (run_dir / "stages" / name / "result.json").is_file()), "")


def _made(run_dir: Path, stage: dict[str, Any]) -> str:
    """Digest of what the stage left: its model's files, its samples, or its table without what the models have cost."""
    folder = run_dir / "stages" / stage["name"]
    if stage["kind"] == "evaluate":
        rows = json.loads((folder / "table.json").read_text())["rows"]
        return _digest([json.dumps([row["model"], row["suites"]]).encode() for row in rows])
    left = sorted(p for p in (folder / "model").glob("*") if p.is_file()) or [folder / "data.jsonl"]
    return _digest(path.read_bytes() for path in left)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _json(verb: str, run_dir: Path) -> Any:
    command = [sys.executable, "-m", "farthing", verb, str(run_dir), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
