"""Symptoms of every kind of stage: runs broken on purpose, some of them real ones, and healthy ones that must stay quiet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from farthing.config import load_recipe
from farthing.doctor import diagnose
from farthing.pipeline import run_recipe
from tests.conftest import MICRO
from tests.run_history import HEALTHY_BASE, HEALTHY_GRPO, TOML, Curve, RunHistory, levelling, ramp
from tests.test_doctor import bad, check_knobs, grpo_run, only

# mixtures and languages, in grpo ----------------------------------------------------------------------------------------

TWO_TASKS = 'r1_zero.tasks=[{spec="toy:running_total"},{spec="toy:letter_walk"}]'
LEVELS = 'r1_zero.tasks=[{spec="toy:running_total",levels=[{min_terms=2},{min_terms=3}],promote_at=0.9}]'


def two_tasks(folder: Path, before: Mapping[str, float], after: Mapping[str, float]) -> RunHistory:
    history = RunHistory(folder, [TWO_TASKS])
    history.start()
    history.base()
    history.grpo()
    for label, shares in (("before", before), ("after", after)):
        history.evaluation("r1_zero", label, sum(shares.values()) / 2, seconds=1, per_task=shares)
    history.end()
    return history


def test_a_task_that_was_mastered_before_is_too_easy(tmp_path: Path) -> None:
    history = two_tasks(tmp_path, {"walk": 0.99, "total": 0.1}, {"walk": 1.0, "total": 0.6})
    finding = only(history, "warning", "mixture teaches nothing (too easy: walk)")
    assert finding.evidence == "walk 99.0% before"
    assert "smaller weight" in finding.knob


def test_a_task_that_is_never_right_is_too_hard(tmp_path: Path) -> None:
    history = two_tasks(tmp_path, {"walk": 0.0, "total": 0.1}, {"walk": 0.005, "total": 0.6})
    assert only(history, "warning", "(too hard: walk)").evidence == "walk 0.5% after"


def test_a_mixture_that_is_learned_is_quiet(tmp_path: Path) -> None:
    history = two_tasks(tmp_path, {"walk": 0.0, "total": 0.1}, {"walk": 0.4, "total": 0.99})
    assert not bad(diagnose(history.dir))


def test_a_curriculum_that_stays_at_its_first_level(tmp_path: Path) -> None:
    history = grpo_run(tmp_path, [LEVELS], level=lambda x: 0.0)
    finding = only(history, "warning", "never went beyond level 0")
    assert "unlocks at 90%" in finding.evidence


def test_a_curriculum_that_moves_is_quiet(tmp_path: Path) -> None:
    assert not bad(diagnose(grpo_run(tmp_path, [LEVELS], level=lambda x: float(x > 0.4)).dir))


@pytest.mark.parametrize(
    ("mixed", "severity"), [(ramp(0.05, 0.4), "warning"), (ramp(0.5, 0.5), "note"), (ramp(0.5, 0.1), ""), (ramp(0, 0.02), "")]
)
def test_chains_that_mix_languages(tmp_path: Path, mixed: Curve, severity: str) -> None:
    """Rising is a warning; high from the start is for R1's later stages to mend."""
    found = [f for f in diagnose(grpo_run(tmp_path, mixed=mixed, language=lambda x: 0.9).dir) if "mixes languages" in f.what]
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all(f.knob == "--set r1_zero.reward.language=1" for f in found)


def test_high_mixing_in_spite_of_its_reward_is_a_warning(tmp_path: Path) -> None:
    rewarded = ["r1_zero.reward.language=0.5"]
    finding = only(grpo_run(tmp_path / "a", rewarded, mixed=ramp(0.5, 0.48)), "warning", "in 48% of its chains")
    assert finding.knob == "--set r1_zero.reward.language=1"
    assert not bad(diagnose(grpo_run(tmp_path / "b", rewarded, mixed=ramp(0.6, 0.4)).dir)), "the reward is at work"


# other kinds of stages, written through the same code as real ones ------------------------------------------------------

KINDS = """
[stages.kept]
kind = "rejection_sampling"
num_steps = 3
max_completion_tokens = 72
tasks = [{ spec = "toy:running_total" }]
[stages.tuned]
kind = "sft"
start_from = "base"
num_steps = 60
data = ["kept"]
optim = { learning_rate = 1e-3 }
[stages.helpful]
kind = "reward_model"
learns = "helpfulness"
num_steps = 60
data = [{ spec = "toy:general" }]
optim = { learning_rate = 1e-4 }
[stages.r1]
kind = "align"
num_steps = 60
num_prompts = 8
group_size = 4
max_completion_tokens = 96
tasks = [{ spec = "toy:running_total" }]
helpfulness = { tasks = [{ spec = "toy:general" }], reward_model = "helpful" }
optim = { learning_rate = 1e-4 }
[stages.student]
kind = "distill"
method = "logits"
start_from = "base"
teacher = "r1"
data = ["kept"]
num_steps = 60
optim = { learning_rate = 1e-4 }
"""


def run_of(
    folder: Path,
    stage: str,
    curves: Mapping[str, Curve],
    held_out: tuple[float, float] | None = None,
) -> RunHistory:
    """Only `stage` was run: its steps, and the evaluations before and after it where there are any."""
    history = RunHistory(folder, toml=TOML + KINDS)
    history.start()
    if held_out:
        history.evaluation(stage, "before", held_out[0], seconds=1)
    history.train(stage, curves)
    if held_out:
        history.evaluation(stage, "after", held_out[1], seconds=1)
    history.finish(stage)
    history.end()
    return history


def late(start: float, end: float) -> Curve:
    """From the middle of the stage, where preferences begin to count."""
    return lambda x: start + (end - start) * max(0.0, 2 * x - 1)


HONEST = {
    **HEALTHY_GRPO,
    "helpfulness_score": late(0, 3),
    "helpfulness_accuracy": late(0.3, 0.8),
    "helpfulness_tokens": late(20, 30),
    "hacking": lambda x: 0.0,
}


@pytest.mark.parametrize(
    ("changed", "evidence"),
    [
        ({"helpfulness_accuracy": late(0.6, 0.2)}, "helpfulness prompts: helpfulness score up by"),
        ({"accuracy": late(0.62, 0.3), "format": ramp(0.9, 0.9)}, "helpfulness against reasoning"),
        ({"helpfulness_tokens": late(20, 80), "helpfulness_accuracy": late(0.5, 0.5)}, "completions from 20"),
        ({"hacking": lambda x: float(x == 1.0)}, "the watch saw it at 1 step(s), first at step 59"),
    ],
)
def test_a_tricked_reward_model(tmp_path: Path, changed: dict[str, Any], evidence: str) -> None:
    findings = diagnose((history := run_of(tmp_path, "r1", {**HONEST, **changed})).dir)
    finding = next(f for f in findings if "tricks its reward model" in f.what)
    check_knobs(findings, history)
    assert finding.severity == "problem"
    assert evidence in finding.evidence
    assert finding.knob == "--set r1.preference_from=0.882"


def test_a_score_that_rises_with_the_rule_is_quiet(tmp_path: Path) -> None:
    assert not bad(diagnose(run_of(tmp_path, "r1", HONEST).dir))


LEARNED = {
    "loss": levelling(0.69, 0.3),
    "preference_accuracy": levelling(0.5, 0.85),
    "eval_preference_accuracy": ramp(0.6, 0.8),
    "eval_length_correlation": ramp(0.0, 0.1),
}


@pytest.mark.parametrize(
    ("changed", "severity", "words", "knob"),
    [
        (
            {"loss": ramp(0.69, 0.69), "eval_preference_accuracy": ramp(0.5, 0.51)},
            "problem",
            "at chance",
            "--set helpful.optim.learning_rate=0.0003",
        ),
        ({"eval_length_correlation": ramp(0.1, 0.8)}, "warning", "measures length", "the shorter one"),
    ],
)
def test_a_reward_model_that_measures_nothing_or_length(
    tmp_path: Path, changed: dict[str, Any], severity: str, words: str, knob: str
) -> None:
    assert knob in only(run_of(tmp_path, "helpful", LEARNED | changed), severity, words).knob


def test_a_reward_model_that_learned_is_quiet(tmp_path: Path) -> None:
    assert not bad(diagnose(run_of(tmp_path, "helpful", LEARNED).dir))


NEARER = {"loss": levelling(2.0, 0.4), "distill_kl": levelling(1.0, 0.1), "grad_norm": levelling(1, 0.5)}


@pytest.mark.parametrize(("end", "knob"), [(0.99, "0.0003"), (1.5, "3.33e-05")])
def test_a_student_that_does_not_move(tmp_path: Path, end: float, knob: str) -> None:
    still = NEARER | {"distill_kl": ramp(1.0, end), "loss": ramp(1.0, end)}
    finding = only(run_of(tmp_path, "student", still, (0.1, 0.1)), "problem", "does not come nearer")
    assert finding.knob == f"--set student.optim.learning_rate={knob}"


def test_a_student_that_answers_no_better(tmp_path: Path) -> None:
    finding = only(run_of(tmp_path, "student", NEARER, (0.1, 0.11)), "warning", "answers no better")
    assert "10.0% -> 11.0%" in finding.evidence


@pytest.mark.parametrize("held_out", [(0.1, 0.7), (0.95, 0.95), None])
def test_a_student_that_learned_or_has_nothing_to_learn_is_quiet(tmp_path: Path, held_out: tuple[float, float] | None) -> None:
    assert not bad(diagnose(run_of(tmp_path / "a", "student", NEARER, held_out).dir))
    settled = NEARER | {"distill_kl": ramp(1e-4, 1e-4)}
    assert not bad(diagnose(run_of(tmp_path / "b", "student", settled, held_out).dir))


@pytest.mark.parametrize(
    ("kept", "reasons", "severity", "knob"),
    [
        (0.0, {"dropped_wrong": 244.0, "dropped_language": 12.0}, "problem", "--set kept.group_size=32"),
        (4.0, {"dropped_truncated": 252.0, "dropped_wrong": 0.0}, "warning", "--set kept.max_completion_tokens=144"),
        (4.0, {"dropped_language": 252.0}, "warning", "reward.language"),
        (4.0, {"dropped_paragraph": 252.0}, "warning", "loosen reward.readability"),
        (4.0, {"dropped_duplicate": 252.0}, "warning", "more problems"),
        (200.0, {"dropped_wrong": 56.0}, "ok", ""),
        # one of 64 is kept as asked: no lack, and a larger group would be waste
        (4.0, {"dropped_wrong": 100.0, "dropped_enough": 152.0}, "ok", ""),
    ],
)
def test_what_is_kept_of_what_was_sampled(
    tmp_path: Path, kept: float, reasons: dict[str, float], severity: str, knob: str
) -> None:
    counts = {"sampled": 256.0, "kept": kept, **reasons}
    history = run_of(tmp_path, "kept", {name: lambda x, count=count: count for name, count in counts.items()})  # type: ignore[misc]
    finding = next(f for f in diagnose(history.dir) if f.what.startswith("kept"))
    check_knobs([f for f in [finding] if f.knob.startswith("--set")], history)
    assert finding.severity == severity
    assert knob in finding.knob
    assert bool(knob) == bool(finding.knob)
    assert f"of 768 completions kept ({kept / 256:.1%})" in finding.evidence


def test_fine_tuning_by_heart(tmp_path: Path) -> None:
    turned: Curve = lambda x: 1.0 - x if x < 0.5 else 0.5 + 0.4 * (x - 0.5)  # noqa: E731
    finding = only(run_of(tmp_path, "tuned", HEALTHY_BASE | {"held_out_loss": turned}), "warning", "overfits")
    assert "held-out loss 0.503 nats at step 30, 0.7 at step 59" in finding.evidence
    assert finding.knob == "--set tuned.num_steps=31"
    assert not bad(diagnose(run_of(tmp_path / "b", "tuned", HEALTHY_BASE | {"held_out_loss": levelling(3, 0.8)}).dir))


def test_held_out_answers_that_get_worse(tmp_path: Path) -> None:
    history = RunHistory(tmp_path)
    history.start()
    for step in range(60):
        due: dict[str, Curve] = {"eval_accuracy": lambda x: 0.7 if x < 0.5 else 0.4} if step % 10 == 9 else {}
        history.train("base", HEALTHY_BASE | due, range(step, step + 1), seconds={"update": 1.0})
    history.finish("base")
    history.grpo()
    history.end()
    finding = only(history, "warning", "overfits")
    assert "held-out accuracy 0.7 about step 19, 0.4 about step 59" in finding.evidence


TABLE = """
[stages.table]
kind = "evaluate"
models = ["base", "r1_zero"]
suites.sums = { tasks = [{ spec = "toy:running_total" }], max_completion_tokens = 96 }
"""


def test_a_table_has_no_curves_to_judge_and_its_evaluations_are_its_own(tmp_path: Path) -> None:
    history = RunHistory(tmp_path, toml=TOML + TABLE)
    history.start()
    history.base()
    history.grpo()
    for step, model in enumerate(("base", "r1_zero")):
        history.train("table", {"eval_accuracy": lambda x: x}, range(step, step + 1), seconds={"eval": 3.0})
        history.evaluation("table", f"{model}_sums", 0.5, seconds=0)
    history.finish("table")
    history.end()
    assert not bad(diagnose(history.dir))


def test_a_table_that_costs_most_of_the_run(tmp_path: Path) -> None:
    history = RunHistory(tmp_path, toml=TOML + TABLE)
    history.start()
    history.base()
    history.train("r1_zero", HEALTHY_GRPO)
    history.finish("r1_zero")
    history.train("table", {"eval_accuracy": lambda x: x}, range(2), seconds={"eval": 1000.0})
    history.finish("table")
    history.end()
    finding = only(history, "warning", "Evaluation is 80% of the cost")
    assert "table.suites" in finding.knob


# real runs, broken on purpose -------------------------------------------------------------------------------------------------


def test_an_untrained_model_is_found_to_be_cut_and_without_signal(tmp_path: Path) -> None:
    """A real run of nine steps: no base was trained, so no answer is right and hardly any end."""
    overrides = ["r1_zero.num_steps=9", "r1_zero.start_from=source", "r1_zero.max_completion_tokens=4",
                                  "r1_zero.reward.format=0", "r1_zero.kl_coef=0"]  # fmt: skip
    run_recipe(load_recipe(str(MICRO), overrides), tmp_path / "run", [], only="r1_zero")
    findings = diagnose(tmp_path / "run")
    assert any(f.severity == "note" and "without --only" in f.what and f.evidence.endswith("base") for f in findings)
    whats = " ".join(f.what for f in bad(findings))
    assert "cut at the limit" in whats
    assert "every advantage is zero" in whats
    assert all(f.knob for f in bad(findings))


def test_a_learning_rate_that_is_far_too_high_is_found(tmp_path: Path) -> None:
    """A real pretraining whose loss explodes, and comes back while there are steps left."""
    overrides = ["base.num_steps=40", "base.optim.learning_rate=1", "base.batch_documents=4"]
    run_recipe(load_recipe(str(MICRO), overrides), tmp_path / "run", [], only="base")
    finding = next(f for f in diagnose(tmp_path / "run") if f.severity in ("problem", "warning"))
    assert "loss of base" in finding.what
    assert finding.knob == "--set base.optim.learning_rate=0.333"


def test_healthy_histories_are_quiet(tmp_path: Path) -> None:
    history = grpo_run(tmp_path, mixed=ramp(0.02, 0.01), language=lambda x: 0.99, reflection=lambda x: 0.0, level=lambda x: 0.0)
    findings = diagnose(history.dir)
    assert [f.severity for f in findings] == ["ok"] * 3
    check_knobs(findings, history)
