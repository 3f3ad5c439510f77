"""A run directory -> findings: what is wrong, the numbers that show it, the knob that mends it. No torch here.

`symptoms` reads the curves of each stage; this file reads the ledger and the checkpoints, and puts it all in order.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from farthing.config import DistillConfig, EvalConfig, GrpoConfig, Recipe, RewardModelConfig, StageConfig, TrainConfig
from farthing.errors import LedgerError
from farthing.kept import evaluation, run_info
from farthing.manifest import damage
from farthing.summary import bill_of, curves, damaged_lines, is_running, open_run, recipe_of
from farthing.symptoms.collecting import collected
from farthing.symptoms.corpus import CORPUS_CHECKS, not_finite
from farthing.symptoms.curves import MIN_STEPS, SEVERITIES, Finding, StageCurves
from farthing.symptoms.distill import DISTILL_CHECKS
from farthing.symptoms.grpo import GRPO_CHECKS, standstill
from farthing.symptoms.hacking import REWARD_MODEL_CHECKS

__all__ = ["Finding", "diagnose", "render", "to_json"]

MIN_HELD_S = 60.0
"""Shares of a shorter run say nothing."""
WASTE_SHARE = 0.05
IDLE_SHARE = 0.15
EVAL_SHARE = 0.4
COLOURS = {"problem": "red", "warning": "yellow", "note": "cyan", "ok": "green"}


def diagnose(run_dir: Path) -> list[Finding]:
    """Every finding, the worst first. RunError if there is no run; a damaged ledger or curve is itself a finding."""
    recipe = recipe_of(open_run(run_dir))
    findings = [*_ledger(run_dir, recipe), *_checkpoints(run_dir, recipe), *_damaged_metrics(run_dir)]
    steps = curves(run_dir)
    for name, config in recipe.stages.items():
        if rows := list(steps.get(name, {}).values()):
            findings += examine(StageCurves(name, config, rows, _held_out(run_dir, name), _precision(run_dir, recipe)))
    return sorted(findings, key=lambda f: SEVERITIES.index(f.severity))


def to_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [asdict(f) for f in findings]


def render(findings: Sequence[Finding], console: Console) -> None:
    """One block a finding: severity and sentence, then the evidence, then the knob."""
    for f in findings:
        console.print(Text.assemble((f"{f.severity:8}", f"bold {COLOURS[f.severity]}"), (f.what, "bold")))
        for label, text, style in (("", f.evidence, "dim"), ("try  ", f.knob, "cyan")):
            if text:
                console.print(Padding(Text.assemble((label, "dim"), (text, style)), (0, 0, 0, 8)))


# the curves ----------------------------------------------------------------------------------------------------------


def examine(curves: StageCurves) -> list[Finding]:
    """The findings of one stage, led by an `ok` where none is a warning or a problem."""
    name, config = curves.name, curves.config
    broken = not_finite(curves)
    if broken is not None:
        return [broken]
    if config.leaves == "table":
        return []
    if config.leaves == "data":
        return collected(curves)
    if not curves.is_long_enough():
        evidence = f"{len(curves.rows)} steps; {MIN_STEPS} are needed"
        return [Finding("note", f"{name} has too few steps to judge its curves", evidence)]
    if isinstance(config, GrpoConfig):
        found = [f for check in GRPO_CHECKS if (f := check(curves, config)) is not None]
        if not is_bad(found) and (stuck := standstill(curves, config)) is not None:
            found.append(stuck)
        good = Finding("ok", f"{name} shows no symptom", curves.show("reward", "accuracy"))
    else:
        found = [f for check in _checks(config) if (f := check(curves)) is not None]
        good = Finding("ok", f"{name} shows no symptom", curves.show("loss"))
    return found if is_bad(found) else [good, *found]


def _checks(config: StageConfig) -> tuple[Callable[[StageCurves], Finding | None], ...]:
    """Of a stage that trains and is no reinforcement learning."""
    if isinstance(config, RewardModelConfig):
        return REWARD_MODEL_CHECKS
    return DISTILL_CHECKS if isinstance(config, DistillConfig) else CORPUS_CHECKS


def is_bad(findings: Sequence[Finding]) -> bool:
    return any(f.severity in ("problem", "warning") for f in findings)


def _held_out(run_dir: Path, stage: str) -> dict[str, dict[str, Any]]:
    """The full evaluations of a stage by label: before, after."""
    found = ((label, run_dir / "stages" / stage / f"eval_{label}.json") for label in ("before", "after"))
    return {label: evaluation(path) for label, path in found if path.is_file()}


def _precision(run_dir: Path, recipe: Recipe) -> str:
    """What `auto` came to on the machine; fp32 where the run did not get that far."""
    machine = run_info(run_dir)["machine"]
    measured = [key.removeprefix("matmul_peak_flops_") for key in machine if key.startswith("matmul_peak_flops_")]
    if recipe.precision == "auto":
        return str(measured[0]) if measured else "fp32"
    return recipe.precision


def _damaged_metrics(run_dir: Path) -> list[Finding]:
    bad = damaged_lines(run_dir)
    if not bad:
        return []
    finding = Finding(
        "warning",
        "metrics.jsonl has lines that cannot be read; the curves are looked at without them",
        f"{run_dir / 'metrics.jsonl'}: {len(bad)} line(s), the first is line {bad[0]}",
        "nothing to do after a full disk or a power cut; the ledger and the weights do not depend on this file",
    )
    return [finding]


# the ledger ----------------------------------------------------------------------------------------------------------


def _ledger(run_dir: Path, recipe: Recipe) -> list[Finding]:
    try:
        bill = bill_of(run_dir).to_json()
    except LedgerError as error:
        what = "The ledger does not hold: its chain is broken or it does not add up"
        knob = "restore ledger.sqlite from a copy; until then no bill of this run can be trusted"
        return [Finding("problem", what, str(error), knob)]
    whole = Finding(
        "ok",
        "The ledger's chain is whole and its sums agree",
        f"{bill['entries']} entries, {bill['held_s']:.0f} s held, ${Decimal(bill['total_usd']):.4f}",
    )
    checks = (_stopped(run_dir, recipe, bill), _waste(recipe, bill), _idle(bill), _eval_share(recipe, bill))
    return [whole, *(f for f in checks if f is not None)]


def _stopped(run_dir: Path, recipe: Recipe, bill: dict[str, Any]) -> Finding | None:
    """The last attempt died, and nothing has gone on from there."""
    todo = [name for name in recipe.stages if not (run_dir / "stages" / name / "result.json").is_file()]
    if not todo or not bill["attempts"] or is_running(run_dir):
        return None
    last = bill["attempts"][-1]
    if last["outcome"] == "interrupted":
        return Finding("note", "The run was interrupted; the same command goes on with it", f"in stage {todo[0]}")
    if last["outcome"] == "ok":
        rest = f"not done yet: {', '.join(todo)}"
        return Finding("note", "Only some stages were asked for; without --only the same command runs the rest", rest)
    outcome = "was killed" if last["outcome"] in ("running", "killed") else "failed"
    where = f"attempt {last['attempt']}, in stage {todo[0]}, after {last['seconds']:.0f} s"
    evidence = f"{where}: {last['error']}" if last["error"] else where
    config = recipe.stages[todo[0]]
    if str(last["error"]).startswith("TrainingDiverged") and isinstance(config, TrainConfig):
        lower = f"--set {todo[0]}.optim.learning_rate={config.optim.learning_rate / 3:.3g}"
        return Finding("problem", "Training diverged: a loss or a weight became NaN or infinite", evidence, lower)
    return Finding(
        "problem", f"The last attempt {outcome} before the run was complete", evidence, "give the same command again"
    )


def _waste(recipe: Recipe, bill: dict[str, Any]) -> Finding | None:
    dead = [a for a in bill["attempts"] if a["outcome"] in ("failed", "killed")]
    wasted, total = Decimal(bill["wasted_usd"]), Decimal(bill["total_usd"])
    if not dead and not wasted:
        return None
    share = float(wasted / total) if total else 0.0
    ends = ", ".join(f"attempt {a['attempt']} {a['outcome']} (${Decimal(a['wasted_usd']):.4f} wasted)" for a in dead)
    costly = max(bill["stages"], key=lambda s: Decimal(s["wasted_usd"]), default=None)
    stage = costly["name"] if costly and costly["name"] in recipe.stages else next(iter(recipe.stages))
    every = recipe.stages[stage].checkpoint.every
    return Finding(
        "warning" if share > WASTE_SHARE else "note",
        f"{len(dead)} of {len(bill['attempts'])} attempts failed or were killed; {share:.1%} of the cost was wasted",
        f"{ends or 'work was done again after an interruption'}; ${wasted:.4f} of ${total:.4f}",
        f"--set {stage}.checkpoint.every={max(1, every // 2) if every else 20}",
    )


def _idle(bill: dict[str, Any]) -> Finding | None:
    idle, held = bill["phases_s"].get("idle", 0.0), bill["held_s"]
    if held < MIN_HELD_S or idle / held <= IDLE_SHARE:
        return None
    knob = "give --run-dir a fast local disk, and look for other programs or a machine that went to sleep"
    evidence = f"{idle:.0f} of {held:.0f} s outside every phase"
    return Finding("warning", f"The machine stood idle for {idle / held:.0%} of the run", evidence, knob)


def _eval_share(recipe: Recipe, bill: dict[str, Any]) -> Finding | None:
    spent, held = bill["phases_s"].get("eval", 0.0), bill["held_s"]
    stages = {s["name"]: s["phases_s"].get("eval", 0.0) for s in bill["stages"] if s["name"] in recipe.stages}
    if held < MIN_HELD_S or spent / held <= EVAL_SHARE:
        return None
    costly = max(stages, key=lambda name: stages[name])
    config = recipe.stages[costly]
    evidence = f"{spent:.0f} of {held:.0f} s; most of it in {costly} ({stages[costly]:.0f} s)"
    return Finding("warning", f"Evaluation is {spent / held:.0%} of the cost", evidence, _cheaper_eval(costly, config))


def _cheaper_eval(stage: str, config: Any) -> str:
    if config.leaves == "table":
        return f"fewer models in {stage}.models, or a smaller num_problems or samples in {stage}.suites"
    e: EvalConfig | None = getattr(config, "eval", None)
    if e is None:
        return ""
    quick = config.num_steps // e.every * e.quick_problems if e.every else 0
    if quick > 2 * e.num_problems * e.samples:
        return f"--set {stage}.eval.every={2 * e.every}"
    key, value = ("samples", e.samples) if e.samples > 1 else ("num_problems", e.num_problems)
    return f"--set {stage}.eval.{key}={max(1, value // 2)}"


# checkpoints ---------------------------------------------------------------------------------------------------------


def _checkpoints(run_dir: Path, recipe: Recipe) -> list[Finding]:
    """Damaged ones, a finding a stage. A resume skips them, so only a stage without a whole one loses its work."""
    findings, num_whole = [], 0
    for stage in recipe.stages:
        state = {p: damage(p) for p in sorted((run_dir / "checkpoints" / stage).glob("step-*"))}
        damaged = {p.name: why for p, why in state.items() if why and p.exists()}
        whole = len(state) - len(damaged)
        num_whole += whole
        if damaged:
            what = f"{len(damaged)} of the {len(state)} checkpoints of {stage} are damaged"
            loss = "a resume goes on from an earlier one" if whole else "a resume starts the stage again"
            evidence = "; ".join(f"{name}: {why}" for name, why in damaged.items())
            keep = f"--set {stage}.checkpoint.keep_last={recipe.stages[stage].checkpoint.keep_last + 1}"
            findings.append(Finding("warning" if whole else "problem", f"{what}; {loss}", evidence, keep))
    if num_whole and not findings:
        findings.append(Finding("ok", "Every checkpoint matches its digest", f"{num_whole} checkpoints"))
    return findings
