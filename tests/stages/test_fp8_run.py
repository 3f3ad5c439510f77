"""A run in fp8 by the command line: what it says, how it is used afterwards, and a kill that changes nothing."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from farthing.artefact import open_artefact
from farthing.models.fp8_linear import EMULATED, Fp8Weight
from farthing.models.linear import Linear
from farthing.placement import CPU
from farthing.precision import compute_precision
from tests.conftest import farthing, farthing_here, farthing_json
from tests.test_resume import wait_for_steps

MICRO_V3 = Path(__file__).parent.parent / "data" / "micro_v3.toml"
FP8 = ("--set", "precision=fp8")
SHORT = (*FP8, "--set", "base.num_steps=3", "--set", "r1_zero.num_steps=2")


def digests(run_dir: Path) -> list[str]:
    return [stage["weights_sha256"] for stage in farthing_json("show", run_dir)["stages"]]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run, and what it printed."""
    run_dir = tmp_path_factory.mktemp("fp8") / "run"
    result = farthing_here("run", MICRO_V3, "--run-dir", run_dir, "--plain", *SHORT)
    assert result.returncode == 0, result.stdout + result.stderr
    return run_dir, result.stdout


def test_it_says_that_fp8_is_emulated_and_measures_the_peak_of_what_computes(short: tuple[Path, str]) -> None:
    run_dir, printed = short
    assert EMULATED in printed.replace("\n", " ")
    machine = json.loads((run_dir / "run.json").read_text())["machine"]
    assert f"matmul_peak_flops_{compute_precision('fp8', CPU)}" in machine
    assert not any("fp8" in key for key in machine)


def test_engine_and_trainer_agree_and_the_doctor_reads_it(short: tuple[Path, str]) -> None:
    rows = [json.loads(line) for line in (short[0] / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["logprob_gap"] for row in rows if row["stage"] == "r1_zero"]
    assert len(gaps) == 2
    assert max(gaps) < 5e-3
    assert farthing_here("doctor", short[0]).returncode == 0


def test_a_run_is_opened_as_it_was_trained_and_its_folder_as_plain_weights(short: tuple[Path, str]) -> None:
    for path, is_fp8 in ((short[0], True), (short[0] / "stages" / "r1_zero" / "model", False)):
        model = open_artefact(path).model
        found = {
            isinstance(m.packed, Fp8Weight) for name, m in model.named_modules() if isinstance(m, Linear) and "mtp" not in name
        }
        assert found == {is_fp8}


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    farthing("run", MICRO_V3, "--run-dir", tmp_path / "whole", "--plain", *FP8)
    command = [sys.executable, "-m", "farthing", "run", str(MICRO_V3), "--run-dir", str(tmp_path / "killed"), "--plain", *FP8]
    for num_steps in (5, 14):  # one of pretraining, one of reinforcement learning
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for_steps(process, tmp_path / "killed", num_steps)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    farthing("run", MICRO_V3, "--run-dir", tmp_path / "killed", "--plain", *FP8)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
