"""The doctor: a run broken on purpose for each finding, and a healthy one that must stay quiet."""

import hashlib
import json
import math
import shlex
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from farthing.config import load_recipe
from farthing.doctor import Finding, diagnose, render, to_json
from farthing.errors import RunError
from tests.run_history import HEALTHY_BASE, HEALTHY_GRPO, RunHistory, levelling, ramp


def bad(findings: Sequence[Finding]) -> list[Finding]:
    return [f for f in findings if f.severity in ("problem", "warning")]


def check_knobs(findings: Sequence[Finding], history: RunHistory) -> None:
    """Every --set that is advised must be one that the recipe takes, and must change it."""
    for finding in findings:
        if finding.knob.startswith("--set"):
            flag, override = shlex.split(finding.knob)
            assert flag == "--set"
            assert load_recipe(str(history.toml), [override]) != history.recipe, finding.knob


def only(history: RunHistory, severity: str, words: str) -> Finding:
    """The one finding that is a warning or a problem; it must be the expected one, with evidence and a knob."""
    findings = diagnose(history.dir)
    check_knobs(findings, history)
    assert len(bad(findings)) == 1, bad(findings)
    finding = findings[0]
    assert finding.severity == severity
    assert words in finding.what
    assert finding.evidence
    assert finding.knob
    return finding


def grpo_run(folder: Path, overrides: Sequence[str] = (), **changed: Any) -> RunHistory:
    history = RunHistory(folder, overrides)
    history.start()
    history.base()
    history.grpo(**changed)
    history.end()
    return history


def base_run(folder: Path, **changed: Any) -> RunHistory:
    history = RunHistory(folder)
    history.start()
    history.base(**changed)
    history.grpo()
    history.end()
    return history


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    return grpo_run(tmp_path_factory.mktemp("healthy"))


def test_a_healthy_run_is_all_ok(healthy: RunHistory) -> None:
    findings = diagnose(healthy.dir)
    assert [f.severity for f in findings] == ["ok"] * 3
    assert [f.what.split()[0] for f in findings] == ["The", "base", "r1_zero"]


def test_a_real_run_can_be_diagnosed(finished_run: Path) -> None:
    findings = diagnose(finished_run)
    assert any(f.severity == "ok" and "chain is whole" in f.what for f in findings)


# grpo curves ----------------------------------------------------------------------------------------------------------

OFF = "r1_zero.eval.every=0"
CASES: dict[str, tuple[str, str, str, Sequence[str], dict[str, Any]]] = {
    # name: severity, words, knob, overrides, what is changed in a healthy run
    "too easy": ("warning", "all right (problems too easy)", "dynamic_sampling", (),
                 {"flat_groups": ramp(0.5, 0.9), "accuracy": levelling(0.5, 0.85)}),
    "too hard": ("warning", "all wrong (problems too hard)", "group_size", (),
                 {"flat_groups": ramp(0.9, 0.85), "accuracy": levelling(0.01, 0.05), "after": 0.08}),
    "zero loss": ("problem", "every advantage is zero", "group_size", (),
                  {"flat_groups": lambda x: 1.0, "accuracy": lambda x: 0.0, "reward": lambda x: 0.0,
                   "format": lambda x: 0.0, "loss": lambda x: 0.0, "grad_norm": lambda x: 0.0,
                   "entropy": lambda x: 0.0, "after": 0.0}),
    "zero loss, easy": ("problem", "too easy", "dynamic_sampling", (),
                        {"flat_groups": lambda x: 1.0, "accuracy": lambda x: 1.0, "after": 1.0, "before": 1.0}),
    "KL only": ("problem", "its KL term only", "group_size", ("r1_zero.kl_coef=0.01",),
                {"flat_groups": lambda x: 1.0, "accuracy": lambda x: 0.0, "format": lambda x: 0.0, "after": 0.0}),
    "truncation": ("warning", "cut at the limit", "max_completion_tokens=192", (), {"truncated": ramp(0.1, 0.5)}),
    "no end-of-text": ("problem", "never end", "stop=", (),
                       {"truncated": lambda x: 1.0, "completion_tokens": lambda x: 96.0}),
    "format only": ("warning", "format and not the answers", "reward.format", (),
                    {"accuracy": ramp(0.05, 0.055), "reward": levelling(0.09, 0.15), "after": 0.06}),
    "entropy, one minibatch": ("warning", "entropy of r1_zero has collapsed", "kl_coef", (),
                               {"entropy": levelling(0.9, 0.005)}),
    "entropy, clipped": ("warning", "entropy of r1_zero has collapsed", "clip_eps_high",
                         ("r1_zero.num_minibatches=2",), {"entropy": levelling(0.9, 0.005)}),
    "kl": ("warning", "run away from its reference", "kl_coef=0.01", ("r1_zero.kl_coef=0.001",), {"kl": ramp(0, 4)}),
    "gap": ("problem", "more than fp32 explains", "tis_cap", (), {"logprob_gap": lambda x: 0.02}),
    "gap in bf16": ("problem", "more than bf16 explains", "--set precision=fp32", ("precision=bf16",),
                    {"logprob_gap": lambda x: 0.2}),
    "gap in fp8": ("problem", "more than fp8 explains", "--set precision=fp32", ("precision=fp8",),
                   {"logprob_gap": lambda x: 0.4}),
    "overfitting": ("warning", "held-out accuracy does not follow", "kl_coef", (OFF,), {"after": 0.09}),
    "held-out falls": ("problem", "held-out accuracy does not follow", "num_steps", (), {"before": 0.3, "after": 0.1}),
    "longer": ("warning", "grow longer and no better", "overlong_buffer", (),
               {"completion_tokens": ramp(20, 80), "accuracy": ramp(0.3, 0.3), "format": ramp(0.9, 0.9)}),
    "longer by sequence": ("warning", "grow longer and no better", "normalizer=token",
                           ('r1_zero.normalizer="sequence"',),
                           {"completion_tokens": ramp(20, 80), "accuracy": ramp(0.3, 0.3), "format": ramp(0.9, 0.9)}),
    "shorter": ("warning", "stops thinking", "learning_rate", (),
                {"completion_tokens": ramp(60, 10), "accuracy": ramp(0.3, 0.3), "format": ramp(0.9, 0.9)}),
    "collapse": ("problem", "broke down", "learning_rate=3.33e-05", (),
                 {"accuracy": lambda x: 0.6 * x / 0.5 if x < 0.5 else 0.02, "format": lambda x: 0.9}),
    "spikes": ("warning", "gradient norm of r1_zero spikes", "learning_rate", (),
               {"grad_norm": lambda x: 30.0 if x > 0.5 and math.sin(60 * x) > 0.9 else 0.5}),
    "standstill": ("warning", "has not moved", "learning_rate=0.0003", (),
                   {"accuracy": ramp(0.3, 0.3), "format": ramp(0.9, 0.9), "before": 0.3, "after": 0.3}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_run_broken_on_purpose(name: str, tmp_path: Path) -> None:
    severity, words, knob, overrides, changed = CASES[name]
    finding = only(grpo_run(tmp_path, overrides, **changed), severity, words)
    assert knob in finding.knob


def test_still_rising_is_a_note(tmp_path: Path) -> None:
    history = grpo_run(tmp_path, accuracy=ramp(0.1, 0.6))
    findings = diagnose(history.dir)
    assert not bad(findings)
    note = next(f for f in findings if f.severity == "note")
    assert "still getting better" in note.what
    assert note.knob == "--set r1_zero.num_steps=120"
    check_knobs(findings, history)


def test_mastered_problems_are_a_note(tmp_path: Path) -> None:
    history = grpo_run(tmp_path, accuracy=levelling(0.3, 0.97), flat_groups=ramp(0.3, 0.95), entropy=ramp(0.5, 0.001))
    findings = diagnose(history.dir)
    assert [f.severity for f in findings] == ["note", "ok", "ok", "ok"]
    assert "mastered" in findings[0].what


def test_zero_entropy_of_flat_steps_is_no_collapse(tmp_path: Path) -> None:
    """A step without signal computes nothing, and logs an entropy of zero."""
    flat: dict[str, Any] = {"flat_groups": lambda x: float(x > 0.7), "entropy": lambda x: 0.5 * (x <= 0.7)}
    whats = [f.what for f in bad(diagnose(grpo_run(tmp_path, **flat).dir))]
    assert not [what for what in whats if "entropy" in what]


def test_a_harder_level_is_no_collapse(tmp_path: Path) -> None:
    history = grpo_run(tmp_path, accuracy=lambda x: 0.7 if x < 0.5 else 0.2, level=lambda x: float(x >= 0.5))
    assert not bad(diagnose(history.dir))


def test_a_few_steps_are_not_judged(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.train("base", HEALTHY_BASE, range(5))
    history.end()
    findings = diagnose(history.dir)
    assert any(f.severity == "note" and "too few steps" in f.what for f in findings)


# pretrain and sft -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "severity", "words", "knob"),
    [
        (ramp(4.0, 4.0), "problem", "does not fall", "learning_rate="),
        (ramp(2.0, 5.0), "problem", "does not fall", "learning_rate=0.000667"),
        (lambda x: 4 - 6 * x if x < 0.5 else 1 + 2 * (x - 0.5), "warning", "rose again", "learning_rate=0.000667"),
        (lambda x: math.nan if x > 0.5 else 1.0, "problem", "diverged", "learning_rate=0.000667"),
    ],
)
def test_losses_of_pretraining(tmp_path: Path, loss: Any, severity: str, words: str, knob: str) -> None:
    finding = only(base_run(tmp_path, loss=loss), severity, words)
    assert knob in finding.knob


def test_the_step_of_the_first_nan_is_named(tmp_path: Path) -> None:
    finding = only(base_run(tmp_path, loss=lambda x: math.nan if x > 0.5 else 1.0), "problem", "NaN")
    assert finding.evidence == "loss first, at step 30; 30 values in all"


# the ledger and the checkpoints ---------------------------------------------------------------------------------------


def unfinished(folder: Path, outcome: str | None, error: str | None = None) -> RunHistory:
    """Stopped after 20 steps of r1_zero."""
    history = RunHistory(folder)
    history.start()
    history.base()
    history.train("r1_zero", HEALTHY_GRPO, range(20))
    if outcome is None:
        history.ledger.close()
    else:
        history.end(outcome, error)
    return history


def test_a_killed_run_is_to_be_gone_on_with(tmp_path: Path) -> None:
    finding = only(unfinished(tmp_path, None), "problem", "was killed before the run was complete")
    assert "same command" in finding.knob


def test_a_diverged_run_gets_a_lower_learning_rate(tmp_path: Path) -> None:
    history = unfinished(tmp_path, "failed", "TrainingDiverged: the policy loss is NaN, in stage r1_zero at step 20")
    finding = only(history, "problem", "diverged")
    assert finding.knob == "--set r1_zero.optim.learning_rate=3.33e-05"
    assert "the policy loss is NaN" in finding.evidence


def test_an_interrupted_run_is_no_problem(tmp_path: Path) -> None:
    findings = diagnose(unfinished(tmp_path, "interrupted").dir)
    assert not bad(findings)
    assert "interrupted" in next(f for f in findings if f.severity == "note").what


@pytest.mark.parametrize(("resumed_at", "severity"), [(18, "note"), (-1, "warning")])
def test_waste_of_killed_attempts(tmp_path: Path, resumed_at: int, severity: str) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.base()
    history.train("r1_zero", HEALTHY_GRPO, range(20))
    history.ledger.append(attempt=1, kind="attempt_end", detail={"outcome": "killed", "error": None})
    history.start(resumed_from=("r1_zero", resumed_at))
    history.train("r1_zero", HEALTHY_GRPO, range(resumed_at + 1, 60))
    history.finish("r1_zero")
    history.end()
    finding = next(f for f in diagnose(history.dir) if "of 2 attempts" in f.what)
    assert finding.severity == severity
    assert "attempt 1 killed" in finding.evidence
    assert finding.knob == "--set r1_zero.checkpoint.every=10"


def test_an_idle_machine(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    history.base()
    history.train("r1_zero", HEALTHY_GRPO, seconds={"rollout": 3.0, "update": 2.0, "idle": 4.0})
    history.finish("r1_zero")
    history.end()
    # 60 steps x 4 s idle of 2 + 80 + 60 x 9 s
    assert only(history, "warning", "stood idle for 39%").evidence.startswith("240 of 622 s")


@pytest.mark.parametrize(
    ("override", "knob"),
    [
        ("r1_zero.eval.every=10", "--set r1_zero.eval.samples=4"),
        ("r1_zero.eval.samples=1", "--set r1_zero.eval.every=20"),
        ("r1_zero.eval={samples=1}", "--set r1_zero.eval.num_problems=128"),
    ],
)
def test_costly_evaluation(tmp_path: Path, override: str, knob: str) -> None:
    history = RunHistory(tmp_path, [override])
    history.start()
    history.base()
    history.evaluation("r1_zero", "before", 0.06, seconds=400)
    history.train("r1_zero", HEALTHY_GRPO)
    history.evaluation("r1_zero", "after", 0.6, seconds=400)
    history.finish("r1_zero")
    history.end()
    finding = only(history, "warning", "Evaluation is 62% of the cost")
    assert finding.knob == knob
    assert "r1_zero (800 s)" in finding.evidence


def test_a_changed_ledger_is_found(healthy: RunHistory, tmp_path: Path) -> None:
    copy = shutil.copytree(healthy.dir, tmp_path / "copy")
    db = sqlite3.connect(copy / "ledger.sqlite")
    db.execute("DROP TRIGGER entries_no_update")
    db.execute("UPDATE entries SET usd = '0.000000000000' WHERE seq = 9")
    db.commit()
    db.close()
    findings = diagnose(copy)
    assert findings[0].severity == "problem"
    assert "breaks at entry 9" in findings[0].evidence
    assert len(bad(findings)) == 1


def write_checkpoint(run_dir: Path, step: int) -> Path:
    """By the format of the manifest, written here by hand."""
    folder = run_dir / "checkpoints" / "r1_zero" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(bytes([step]) * 1000)
    digest = hashlib.sha256(bytes([step]) * 1000).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"step": step, "score": None, "sha256": {"state.pt": digest}}))
    return folder


def test_damaged_checkpoints(tmp_path: Path) -> None:
    history = unfinished(tmp_path, "interrupted")
    older, newer = write_checkpoint(history.dir, 9), write_checkpoint(history.dir, 19)
    assert any("Every checkpoint matches" in f.what for f in diagnose(history.dir))

    (newer / "state.pt").write_bytes(b"\x01" + (newer / "state.pt").read_bytes()[1:])
    finding = only(history, "warning", "1 of the 2 checkpoints of r1_zero are damaged; a resume goes on")
    assert finding.evidence == "step-000019: state.pt does not match its sha256"

    (older / "manifest.json").unlink()
    finding = only(history, "problem", "a resume starts the stage again")
    assert "manifest.json is missing" in finding.evidence


def test_the_manifest_is_the_one_the_store_writes(tmp_path: Path) -> None:
    from farthing.checkpoint import CheckpointStore

    history = unfinished(tmp_path, "interrupted")
    store = CheckpointStore(history.dir / "checkpoints" / "r1_zero", 2, True, pytest.fail)
    store.save(19, {"a": 1}, None)
    assert any("Every checkpoint matches" in f.what for f in diagnose(history.dir))


def test_damaged_metrics_are_said(healthy: RunHistory, tmp_path: Path) -> None:
    copy = shutil.copytree(healthy.dir, tmp_path / "copy")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join([*lines[:3], "{damaged\n", *lines[3:]]))
    findings = diagnose(copy)
    assert findings[0].what == "metrics.jsonl has lines that cannot be read; the curves are looked at without them"
    assert findings[0].evidence.endswith("metrics.jsonl: 1 line(s), the first is line 4")


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run directory"):
        diagnose(tmp_path)


# what people see -----------------------------------------------------------------------------------------------------


def test_the_worst_comes_first_and_all_of_it_is_shown(tmp_path: Path) -> None:
    history = grpo_run(tmp_path, truncated=ramp(0.1, 0.5), logprob_gap=lambda x: 0.02)
    findings = diagnose(history.dir)
    assert [f.severity for f in findings] == ["problem", "warning", "ok", "ok"]
    console = Console(width=200, record=True, file=(tmp_path / "out.txt").open("w"))
    with console.file:
        render(findings, console)
    text = console.export_text()
    assert all(part in text for f in findings for part in (f.severity, f.what, f.evidence, f.knob))
    assert json.loads(json.dumps(to_json(findings)))[0].keys() == {"severity", "what", "evidence", "knob"}
