"""A run directory -> what `farthing show --json` prints. Reads files only; no torch."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from farthing.config import Recipe, parse_recipe
from farthing.errors import FarthingError, RunError
from farthing.files import is_locked, read_json
from farthing.kept import evaluation, run_info, stage_result, table_rows
from farthing.ledger.account import read_account
from farthing.ledger.bill import Bill, make_bill
from farthing.ledger.entries import Ledger

LAST_METRICS = ("step", "at", "attempt", "stage")


def open_run(path: Path) -> Path:
    """The directory itself, if it holds a run."""
    if not (path / "run.json").is_file():
        raise RunError(f"{path} is no run directory: it has no run.json. See yours with `farthing runs`")
    return path


def find_runs(root: Path) -> list[Path]:
    """Run directories below `root`, oldest first."""
    found = [p.parent for p in root.glob("**/run.json")] if root.is_dir() else []
    return sorted(found, key=lambda p: (p / "run.json").stat().st_mtime)


def recipe_of(run_dir: Path) -> Recipe:
    return parse_recipe(read_json(run_dir / "recipe.json"), where=str(run_dir / "recipe.json"))


def bill_of(run_dir: Path) -> Bill:
    """The bill, after the ledger's chain has been checked (see ledger/account.py for how much of a long one)."""
    peaks = [v for k, v in run_info(run_dir)["machine"].items() if k.startswith("matmul_peak_flops")]
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        pretrains = any(stage.kind == "pretrain" for stage in recipe_of(run_dir).stages.values())
        return make_bill(read_account(ledger), peaks[0] if peaks else None, pretrains)


def read_metrics(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Rows of metrics.jsonl in order of writing; lines that were cut short are left out."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # half a line, cut short by a kill or a full disk: its step is done again
            if isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("step"), int):
                yield row


def damaged_lines(run_dir: Path) -> list[int]:
    """Numbers, from 1, of the lines of metrics.jsonl that are no JSON."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [number for number, line in enumerate(lines, start=1) if not _is_json(line)]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def curves(run_dir: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Stage -> step -> metrics; of a step done twice (after a kill) and of a stage run again, the last one's."""
    stages: dict[str, dict[int, dict[str, Any]]] = {}
    for row in read_metrics(run_dir):
        if "superseded" in row:
            stages.pop(row["stage"], None)
            continue
        stages.setdefault(row["stage"], {})[row["step"]] = row
    return {name: dict(sorted(steps.items())) for name, steps in stages.items()}


def superseded(run_dir: Path) -> dict[str, int]:
    """Stage -> the attempt that last began it anew because its recipe had changed; what earlier ones logged is void."""
    return {row["stage"]: row["attempt"] for row in read_metrics(run_dir) if "superseded" in row}


def is_running(run_dir: Path) -> bool:
    """Whether a process holds the run's lock."""
    return is_locked(run_dir / "lock")


def summarise_run(run_dir: Path) -> dict[str, Any]:
    """status: complete | running | interrupted | budget | failed | killed. usd as exact decimal strings.

    budget: stopped with a checkpoint because a budget was used up; the same command with a higher one goes on.
    """
    info, recipe, bill = run_info(run_dir), recipe_of(run_dir), bill_of(run_dir).to_json()
    costs = {s["name"]: s for s in bill["stages"]}
    steps = curves(run_dir)
    stages = [
        _stage(run_dir, name, config.kind, config.num_steps, costs.get(name), steps.get(name, {}))
        for name, config in recipe.stages.items()
    ]
    digests = [s["weights_sha256"] for s in stages if s["weights_sha256"]]
    return {
        "run_dir": str(run_dir),
        "name": info["name"],
        "status": _status(run_dir, stages, bill["attempts"]),
        "seed": info["seed"],
        "recipe_sha256": info["recipe_sha256"],
        "commit": info.get("commit"),
        "created": info["created"],
        "weights_sha256": digests[-1] if digests else None,
        "total_usd": bill["total_usd"],
        "held_s": bill["held_s"],
        "num_attempts": len(bill["attempts"]),
        "stages": stages,
    }


def summarise_or_say(run_dir: Path) -> dict[str, Any]:
    """For lists: one damaged run must not hide the others. Its status is `unreadable`, with the reason."""
    try:
        return summarise_run(run_dir)
    except FarthingError as error:
        nothing = {"stages": [], "num_attempts": 0, "held_s": 0.0, "total_usd": "0"}
        return {"run_dir": str(run_dir), "status": "unreadable", "reason": str(error), **nothing}


def _stage(
    run_dir: Path, name: str, kind: str, num_steps: int, cost: dict[str, Any] | None, steps: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    path = run_dir / "stages" / name / "result.json"
    result = stage_result(path) if path.is_file() else None
    last = steps[max(steps)] if steps else {}
    metrics = {k: v for k, v in last.items() if k not in LAST_METRICS}
    evals = {} if result is None else result.get("eval", {})
    if result is None and kind != "evaluate":
        found = {p.stem.removeprefix("eval_"): evaluation(p) for p in path.parent.glob("eval_*.json")}
        evals = dict(sorted(found.items(), reverse=True))
    stage = {
        "name": name,
        "kind": kind,
        "status": "complete" if result else "started" if cost or steps else "waiting",
        "steps_done": max(steps) + 1 if steps else 0,
        "num_steps": result.get("num_steps", num_steps) if result else num_steps,
        "seconds": cost["held_s"] if cost else 0.0,
        "usd": cost["usd"] if cost else str(Decimal(0)),
        "weights_sha256": result.get("weights_sha256") if result else None,
        "metrics": metrics | (result.get("metrics", {}) if result else {}),
    }
    best = {"best": result["best"]} if result and "best" in result else {}
    preferences = {"preferences": result["preferences"]} if result and "preferences" in result else {}
    if result and "file" in result:
        file = path.parent / result["file"]
        holds = {"table": table_rows(file)} if file.name == "table.json" else {"num_samples": count_lines(file)}
        stage |= {"file": str(file), **holds}
    return stage | ({"eval": evals} if evals else {}) | best | preferences


def count_lines(path: Path) -> int:
    """Lines with something in them, without holding the file in memory."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _status(run_dir: Path, stages: list[dict[str, Any]], attempts: list[dict[str, Any]]) -> str:
    if all(s["status"] == "complete" for s in stages):
        return "complete"
    if is_running(run_dir):
        return "running"
    if attempts and attempts[-1]["reason"] == "budget":
        return "budget"
    outcome = attempts[-1]["outcome"] if attempts else "killed"
    return {"running": "killed", "ok": "interrupted"}.get(outcome, str(outcome))
