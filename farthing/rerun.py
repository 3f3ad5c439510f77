"""A recipe and its run directory -> for every stage: keep it, go on with it, run it, or run it again, and why. No torch here.

What a stage made is kept as long as its key (config/graph.py) is the recipe's. Where the key has changed, the stage and all
that depend on it run again; what they had made is moved to RUN/superseded and stays on the bill.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from farthing.config import Recipe
from farthing.config.graph import decisive, dependents, inputs_of
from farthing.errors import RecipeError, RunError
from farthing.files import read_json, write_json

Action = Literal["keep", "resume", "run", "again", "leave"]
"""keep: done. resume: begun. run: not begun. again: done or begun under another key. leave: not asked for by --only."""
TO_RUN: tuple[Action, ...] = ("run", "resume", "again")


@dataclass(frozen=True)
class Planned:
    """One stage of the run to come."""

    name: str
    key: str
    action: Action
    why: str = ""


def plan_stages(recipe: Recipe, run_dir: Path, only: str = "", again_from: str = "") -> list[Planned]:
    """Every stage in the order of the run. RecipeError for a stage that is not there, RunError where a needed one is not done.

    `again_from`: this stage and its dependents run again though nothing about them has changed; what a killed attempt with
    the same `again_from` has already run again is kept.
    """
    for flag, name in (("--only", only), ("--from", again_from)):
        if name and name not in recipe.stages:
            raise RecipeError(f"{flag} {name}: {recipe.name} has no such stage; it has {', '.join(recipe.stages)}")
    forced = _still_forced(recipe, run_dir, again_from)
    keys, planned = recipe.keys(), {}
    for name in recipe.stages:
        planned[name] = _plan(recipe, run_dir, name, keys[name], name in forced)
    wanted = {only} if only else dependents(recipe.stages, [again_from]) if again_from else set(recipe.stages)
    _require_inputs(recipe, planned, wanted)
    return [p if p.name in wanted or p.action == "keep" else Planned(p.name, p.key, "leave", p.why) for p in planned.values()]


def _plan(recipe: Recipe, run_dir: Path, name: str, key: str, is_forced: bool) -> Planned:
    folder = run_dir / "stages" / name
    begun = read_json(folder / "stage.json") if (folder / "stage.json").is_file() else None
    if begun is None:
        return Planned(name, key, "run")
    if begun["key"] != key:
        return Planned(name, key, "again", _what_changed(begun, recipe, name))
    if is_forced:
        return Planned(name, key, "again", "asked for by --from")
    return Planned(name, key, "keep" if (folder / "result.json").is_file() else "resume")


def _what_changed(begun: Mapping[str, Any], recipe: Recipe, name: str) -> str:
    own = differences(begun["config"], decisive(recipe.stages[name]))
    if own:
        return ", ".join(own[:4])
    if begun.get("evaluations", []) != recipe.also_decides(name).get("evaluations", []):
        return "what the recipe evaluates on changed, and its samples are left out"
    keys = recipe.keys()
    inputs = [other for other in inputs_of(recipe.stages, name) if begun["inputs"].get(other) != keys[other]]
    return f"{', '.join(inputs)} changed" if inputs else "it starts from another model"


def _require_inputs(recipe: Recipe, planned: Mapping[str, Planned], wanted: set[str]) -> None:
    """RunError where a stage that shall run reads one that is neither done nor going to be."""
    for name in wanted:
        if planned[name].action == "keep":
            continue
        for other in inputs_of(recipe.stages, name):
            if other not in wanted and planned[other].action != "keep":
                state = {"again": f"has changed ({planned[other].why})"}.get(planned[other].action, "is not done")
                raise RunError(
                    f"{name} reads {other}, which {state}; run it first: --only {other}, or leave --only and --from out"
                )


# --from, across attempts ------------------------------------------------------------------------------------------------


def _still_forced(recipe: Recipe, run_dir: Path, again_from: str) -> set[str]:
    """Stages that `again_from` still has to run again."""
    if not again_from:
        return set()
    path = run_dir / "again.json"
    kept = read_json(path) if path.is_file() else None
    if kept is not None and kept["from"] == again_from:
        return set(kept["left"])
    return dependents(recipe.stages, [again_from])


def remember_forced(recipe: Recipe, run_dir: Path, again_from: str) -> None:
    """Before the first of them is superseded: which stages `again_from` has to run again."""
    if again_from:
        left = _still_forced(recipe, run_dir, again_from)
        write_json(run_dir / "again.json", {"from": again_from, "left": [name for name in recipe.stages if name in left]})


def forget_forced(run_dir: Path, name: str) -> None:
    """`name` begins anew: should this attempt be killed, the next goes on with it. The last one's note removes the file."""
    path = run_dir / "again.json"
    if path.is_file():
        kept = read_json(path)
        write_json(path, {**kept, "left": [other for other in kept["left"] if other != name]})


def clear_forced(run_dir: Path) -> None:
    """All is done: the next --from begins afresh."""
    (run_dir / "again.json").unlink(missing_ok=True)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`key (old -> new)` of everything that differs between two tables."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [d for k in names for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if old == new else [f"{path} ({old!r} -> {new!r})"]
