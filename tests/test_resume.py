"""Kill it anywhere: the same command goes on, ends with bit-identical weights, and the dead attempt is on the bill."""

import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from farthing.checkpoint import CheckpointStore
from tests.conftest import MICRO, farthing, farthing_here, farthing_json

KILLS = 3


def start(run_dir: Path, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "farthing", "run", str(MICRO), "--run-dir", str(run_dir), "--plain", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steps_logged(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def wait_for_steps(process: "subprocess.Popen[str]", run_dir: Path, count: int) -> None:
    """Until `count` steps are logged; a process that ends or hangs before fails the test."""
    deadline = time.monotonic() + 120
    while steps_logged(run_dir) < count:
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, "the run hangs"
        time.sleep(0.005)


def kill_after_steps(run_dir: Path, count: int, delay_s: float) -> int:
    """Starts an attempt and kills it `delay_s` after `count` more steps are logged -> its return code."""
    before = steps_logged(run_dir)
    process = start(run_dir)
    wait_for_steps(process, run_dir, before + count)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


def test_killed_runs_end_with_the_same_weights(finished_run: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    run_dir = tmp_path / "killed"
    killed = [kill_after_steps(run_dir, rng.randint(1, 4), rng.uniform(0, 0.15)) for _ in range(KILLS)]
    assert killed == [-signal.SIGKILL] * KILLS
    assert farthing_json("show", run_dir)["status"] == "killed"
    farthing("run", MICRO, "--run-dir", run_dir, "--plain")
    whole, pieces = farthing_json("show", finished_run), farthing_json("show", run_dir)
    assert pieces["status"] == "complete"
    assert pieces["weights_sha256"] == whole["weights_sha256"]
    for stage, other in zip(pieces["stages"], whole["stages"], strict=True):
        assert stage.get("eval") == other.get("eval")
        assert stage["weights_sha256"] == other["weights_sha256"]
    bill = farthing_json("bill", run_dir)
    outcomes = [a["outcome"] for a in bill["attempts"]]
    # a kill before the ledger opened leaves no attempt; every one that opened is there
    assert outcomes[-1] == "ok"
    assert set(outcomes[:-1]) == {"killed"}
    assert Decimal(bill["total_usd"]) == sum(Decimal(a["usd"]) for a in bill["attempts"])
    assert Decimal(bill["total_usd"]) == sum(Decimal(s["usd"]) for s in bill["stages"])
    logged = [(row["stage"], row["step"]) for row in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())]
    if len(logged) > len(set(logged)):
        assert Decimal(bill["wasted_usd"]) > 0, "steps were done twice"
    assert Decimal(bill["wasted_usd"]) < Decimal(bill["total_usd"])


def test_phases_sum_to_the_time_the_process_held_the_machine(finished_run: Path) -> None:
    bill = farthing_json("bill", finished_run)
    assert sum(bill["phases_s"].values()) == pytest.approx(bill["held_s"], rel=1e-9)
    [attempt] = bill["attempts"]
    assert attempt["seconds"] == pytest.approx(bill["held_s"])
    assert {"setup", "rollout", "reward", "update", "weight_sync", "eval", "checkpoint", "idle"} <= bill["phases_s"].keys()


def test_phases_sum_to_wall_time_from_process_start_to_the_end_of_the_attempt(tmp_path: Path) -> None:
    started = time.time()
    start(tmp_path / "run").communicate()
    bill = farthing_json("bill", tmp_path / "run")
    ended = datetime.datetime.fromisoformat(bill["attempts"][0]["ended_at"]).timestamp()
    assert bill["held_s"] == pytest.approx(ended - started, rel=0.005, abs=0.05)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("damage", ["flip", pytest.param("cut", marks=SLOW), pytest.param("no manifest", marks=SLOW)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(finished_run: Path, tmp_path: Path, damage: str) -> None:
    run_dir = tmp_path / "damaged"
    process = start(run_dir)
    wait_for_steps(process, run_dir, 4)
    process.send_signal(signal.SIGINT)
    process.communicate()
    checkpoints = sorted((run_dir / "checkpoints" / "base").glob("step-*"))
    assert len(checkpoints) == 2
    newest = checkpoints[-1]
    if damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        data = bytearray((newest / "state.pt").read_bytes())
        data[len(data) // 2] ^= 1
        (newest / "state.pt").write_bytes(data if damage == "flip" else data[: len(data) // 2])
    result = farthing_here("run", MICRO, "--run-dir", run_dir, "--plain")
    assert f"{newest} is damaged" in result.stdout.replace("\n", "")
    assert "using the one before it" in result.stdout.replace("\n", " ")
    whole = farthing_json("show", finished_run)
    assert farthing_json("show", run_dir)["weights_sha256"] == whole["weights_sha256"]


def test_ctrl_c_stops_after_the_step_with_a_checkpoint(finished_run: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "interrupted"
    process = start(run_dir)
    wait_for_steps(process, run_dir, 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    summary = farthing_json("show", run_dir)
    assert summary["status"] == "interrupted"
    bill = farthing_json("bill", run_dir)
    assert bill["attempts"][0]["outcome"] == "interrupted"
    farthing_here("run", MICRO, "--run-dir", run_dir, "--plain")
    assert farthing_json("show", run_dir)["weights_sha256"] == farthing_json("show", finished_run)["weights_sha256"]
    # it went on from the very step it stopped after: nothing was thrown away
    assert Decimal(farthing_json("bill", run_dir)["attempts"][0]["wasted_usd"]) == 0


def test_a_step_with_a_checkpoint_keeps_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends right after a checkpoint is in place, before its step is over; twice."""

    def die(_store: CheckpointStore, _step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointStore, "_prune", die)
    for _ in range(2):
        farthing_here("run", MICRO, "--run-dir", tmp_path / "run", "--plain")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["attempt"]) for row in rows] == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "locked"
    process = start(run_dir, "--set", "base.num_steps=100000")
    wait_for_steps(process, run_dir, 1)
    args = ("run", MICRO, "--run-dir", run_dir, "--plain", "--set", "base.num_steps=100000")
    result = farthing_here(*args)
    still_running = process.poll() is None
    process.kill()
    process.communicate()
    assert result.returncode == 3
    assert f"in use by process {process.pid}" in result.stderr
    assert still_running


def test_a_finished_run_is_not_run_again(finished_run: Path) -> None:
    before = json.loads((finished_run / "stages" / "r1_zero" / "result.json").read_text())
    result = farthing_here("run", finished_run, "--plain")
    assert "complete" in result.stdout
    assert json.loads((finished_run / "stages" / "r1_zero" / "result.json").read_text()) == before


def test_another_recipe_is_refused(finished_run: Path) -> None:
    args = ("run", MICRO, "--run-dir", finished_run, "--set", "model.shape.width=64")
    result = farthing_here(*args)
    assert result.returncode == 3
    assert "model.shape.width (32 -> 64)" in result.stderr


@SLOW
def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished_run: Path, tmp_path: Path) -> None:
    farthing("run", MICRO, "--run-dir", tmp_path / "again", "--plain")
    farthing("run", MICRO, "--run-dir", tmp_path / "other", "--plain", "--seed", "4")
    digest = farthing_json("show", finished_run)["weights_sha256"]
    assert farthing_json("show", tmp_path / "again")["weights_sha256"] == digest
    assert farthing_json("show", tmp_path / "other")["weights_sha256"] != digest


def test_environment_does_not_matter() -> None:
    """The suite itself must not depend on a variable that CI does not set."""
    assert "FARTHING_PRICES" not in os.environ
