"""Runs of every fate -> one account: deleted, grown, experimental, entered by two processes at once."""

import multiprocessing
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
