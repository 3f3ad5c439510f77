"""A run directory or a project folder -> its bill, with what the money bought: evaluations, reward, the runs it is made of."""

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from farthing.errors import RunError
from farthing.kept import run_info, stage_result
from farthing.ledger.account import Account, read_account
from farthing.ledger.bill import Bill, make_bill
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import detail_of, usd_text
from farthing.ledger.gains import gains, marginal
from farthing.ledger.overhead import Overhead
from farthing.ledger.projects import BOOK, is_project, members, open_project, project_account, refresh, trains_base
from farthing.ledger.superseded import Replaced
from farthing.summary import is_running, read_metrics

CURVE_POINTS = 5000
"""Of longer curves every k-th step is read into the marginal reward."""


def bill_at(path: Path, overhead: Overhead | None = None) -> tuple[Bill, Path]:
    """(bill, ledger file) of a run directory or a project; RunError where it is neither."""
    if is_project(path):
        return _project_bill(path, overhead), path / BOOK
    if not (path / "ledger.sqlite").is_file():
        raise RunError(f"{path} is neither a run directory nor a project: it has no ledger. See your runs with `farthing runs`")
    return _run_bill(path, overhead), path / "ledger.sqlite"


def _run_bill(run_dir: Path, overhead: Overhead | None) -> Bill:
    machine = run_info(run_dir)["machine"] if (run_dir / "run.json").is_file() else {}
    peaks = [v for k, v in machine.items() if k.startswith("matmul_peak_flops")]
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        account = read_account(ledger)
        if account.attempts and account.status == "running" and (run_dir / "lock").is_file() and not is_running(run_dir):
            account.attempts[-1].outcome = "killed"  # the next attempt will say so in the ledger
        bill = make_bill(account, peaks[0] if peaks else None, trains_base(run_dir), overhead)
        eval_usd = _evaluation_costs(ledger, account)
    counting = {name: stage.sums["picousd"] - stage.superseded_picousd for name, stage in bill.stages.items()}
    stage_usd = {name: Decimal(usd_text(picousd)) for name, picousd in counting.items()}
    bill.extra["gains"] = gains(_evaluations(run_dir), stage_usd, eval_usd)
    bill.extra["marginal"] = marginal(list(_reward_curve(run_dir, account.superseded)))
    return bill


def _evaluations(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Stage -> label -> evaluation, of stages that are done."""
    found = {path.parent.name: stage_result(path).get("eval", {}) for path in sorted(run_dir.glob("stages/*/result.json"))}
    return {stage: labels for stage, labels in found.items() if labels}


def _evaluation_costs(ledger: Ledger, account: Account) -> dict[tuple[str, str], Decimal]:
    """(stage, label) -> what the kept evaluation cost: the eval entries of the flush that its artefact names."""
    costs = {}
    for entry in account.artefacts:
        detail = detail_of(entry)
        files = detail.get("files")
        if detail.get("keeps") != "eval" or not isinstance(files, list) or not files:
            continue
        path = Path(str(files[0]["path"]))
        within = "seq < ? AND kind = 'phase' AND phase = 'eval' AND attempt = ? AND mono_ns = ?"
        flush = ledger.entries(max(entry.seq - 20, 0), within, (entry.seq, entry.attempt, entry.mono_ns))
        costs[path.parent.name, path.stem.removeprefix("eval_")] = sum((e.usd for e in flush), Decimal(0))
    return costs


def _reward_curve(run_dir: Path, superseded: list[Replaced]) -> Iterator[tuple[float, float]]:
    """(dollars so far, reward) of the last stage that has a reward; a step that was done twice counts as it was last."""
    since = {entry.stage: entry.attempt for entry in superseded}
    stages: dict[str, dict[int, tuple[float, float]]] = {}
    for row in read_metrics(run_dir):
        is_told = all(isinstance(row.get(name), int | float) for name in ("reward", "usd", "attempt"))
        if is_told and row["attempt"] >= since.get(row["stage"], 0):
            stages.setdefault(row["stage"], {})[row["step"]] = (row["usd"], row["reward"])
    if stages:
        curve = [point for _, point in sorted(list(stages.values())[-1].items())]
        yield from curve[:: max(1, len(curve) // CURVE_POINTS)]


def _project_bill(path: Path, overhead: Overhead | None) -> Bill:
    can_write = os.access(path, os.W_OK) and os.access(path / BOOK, os.W_OK)
    with open_project(path, read_only=not can_write) as project:
        troubles = (
            refresh(project) if can_write else [f"{path} cannot be written to, so its runs are as they were last entered"]
        )
        known = members(project).values()
        # entries of before it was noted lack it
        noted = [member.detail.get("pretrains") for member in known]
        pretrains = any(trains_base(Path(m.dir)) if said is None else said for m, said in zip(known, noted, strict=True))
        bill = make_bill(project_account(project), None, pretrains, overhead)
        bill.extra["runs"] = [
            {
                "run": m.run, "name": m.name, "dir": m.dir, "role": m.role, "status": m.status, "usd": f"{m.usd:f}",
                "exists": Path(m.dir).is_dir(), "head_hash": m.detail["head_hash"],
            }
            for m in known
        ]  # fmt: skip
        bill.extra["not_refreshed"] = troubles
    return bill
