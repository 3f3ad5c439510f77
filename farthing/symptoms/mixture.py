"""The evaluations and curves of a stage with several tasks, or levels of one -> findings: parts of its mixture teach nothing.

A problem that is always right, or never, gives groups without signal: the share of the batch that it takes is wasted.
"""

from typing import Any

from farthing.symptoms.curves import Finding, StageCurves

TOO_EASY, TOO_HARD = 0.97, 0.01
MIN_PROBLEMS = 32
"""Held-out problems of an evaluation below which a task's share says nothing."""


def lopsided_tasks(c: StageCurves) -> Finding | None:
    """By the full evaluations: tasks mastered before the stage began, and tasks of which it learned nothing."""
    before, after = (_per_task(c.evals.get(label, {})) for label in ("before", "after"))
    easy = [task for task, share in before.items() if share >= TOO_EASY]
    hard = [task for task, share in after.items() if share <= TOO_HARD and before.get(task, 0.0) <= TOO_HARD]
    if len(before or after) < 2 or not (easy or hard):
        return None
    parts = [f"{name} {', '.join(tasks)}" for name, tasks in (("too easy:", easy), ("too hard:", hard)) if tasks]
    shares = [f"{task} {before.get(task, 0.0):.1%} before" for task in easy]
    shares += [f"{task} {after[task]:.1%} after" for task in hard]
    knob = (
        f"give these a smaller weight in the tasks of {c.name}, or levels that fit: easy ones first, harder ones once mastered"
    )
    return Finding("warning", f"Part of {c.name}'s mixture teaches nothing ({'; '.join(parts)})", ", ".join(shares), knob)


def _per_task(result: dict[str, Any]) -> dict[str, float]:
    return dict(result.get("per_task", {})) if result.get("n", 0) >= MIN_PROBLEMS else {}


def stuck_level(c: StageCurves) -> Finding | None:
    """A curriculum whose next level never unlocked in a whole stage."""
    levels = c.values("level")
    config: Any = c.config
    with_levels = [task for task in getattr(config, "tasks", []) if len(task.levels) > 1]
    if not with_levels or not levels or len(c.rows) < config.num_steps or max(levels) > min(levels):
        return None
    if levels[-1] >= max(len(task.levels) for task in with_levels) - 1:
        return None
    wanted = min(task.promote_at for task in with_levels)
    what = f"The curriculum of {c.name} never went beyond level {levels[-1]:.0f}: it is too hard, or too much is asked of it"
    evidence = f"{c.show('accuracy')}; the next level unlocks at {wanted:.0%} of the newest level's last problems"
    knob = f"give {c.name} an easier first level, lower promote_at, or more steps"
    return Finding("warning", what, evidence, knob)
