"""The best checkpoint of a finished stage is a model folder that outlives its training state."""

from pathlib import Path

import pytest
import torch

from farthing.artefact import open_artefact
from farthing.checkpoint import CheckpointStore, load_state
from farthing.manifest import score_of
from farthing.run import Run
from tests.conftest import MICRO, farthing_here, farthing_json


def test_the_best_checkpoint_becomes_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 1 and 3 are evaluated and kept, the last, 4, is not; equal scores go to the later."""
    monkeypatch.setattr(CheckpointStore, "clear", lambda _store: None)
    run_dir = tmp_path / "run"
    settings = ("--set", "r1_zero.num_steps=5", "--set", "r1_zero.eval.num_problems=2")
    result = farthing_here("run", MICRO, "--run-dir", run_dir, "--plain", *settings)
    assert result.returncode == 0, result.stderr
    scores = {step: score_of(run_dir / "checkpoints" / "r1_zero" / f"step-{step:06d}") for step in (1, 3)}
    step = max(scores, key=lambda s: (scores[s] or 0.0, s))
    base, r1_zero = farthing_json("show", run_dir)["stages"]
    assert r1_zero["best"] == {"step": step, "eval_accuracy": scores[step]}
    assert "best" not in base
    best = open_artefact(run_dir / "stages" / "r1_zero" / "best")
    masters = load_state(run_dir / "checkpoints" / "r1_zero" / f"step-{step:06d}")["optimizer"]["masters"]
    weights = best.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in masters.items())
    assert best.stage == "r1_zero"
    assert not torch.equal(weights["norm.weight"], open_artefact(run_dir).model.norm.weight)


def test_a_checkpoint_that_only_a_stop_has_made_is_not_chosen_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1 is evaluated, and no checkpoint is due there: an uninterrupted run has none to go back to."""

    def stop_at_step_1(self: Run) -> bool:
        self._stop_requested |= self.stage == "r1_zero" and self.step == 1
        return stop_due(self)

    stop_due = Run.stop_due
    monkeypatch.setattr(Run, "stop_due", stop_at_step_1)
    settings = ("--set", "r1_zero.checkpoint.every=4", "--set", "r1_zero.eval.num_problems=2")
    stopped = farthing_here("run", MICRO, "--run-dir", tmp_path, "--plain", *settings)
    assert stopped.returncode == 130
    path = tmp_path / "checkpoints" / "r1_zero" / "step-000001"
    assert score_of(path) is None
    assert load_state(path)["last_score"] is not None
