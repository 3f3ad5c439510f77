"""Symptoms of every kind of stage: runs broken on purpose, some of them real ones, and healthy ones that must stay quiet."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from farthing.config import Config, StageConfig, TrainConfig, load_recipe
from farthing.config.stages import Leaves
from farthing.doctor import Finding, diagnose, examine
from farthing.pipeline import run_recipe
from farthing.symptoms.curves import StageCurves
from tests.conftest import MICRO
from tests.run_history import HEALTHY_BASE, HEALTHY_GRPO, TOML, Curve, RunHistory, levelling, ramp
from tests.test_doctor import bad, base_run, check_knobs, grpo_run, only

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


def test_high_mixing_in_spite_of_its_reward_is_a_warning() -> None:
    config: Any = Kind(kind="align", num_steps=60, optim={"learning_rate": 1e-4}, reward={"language": 0.5})
    found = examine_curves(config, {"loss": ramp(1, 0.2), "mixed": ramp(0.5, 0.48)})
    assert not bad(found), "only reinforcement learning is asked"
    from farthing.symptoms.language import language_mixing

    finding = language_mixing(curves_of(config, {"mixed": ramp(0.5, 0.48)}))
    assert finding is not None
    assert (finding.severity, finding.knob) == ("warning", "--set s.reward.language=1")
    assert language_mixing(curves_of(config, {"mixed": ramp(0.6, 0.4)})) is None, "the reward is at work"


# reward models ------------------------------------------------------------------------------------------------------------


class Weights(Config):
    language: float = 0.0


class Kind(TrainConfig):
    """A stage of any kind that trains, with a table more or less."""

    kind: str
    reward: Weights = Weights()
    match_lengths: bool = True


class Collecting(StageConfig):
    """A stage that leaves samples."""

    leaves: ClassVar[Leaves] = "data"
    kind: str = "rejection_sampling"
    group_size: int = 8
    max_completion_tokens: int = 72


def curves_of(config: StageConfig, curves: Mapping[str, Curve], evals: dict[str, Any] | None = None) -> StageCurves:
    """60 steps of a stage called s."""
    rows = [{"step": step, **{name: curve(step / 59) for name, curve in curves.items()}} for step in range(60)]
    return StageCurves("s", config, rows, evals or {}, "fp32")


def examine_curves(config: StageConfig, curves: Mapping[str, Curve], evals: dict[str, Any] | None = None) -> list[Finding]:
    return examine(curves_of(config, curves, evals))


def late(curve: Curve) -> Callable[[float], float]:
    """From the middle on; a metric that begins there is logged from there."""
    return lambda x: curve(max(0.0, 2 * x - 1))


HACKED = {"helpfulness_score": ramp(0, 3), "helpfulness_accuracy": levelling(0.6, 0.62), "helpfulness_tokens": ramp(20, 22)}


@pytest.mark.parametrize(
    ("changed", "evidence"),
    [
        ({"helpfulness_accuracy": ramp(0.6, 0.3)}, "helpfulness_score"),
        ({"accuracy": lambda x: 0.62 - 0.15 * x, "format": ramp(0.95, 0.95)}, "accuracy 0.6"),
        ({"helpfulness_tokens": ramp(20, 80)}, "helpfulness_tokens"),
        ({"helpfulness_score": ramp(0, 0.1), "hacking": lambda x: float(x == 1.0)}, "1 alarm(s), first at step 59"),
    ],
)
def test_a_tricked_reward_model(tmp_path: Path, changed: dict[str, Any], evidence: str) -> None:
    finding = only(grpo_run(tmp_path, **{**HACKED, **changed}), "problem", "tricks its reward model")
    assert evidence in finding.evidence


def test_a_score_that_rises_with_the_rule_is_quiet(tmp_path: Path) -> None:
    honest: Any = HACKED | {
        "helpfulness_accuracy": ramp(0.3, 0.6),
        "helpfulness_tokens": ramp(20, 60),
        "hacking": lambda x: 0.0,
    }
    assert not bad(diagnose(grpo_run(tmp_path, **honest).dir))


REWARD_MODEL = Kind(kind="reward_model", num_steps=60, optim={"learning_rate": 1e-4})  # type: ignore[arg-type]
LEARNED = {
    "loss": levelling(0.69, 0.3),
    "preference_accuracy": levelling(0.5, 0.85),
    "eval_preference_accuracy": ramp(0.6, 0.8),
}


@pytest.mark.parametrize(
    ("changed", "words", "knob"),
    [
        (
            {"loss": ramp(0.69, 0.69), "eval_preference_accuracy": ramp(0.5, 0.51)},
            "at chance",
            "--set s.optim.learning_rate=0.0003",
        ),
        ({"eval_length_correlation": ramp(0.1, 0.8)}, "measures length", "the shorter one"),
    ],
)
def test_a_reward_model_that_measures_nothing_or_length(changed: dict[str, Any], words: str, knob: str) -> None:
    (finding,) = bad(examine_curves(REWARD_MODEL, LEARNED | changed))
    assert words in finding.what
    assert knob in finding.knob


def test_a_reward_model_that_learned_is_quiet() -> None:
    assert [f.severity for f in examine_curves(REWARD_MODEL, LEARNED | {"eval_length_correlation": ramp(0, 0.1)})] == ["ok"]


# distillation -------------------------------------------------------------------------------------------------------------

DISTILL = Kind(kind="distill", num_steps=60, optim={"learning_rate": 1e-4})  # type: ignore[arg-type]
NEARER = {"loss": levelling(2.0, 0.4), "distill_kl": levelling(1.0, 0.1), "grad_norm": levelling(1, 0.5)}


def held_out(before: float, after: float) -> dict[str, Any]:
    return {"before": {"pass_at_1": before, "n": 64}, "after": {"pass_at_1": after, "n": 64}}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"distill_kl": ramp(1.0, 0.99), "loss": ramp(1.0, 0.99)}, "does not come nearer"),
        ({"distill_kl": ramp(1.0, 1.5), "loss": ramp(1.0, 1.5)}, "does not come nearer"),
    ],
)
def test_a_student_that_does_not_move(changed: dict[str, Any], words: str) -> None:
    (finding,) = bad(examine_curves(DISTILL, NEARER | changed, held_out(0.1, 0.1)))
    assert words in finding.what
    rises = changed["loss"](1.0) > 1
    assert finding.knob == f"--set s.optim.learning_rate={'3.33e-05' if rises else '0.0003'}"


def test_a_student_that_answers_no_better() -> None:
    (finding,) = bad(examine_curves(DISTILL, NEARER, held_out(0.1, 0.11)))
    assert "answers no better" in finding.what
    assert "10.0% -> 11.0%" in finding.evidence


@pytest.mark.parametrize("evals", [held_out(0.1, 0.7), held_out(0.95, 0.95), {}])
def test_a_student_that_learned_is_quiet(evals: dict[str, Any]) -> None:
    assert [f.severity for f in examine_curves(DISTILL, NEARER, evals)] == ["ok"]
    settled = NEARER | {"distill_kl": ramp(1e-4, 1e-4)}
    assert not bad(examine_curves(DISTILL, settled, evals)), "nothing to learn is no symptom"


# samples, documents, tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "reasons", "severity", "knob"),
    [
        (0.0, {"dropped_wrong": 244.0, "dropped_language": 12.0}, "problem", "--set s.group_size=32"),
        (4.0, {"dropped_truncated": 252.0, "dropped_wrong": 0.0}, "warning", "--set s.max_completion_tokens=144"),
        (4.0, {"dropped_language": 252.0}, "warning", "reward.language"),
        (4.0, {"dropped_paragraph": 252.0}, "warning", "loosen reward.readability"),
        (4.0, {"dropped_duplicate": 252.0}, "warning", "more problems"),
        (200.0, {"dropped_wrong": 56.0}, "ok", ""),
        # one of 64 is kept as asked: no lack, and a larger group would be waste
        (4.0, {"dropped_wrong": 100.0, "dropped_enough": 152.0}, "ok", ""),
    ],
)
def test_what_is_kept_of_what_was_sampled(kept: float, reasons: dict[str, float], severity: str, knob: str) -> None:
    rows: list[dict[str, Any]] = [{"step": step, "sampled": 256.0, "kept": kept, **reasons} for step in range(3)]
    (finding,) = examine(StageCurves("s", Collecting(num_steps=3), rows, {}, "fp32"))
    assert finding.severity == severity
    assert knob in finding.knob
    assert bool(knob) == bool(finding.knob)
    assert f"of 768 completions kept ({kept / 256:.1%})" in finding.evidence


def test_fine_tuning_by_heart(tmp_path: Path) -> None:
    def turned(x: float) -> float:
        return 1.0 - x if x < 0.5 else 0.5 + 0.4 * (x - 0.5)

    finding = only(base_run(tmp_path, eval_loss=turned), "warning", "overfits")
    assert "held-out loss 0.503 at step 30, 0.7 at step 59" in finding.evidence
    assert finding.knob == "--set base.num_steps=31"


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
