"""A run of DeepSeek-V3's architecture by the command line: what it logs, the biases' way, and a kill that changes nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from farthing.models.huggingface import load_model
from farthing.models.moe import moe_layers
from tests.conftest import farthing, farthing_json
from tests.test_resume import wait_for_steps

MICRO_V3 = Path(__file__).parent.parent / "data" / "micro_v3.toml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("v3") / "run"
    farthing("run", MICRO_V3, "--run-dir", run_dir, "--plain")
    return run_dir


def test_a_killed_run_ends_with_the_same_weights_and_biases(finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "farthing", "run", str(MICRO_V3), "--run-dir", str(tmp_path / "killed"), "--plain"]
    for num_steps in (5, 14):  # one of pretraining, one of reinforcement learning
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for_steps(process, tmp_path / "killed", num_steps)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    farthing("run", MICRO_V3, "--run-dir", tmp_path / "killed", "--plain")
    whole, pieces = farthing_json("show", finished), farthing_json("show", tmp_path / "killed")
    for stage, other in zip(pieces["stages"], whole["stages"], strict=True):
        assert stage["weights_sha256"] == other["weights_sha256"]


def test_losses_loads_and_biases(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    pretraining = [row for row in rows if row["stage"] == "base"]
    names = {"loss", "mtp_loss", "balance_loss", "max_violation", "max_violation_mean"}
    assert all(names <= row.keys() for row in pretraining)
    assert not any((names - {"loss"}) & row.keys() for row in rows if row["stage"] == "r1_zero")
    [loads] = [json.loads(line) for line in (finished / "expert_loads.jsonl").read_text().splitlines()]
    assert sorted(loads["tokens"]) == ["1", "2"]
    after = [load_model(finished / "stages" / stage / "model") for stage in ("base", "r1_zero")]
    biases = [{layer: ffn.router.bias for layer, ffn in moe_layers(model).items()} for model in after]
    for layer in (1, 2):
        before, frozen = biases[0][layer], biases[1][layer]
        assert before is not None
        assert frozen is not None
        assert before.abs().max() > 0.01, "pretraining moves them"
        assert torch.equal(before, frozen), "reinforcement learning does not"


def test_engine_and_trainer_agree(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["logprob_gap_max"] for row in rows if row["stage"] == "r1_zero"]
    assert gaps
    assert max(gaps) <= 1e-3


def test_transformers_loads_what_the_run_left(finished: Path) -> None:
    folder = finished / "stages" / "r1_zero" / "model"
    ours, theirs = load_model(folder), AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokens = torch.arange(5, 35)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=1e-4, rtol=0)


def test_generate_drafts_for_itself_and_says_the_same(finished: Path) -> None:
    command = ("generate", finished, "a12b3?", "--samples", "3", "--max-tokens", "24", "--seed", "5")
    ahead, plain = farthing_json(*command), farthing_json(*command, "--no-ahead")
    assert ahead["completions"] == [pytest.approx(c, abs=1e-4) for c in plain["completions"]]
    assert 0 <= ahead["drafts"]["accepted"] <= ahead["drafts"]["judged"] > 0
    assert "drafts" not in plain
    assert "drafts" not in farthing_json(*command[:3], "--samples", "5"), "many go through the engine"
