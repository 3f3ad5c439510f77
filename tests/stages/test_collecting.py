"""From a base to samples and back: what is kept and what is not, kills, empty results, and what is fine-tuned on."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from farthing.rewards import language_consistency
from farthing.stages.collection import DROPS, FILTERS, Collection
from tests.conftest import farthing_here, farthing_json
from tests.stages.conftest import COLLECTING, logged, result, rows
from tests.stages.conftest import MICRO_COLLECT as MICRO

# what is kept ------------------------------------------------------------------------------------------------------------


def test_only_right_readable_new_chains_are_kept(finished: Path) -> None:
    kept = rows(finished, "cold_start")
    assert len(kept) == 24, "num_samples"
    for row in kept:
        assert row["completion"].endswith(f"<answer>{row['answer']}</answer>")
        assert row["question"] == f"a{row['answer']}?", "the task's own answer, and the model's"
        assert language_consistency(row["completion"]) == 1.0
        assert (row["domain"], row["source"]) == ("reasoning", "cold_start")
    assert max(Counter(row["question"] for row in kept).values()) == 1
    two_each = Counter(row["question"] for row in rows(finished, "rejection") if row["domain"] == "reasoning")
    assert max(two_each.values()) == 2
    assert len({(r["question"], r["completion"]) for r in rows(finished, "rejection")}) == len(rows(finished, "rejection"))


@pytest.mark.parametrize("stage", ["cold_start", "rejection"])
def test_everything_that_was_sampled_is_accounted_for(finished: Path, stage: str) -> None:
    found = result(finished, stage)
    metrics, steps = found["metrics"], logged(finished, stage)
    dropped = {reason: metrics.get(f"dropped_{reason}", 0) for reason in DROPS}
    assert metrics["sampled"] == metrics["kept"] + sum(dropped.values())
    assert metrics["sampled"] == len(steps) * 32
    for name in ("sampled", "kept", *(f"dropped_{reason}" for reason in DROPS)):
        assert sum(step[name] for step in steps) == metrics.get(name, 0)
    assert dropped["language"] > 0, "half of what the base had read was mixed"
    filters = found["filters"]
    assert [f["filter"] for f in filters] == list(FILTERS)
    assert (filters[0]["in"], filters[-1]["out"]) == (metrics["sampled"], metrics["kept"])
    assert all(before["out"] == after["in"] for before, after in pairwise(filters))
    assert sum(task.get("kept", 0) for task in found["per_task"].values()) == metrics["kept"]
    card = (finished / "stages" / stage / "card.md").read_text()
    assert f"{metrics['kept']:.0f} of {metrics['sampled']:.0f} completions kept" in card
    [shown] = [s for s in farthing_json("show", finished)["stages"] if s["name"] == stage]
    assert shown["num_samples"] == len(rows(finished, stage))
    assert (shown["steps_done"], shown["num_steps"]) == (len(steps), len(steps))


def test_general_samples_are_joined_three_to_one(finished: Path) -> None:
    general = [row for row in rows(finished, "rejection") if row["domain"] == "general"]
    metrics = result(finished, "rejection")["metrics"]
    assert len(general) == metrics["general"] == int(metrics["kept"] / 3)
    assert {row["task"] for row in general} == {"toy:general", "toy:harm"}
    assert all(row["completion"] == f"<think></think><answer>{row['answer']}</answer>" for row in general)


def test_samples_teach(finished: Path) -> None:
    """Two epochs of pure chains: languages hardly mix any more, and the answers are as right as before."""
    before, after = result(finished, "r1_zero")["eval"]["after"], result(finished, "dev1")["eval"]["after"]
    assert before["mixed"] > 0.2
    assert after["mixed"] < before["mixed"] / 2
    assert after["language_consistency"] > before["language_consistency"]
    assert after["readable"] > before["readable"]
    assert after["pass_at_1"] >= before["pass_at_1"] - 0.2


def test_epochs_make_the_steps_and_held_out_questions_the_loss(finished: Path) -> None:
    found, steps = result(finished, "dev1")["metrics"], logged(finished, "dev1")
    trained = 24 - found["held_out_samples"]
    assert 0 < found["held_out_samples"] < 24
    assert len(steps) == -(-2 * trained // 8)
    assert found["samples"] == 8 * len(steps)
    assert [("held_out_loss" in step) for step in steps] == [n % 2 == 1 for n in range(len(steps))]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert found["held_out_loss"] > 0


def test_making_samples_is_on_the_bill_as_data(finished: Path) -> None:
    bill = farthing_json("bill", finished)
    stages = {stage["name"]: stage for stage in bill["stages"]}
    assert stages["cold_start"]["tokens_out"] > 0
    assert {"rollout", "reward", "checkpoint"} <= stages["cold_start"]["phases_s"].keys()
    assert "kept 24 samples" in " ".join(farthing_here("show", finished).stdout.split())
    from farthing.ledger.entries import Ledger

    with Ledger.open(finished / "ledger.sqlite", read_only=True) as ledger:
        purposes = {entry.purpose for entry in ledger.entries() if entry.stage == "rejection" and entry.phase == "rollout"}
    assert purposes == {"data"}


# kills -------------------------------------------------------------------------------------------------------------------


def test_a_killed_stage_ends_with_the_same_bytes(finished: Path, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process ends after samples were written and before their checkpoint, in both kinds of stage."""
    calls: Counter[str] = Counter()
    log = Collection.log

    def die(kept: Collection, run: Any) -> None:
        calls[kept.source] += 1
        if calls[kept.source] == 2:
            raise KeyboardInterrupt
        log(kept, run)

    monkeypatch.setattr(Collection, "log", die)
    for _ in range(3):
        result_of_attempt = farthing_here("run", MICRO, "--run-dir", ready, "--plain")
    assert result_of_attempt.returncode == 0, result_of_attempt.stderr
    assert farthing_json("bill", ready)["attempts"][-2]["outcome"] == "interrupted"
    for stage in COLLECTING:
        mine, whole = result(ready, stage), result(finished, stage)
        assert mine.get("sha256") == whole.get("sha256"), stage
        assert mine.get("weights_sha256") == whole.get("weights_sha256"), stage
        assert mine["metrics"] == whole["metrics"], stage
    assert result(ready, "cold_start")["filters"] == result(finished, "cold_start")["filters"]


@pytest.mark.slow
def test_sigkill_at_any_moment(finished: Path, ready: Path) -> None:
    command = [sys.executable, "-m", "farthing", "run", str(MICRO), "--run-dir", str(ready), "--plain"]
    for count in (1, 2, 2, 3, 1):
        before = len((ready / "metrics.jsonl").read_text().splitlines())
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while len((ready / "metrics.jsonl").read_text().splitlines()) < before + count and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert farthing_here("run", MICRO, "--run-dir", ready, "--plain").returncode == 0
    for stage in COLLECTING:
        mine, whole = result(ready, stage), result(finished, stage)
        assert (mine.get("sha256"), mine.get("weights_sha256")) == (whole.get("sha256"), whole.get("weights_sha256")), stage
    assert farthing_here("audit", ready).returncode == 0


def test_a_changed_file_of_samples_is_refused(ready: Path) -> None:
    assert farthing_here("run", MICRO, "--run-dir", ready, "--plain", "--only", "cold_start").returncode == 0
    path = ready / "stages" / "cold_start" / "data.jsonl"
    path.write_text(path.read_text().replace("a", "b", 1))
    refused = farthing_here("run", MICRO, "--run-dir", ready, "--plain", "--only", "dev1")
    assert refused.returncode == 3
    assert "is not what stage cold_start wrote" in refused.stderr


# empty and small results -------------------------------------------------------------------------------------------------


def test_nothing_kept_is_an_error_that_says_why_and_loses_nothing(finished: Path, ready: Path) -> None:
    strict = ("--set", "cold_start.reward.readability.min_chain_chars=1000", "--only", "cold_start")
    failed = farthing_here("run", MICRO, "--run-dir", ready, "--plain", *strict)
    assert failed.returncode == 2
    message = " ".join(failed.stderr.split())
    assert "cold_start kept none of 192 completions (" in message
    assert " chain, " in message
    assert "loosen reward.readability" in message
    assert farthing_here("run", MICRO, "--run-dir", ready, "--plain", "--only", "cold_start").returncode == 0
    assert result(ready, "cold_start")["sha256"] == result(finished, "cold_start")["sha256"]


def test_a_file_of_general_samples_that_runs_out_is_said(ready: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    lines = [{"question": f"q{n}?", "completion": f"<think></think><answer>{n}</answer>"} for n in range(2)]
    (tmp_path / "general.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    table = "start_from = 'r1_zero'\ngeneral = { files = ['general.jsonl'], tasks = [] }"
    recipe.write_text(f"extends = '{MICRO}'\n[stages.rejection]\n{table}\n")
    done = farthing_here("run", recipe, "--run-dir", ready, "--plain", "--only", "rejection")
    assert done.returncode == 0, done.stderr
    metrics = result(ready, "rejection")["metrics"]
    assert metrics["general"] == 2
    assert metrics["general_missing"] == int(metrics["kept"] / 3) - 2
    assert "general samples fewer" in done.stdout
    assert [r["source"] for r in rows(ready, "rejection") if r["domain"] == "general"] == ["general.jsonl"] * 2


def test_num_samples_counts_the_general_ones_too(ready: Path) -> None:
    more = ("--set", "rejection.num_samples=13", "--set", "rejection.num_prompts=24", "--only", "rejection")
    settings = ("--set", "rejection.start_from=r1_zero", *more)
    assert farthing_here("run", MICRO, "--run-dir", ready, "--plain", *settings).returncode == 0
    metrics = result(ready, "rejection")["metrics"]
    assert (metrics["kept"], metrics["general"]) == (10, 3)
    assert metrics["dropped_enough"] > 0


# what is fine-tuned on ---------------------------------------------------------------------------------------------------


SHORT = {"question": "a2?", "completion": "<think></think><answer>2</answer>"}


def sft(tmp_path: Path, ready: Path, lines: list[dict[str, str]], *settings: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    recipe = tmp_path / "mine.toml"
    table = "data = ['mine.jsonl']\nepochs = 1\nnum_steps = 5\nbatch_documents = 2\nheld_out_share = 0.0\n"
    recipe.write_text(f"extends = '{MICRO}'\n[stages.dev3]\n{table}")
    return farthing_here("run", recipe, "--run-dir", ready, "--plain", "--only", "dev3", *settings)


def test_fine_tuning_on_a_file(tmp_path: Path, ready: Path) -> None:
    lines = [{"question": f"a{n}?", "completion": f"<think>a{n}</think><answer>{n}</answer>"} for n in range(10, 15)]
    done = sft(tmp_path, ready, lines)
    assert done.returncode == 0, done.stderr
    assert result(ready, "dev3")["metrics"]["samples"] == 6, "three steps of two"
    assert len(logged(ready, "dev3")) >= 3


@pytest.mark.parametrize(
    ("completion", "message"),
    [
        ("<think>Ω</think><answer>1</answer>", "cannot write|no token for 'Ω'"),
        ("<think>" + "a" * 200 + "</think><answer>1</answer>", "more tokens than the 96 positions"),
    ],
)
def test_samples_that_the_model_cannot_learn(tmp_path: Path, ready: Path, completion: str, message: str) -> None:
    failed = sft(tmp_path, ready, [{"question": "a1?", "completion": completion}, SHORT])
    assert failed.returncode == 2
    assert re.search(message, " ".join(failed.stderr.split()))


def test_too_long_samples_are_dropped_where_the_recipe_says_so(tmp_path: Path, ready: Path) -> None:
    lines = [{"question": "a1?", "completion": "a" * 200}, SHORT]
    done = sft(tmp_path, ready, lines, "--set", "dev3.too_long=drop")
    assert done.returncode == 0, done.stderr
    assert result(ready, "dev3")["metrics"]["dropped_samples"] == 1
    assert "1 samples of more than 96 tokens dropped, 1 kept" in done.stdout
