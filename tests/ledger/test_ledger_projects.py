"""Runs of every fate -> one account: deleted, grown, experimental, entered by two processes at once."""

import fcntl
import json
import multiprocessing
import os
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_history import History

from farthing.billing import bill_at
from farthing.errors import LedgerError, RunError
from farthing.ledger.charges import charge_expense
from farthing.ledger.double_entry import beancount_text
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import utc_now
from farthing.ledger.focus import focus_rows
from farthing.ledger.projects import enter_run, members, open_project


def a_run(folder: Path, usd: int, outcome: str = "ok") -> Path:
    folder.mkdir(parents=True)
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        history = History(ledger)
        history.start()
        history.spend("grpo", 0, "update", usd=usd)
        history.end(outcome)
    return folder


def go_on(run: Path, usd: int) -> None:
    with Ledger.open(run / "ledger.sqlite") as ledger:
        history = History(ledger)
        history.attempt = 1
        history.start(resumed_from=("grpo", 0))
        history.spend("grpo", 1, "update", usd=usd)
        history.end("ok")


def test_a_project_sums_its_runs_and_keeps_the_deleted(tmp_path: Path) -> None:
    project, runs = tmp_path / "project", tmp_path / "runs"
    with open_project(project, create=True) as book:
        assert enter_run(book, a_run(runs / "final", 10))
        assert enter_run(book, a_run(runs / "sweep", 4), "experiment")
        assert enter_run(book, a_run(runs / "dead", 2, "killed"))
        assert not enter_run(book, runs / "final")
        charge_expense(book, Decimal(5), what="labels", source="invoice", purpose="data")
    go_on(runs / "final", 3)
    shutil.rmtree(runs / "sweep")
    page = bill_at(project)[0].to_json()
    assert Decimal(page["total_usd"]) == 10 + 3 + 4 + 2 + 5
    assert [(r["name"], r["exists"], Decimal(r["usd"])) for r in page["runs"]] == [
        ("final", True, 13), ("sweep", False, 4), ("dead", True, 2),
    ]  # fmt: skip
    rental, everything, _ = page["boundaries"]
    assert Decimal(rental["usd"]) == 13  # neither the experiment nor the run that never ended
    assert Decimal(everything["usd"]) == 24


def test_exports_of_a_project_name_its_runs_and_their_days(tmp_path: Path) -> None:
    loader = pytest.importorskip("beancount.loader")
    with open_project(tmp_path / "project", create=True) as book:
        enter_run(book, a_run(tmp_path / "a", 10))
        enter_run(book, a_run(tmp_path / "b", 4), "experiment")
        charge_expense(book, Decimal(5), what="labels", source="invoice", purpose="data")
    account = bill_at(tmp_path / "project")[0].account
    rows = focus_rows(account, "project")
    assert [(r["SubAccountName"], r["BilledCost"]) for r in rows] == [
        ("a", "10.000000000000"), ("b", "4.000000000000"), (None, "5.000000000000"),
    ]  # fmt: skip
    assert len({row["SubAccountId"] for row in rows}) == 3
    today = utc_now()[:10]
    assert all(row["BillingPeriodStart"][:10] <= row["ChargePeriodStart"][:10] <= today for row in rows)
    entries, errors, _ = loader.load_string(beancount_text(account, "project"))
    assert not errors
    narrations = [entry.narration for entry in entries if type(entry).__name__ == "Transaction"]
    assert narrations == ["update, run a", "update, run b", "expense, outside the attempts"]
    assert min(entry.date for entry in entries).isoformat() >= account.began_at[:10]


def test_what_is_no_project_or_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no project"):
        open_project(tmp_path / "none")
    with pytest.raises(RunError, match="neither a run directory nor a project"):
        bill_at(tmp_path)
    with open_project(tmp_path / "p", create=True) as book:
        with pytest.raises(LedgerError, match="no ledger at"):
            enter_run(book, tmp_path / "none")
        run = a_run(tmp_path / "run", 1)
        with pytest.raises(RunError, match="no role"):
            enter_run(book, run, "best")
        enter_run(book, run)
        shutil.copytree(run, tmp_path / "older")
        go_on(run, 2)
        enter_run(book, run)
        with pytest.raises(LedgerError, match="fewer entries"):
            enter_run(book, tmp_path / "older")


def enter_all(project: Path, runs: list[Path]) -> None:
    with open_project(project, create=True) as book:
        for run in runs:
            enter_run(book, run)


def test_two_processes_enter_the_same_runs(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "runs" / str(number), number + 1) for number in range(6)]
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=enter_all, args=(tmp_path / "project", order)) for order in (runs, runs[::-1])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with open_project(tmp_path / "project") as book:
        assert len(members(book)) == 6
        assert book.head()[0] == 6  # each entered once, whoever came first
    assert Decimal(bill_at(tmp_path / "project")[0].to_json()["total_usd"]) == 1 + 2 + 3 + 4 + 5 + 6


def test_a_run_is_not_made_a_project(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", 3)
    with pytest.raises(RunError, match="is a run, no project; name the project first"):
        open_project(run, create=True)
    assert bill_at(run)[0].to_json()["entries"]


def test_another_run_in_a_members_place_is_not_entered_unasked(tmp_path: Path) -> None:
    run, project = a_run(tmp_path / "run", 10), tmp_path / "project"
    with open_project(project, create=True) as book:
        enter_run(book, run)
    shutil.rmtree(run)
    a_run(run, 4)
    page = bill_at(project)[0].to_json()
    assert Decimal(page["total_usd"]) == 10
    assert "another run lies at" in page["not_refreshed"][0]


def test_a_run_whose_process_died_is_killed_in_its_project_too(tmp_path: Path) -> None:
    run, project = tmp_path / "run", tmp_path / "project"
    run.mkdir()
    with Ledger.open(run / "ledger.sqlite") as ledger:
        history = History(ledger)
        history.start()
        history.spend("grpo", 0, "update", usd=4)
    with (run / "lock").open("w") as lock, open_project(project, create=True) as book:
        fcntl.flock(lock, fcntl.LOCK_EX)
        enter_run(book, run)
        assert [m.status for m in members(book).values()] == ["running"]
    assert [r["status"] for r in bill_at(project)[0].to_json()["runs"]] == ["killed"]


def test_a_deleted_run_that_trained_its_base_still_says_so(tmp_path: Path) -> None:
    run, project = a_run(tmp_path / "run", 10), tmp_path / "project"
    (run / "recipe.json").write_text(json.dumps({"stages": {"base": {"kind": "pretrain"}}}))
    with open_project(project, create=True) as book:
        enter_run(book, run)
    shutil.rmtree(run)
    assert not any("base model" in line for line in bill_at(project)[0].to_json()["excluded"])


def test_a_project_that_cannot_be_written_is_billed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, project = a_run(tmp_path / "run", 10), tmp_path / "project"
    with open_project(project, create=True) as book:
        enter_run(book, run)
    go_on(run, 3)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # what root is told otherwise
    page = bill_at(project)[0].to_json()
    assert Decimal(page["total_usd"]) == 10
    assert "cannot be written to" in page["not_refreshed"][0]


def test_a_changed_project_is_not_sealed_anew(tmp_path: Path) -> None:
    """Billing enters what its runs came to: that must not put a new seal over somebody's change."""
    run, project = a_run(tmp_path / "run", 10), tmp_path / "project"
    with open_project(project, create=True) as book:
        enter_run(book, run)
    seal = (project / "project.seal.json").read_bytes()
    mirror = (project / "project.jsonl").read_bytes()
    (project / "project.jsonl").write_bytes(mirror.replace(b'"role', b'"rule', 1))
    go_on(run, 3)
    page = bill_at(project)[0].to_json()
    assert "changed after the ledger was sealed" in page["not_refreshed"][0]
    assert (project / "project.seal.json").read_bytes() == seal
    with open_project(project) as book, pytest.raises(LedgerError, match=r"project.jsonl in .* changed after"):
        charge_expense(book, Decimal(5), what="labels", source="invoice")
    (project / "project.jsonl").write_bytes(mirror)
    assert Decimal(bill_at(project)[0].to_json()["total_usd"]) == 13
