"""Stages that were run again -> money that stays on the bill, outside its first boundary, and sums that an audit proves."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from book import device, end, phase, price, start
from ledger_history import History

from farthing.errors import LedgerError
from farthing.ledger.account import read_account
from farthing.ledger.audit.auditor import audit
from farthing.ledger.audit.report import Check, Report
from farthing.ledger.bill import make_bill
from farthing.ledger.charges import correct
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import EntryFields
from farthing.ledger.projects import enter_run, open_project, project_account
from farthing.ledger.superseded import supersede


def page(history: History) -> dict[str, Any]:
    return make_bill(read_account(history.ledger)).to_json()


def usd(page: dict[str, Any], *names: str) -> list[Decimal]:
    return [Decimal(page[name]) for name in names]


def a_run_whose_last_stage_changed(history: History) -> None:
    history.start()
    history.spend("", -1, "setup", usd=1)
    history.spend("base", 0, "update", usd=20)
    history.spend("base", 0, "eval", usd=3)
    history.spend("grpo", 0, "rollout", usd=7)
    history.spend("grpo", 1, "rollout", usd=5)
    history.end("killed")
    history.start(resumed_from=("grpo", 0))
    history.spend("", -1, "setup", usd=2)
    history.spend("grpo", 1, "rollout", usd=6)
    history.spend("grpo", 1, "update", usd=4, detail={"waste_usd": {"padding": "1.000000000000"}})
    history.end("ok")
    history.start(resumed_from=("grpo", -1))
    supersede(history.ledger, 3, "grpo", "group_size 8 -> 16")
    history.spend("grpo", 0, "rollout", usd=8)
    history.end("ok")


def test_earlier_work_of_a_stage_stays_on_the_bill_and_leaves_the_first_boundary(history: History) -> None:
    a_run_whose_last_stage_changed(history)
    bill = page(history)
    # grpo before: 7 + 5 + 6 + 4; nothing else of attempt 2 is left, so its set-up (2) goes with it
    assert usd(bill, "total_usd", "wasted_usd", "superseded_usd") == [56, 24, 24]
    assert [Decimal(boundary["usd"]) for boundary in bill["boundaries"][:2]] == [1 + 20 + 8, 56]
    waste = {part["what"]: Decimal(part["usd"]) for part in bill["waste"]}
    assert {name: amount for name, amount in waste.items() if amount} == {"superseded": 24, "evaluation": 3}
    assert [Decimal(attempt["wasted_usd"]) for attempt in bill["attempts"]] == [12, 12, 0]
    assert {stage["name"]: Decimal(stage["superseded_usd"]) for stage in bill["stages"]} == {
        "set-up and between stages": 2, "base": 0, "grpo": 22,
    }  # fmt: skip
    [line] = bill["superseded"]
    assert (line["stage"], Decimal(line["usd"]), line["reason"]) == ("grpo", 22, "group_size 8 -> 16")


def test_a_correction_follows_the_entry_that_it_corrects(history: History) -> None:
    a_run_whose_last_stage_changed(history)
    seqs = {(e.stage, int(e.usd)): e.seq for e in history.ledger.entries() if e.kind == "phase"}
    correct(history.ledger, seqs["grpo", 7], "refund", Decimal(-2))
    correct(history.ledger, seqs["grpo", 8], "refund", Decimal(-1))
    bill = page(history)
    assert usd(bill, "total_usd", "superseded_usd") == [53, 22]
    assert Decimal(bill["boundaries"][0]["usd"]) == 1 + 20 + 7
    assert Decimal(bill["superseded"][0]["usd"]) == 20


def test_a_second_change_counts_only_what_came_since_the_first(history: History) -> None:
    a_run_whose_last_stage_changed(history)
    history.start(resumed_from=("base", -1))
    for stage in ("base", "grpo"):
        supersede(history.ledger, 4, stage, "more data")
    history.spend("base", 0, "update", usd=30)
    history.end("killed")
    history.start(resumed_from=("base", -1))  # a kill is no reason to say it again, and loses what attempt 4 did
    assert supersede(history.ledger, 5, "grpo", "more data") is None
    history.spend("base", 0, "update", usd=31)
    history.end("ok")
    bill = page(history)
    assert [(line["stage"], Decimal(line["usd"])) for line in bill["superseded"]] == [("grpo", 22), ("base", 23), ("grpo", 8)]
    assert usd(bill, "total_usd", "superseded_usd", "wasted_usd") == [56 + 61, 56, 56 + 30]
    assert Decimal(bill["boundaries"][0]["usd"]) == 31


def test_an_interrupted_run_whose_stage_changed_lost_nothing_to_a_failure(history: History) -> None:
    history.start()
    history.spend("", -1, "setup", usd=1)
    history.spend("base", 0, "update", usd=20)
    history.spend("grpo", 0, "rollout", usd=7)
    history.end("interrupted")
    history.start(resumed_from=("grpo", -1))
    supersede(history.ledger, 2, "grpo", "a new reward")
    history.spend("grpo", 0, "rollout", usd=4)
    history.end("killed")
    history.start(resumed_from=("grpo", 0))
    history.end("ok")
    bill = page(history)
    assert usd(bill, "superseded_usd", "wasted_usd") == [7, 7]


def test_what_cannot_be_superseded(history: History) -> None:
    history.start()
    history.spend("grpo", 0, "rollout", usd=7)
    assert supersede(history.ledger, 1, "not begun yet", "x") is None
    assert supersede(history.ledger, 1, "", "set-up belongs to no stage") is None
    for attempt, stage, reason, says in (
        (1, "grpo", " ", "without a reason"),
        (2, "grpo", "x", "attempt 2 is not the one that runs"),
    ):
        with pytest.raises(LedgerError, match=says):
            supersede(history.ledger, attempt, stage, reason)
    history.end("ok")
    with pytest.raises(LedgerError, match="attempt 1 is not the one that runs"):
        supersede(history.ledger, 1, "grpo", "x")


def test_a_supersede_entry_that_a_bill_cannot_read_is_named(history: History) -> None:
    history.start()
    history.ledger.append(attempt=1, kind="supersede", stage="grpo", detail={"reason": "x", "groups": [[["x"], {}]]})
    with pytest.raises(LedgerError, match="entry 3, supersede of stage 'grpo'"):
        page(history)


# the audit ----------------------------------------------------------------------------------------------------------------


def check(report: Report, name: str) -> Check:
    return next(c for c in report.checks if c.name == name)


def run_again(folder: Path, *forged: EntryFields) -> Report:
    """2 s of set-up and 10 s of r1_zero; then again, with 3 s: at two dollars an hour."""
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        first = [price(), start(1), device(1), phase(1, 0, 2, "setup", stage=""), phase(1, 10, 10), end(1, 10)]
        ledger.append_many([*first, start(2, 20, resumed_from={"stage": "r1_zero", "step": -1}), device(2)])
        ledger.append_many(forged) if forged else supersede(ledger, 2, "r1_zero", "a new reward")
        ledger.append_many([phase(2, 20, 2, "setup", stage=""), phase(2, 23, 3), end(2, 23)])
    return audit(folder)


def test_the_audit_sums_superseded_work_as_the_bill_does(tmp_path: Path) -> None:
    report = run_again(tmp_path)
    assert report.passed
    # 10 s and 2 s of set-up, of which nothing else is left
    assert report.totals["superseded_usd"] == "0.006666666667"
    assert check(report, "superseded").evidence == "1 entries, 0.006666666667 USD: r1_zero 0.005555555556"
    assert any("Stages run again: 0.006666666667 USD" in question for question in report.questions)
    with Ledger.open(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert make_bill(read_account(ledger)).to_json()["superseded_usd"] == "0.006666666667"


@pytest.mark.parametrize(
    ("changed", "name", "says"),
    [
        ({"groups": []}, "superseded", "it says None"),
        ({"groups": [[["x"], {"entries": 1}]]}, "superseded", "it says"),
        ({"reason": ""}, "superseded", "gives no reason"),
        ({"attempt": 1}, "attempts", "attempt 2 has started since"),
        ({"usd": Decimal(1)}, "prices", "carries no money"),
    ],
)
def test_a_forged_supersede_entry_is_found(tmp_path: Path, changed: dict[str, Any], name: str, says: str) -> None:
    detail = {"reason": "x", "groups": []} | {k: v for k, v in changed.items() if k in ("reason", "groups")}
    forged: dict[str, Any] = {"attempt": 2, "kind": "supersede", "stage": "r1_zero", "detail": detail}
    forged |= {k: v for k, v in changed.items() if k not in detail}
    assert any(says in finding.what for finding in check(run_again(tmp_path, forged), name).findings)  # type: ignore[arg-type]


def test_files_of_a_superseded_stage_may_be_gone(tmp_path: Path) -> None:
    files = [{"path": "stages/r1_zero/model.bin", "bytes": 1, "sha256": "0" * 64}]
    made: EntryFields = {"attempt": 1, "kind": "artefact", "stage": "r1_zero", "detail": {"what": "stage", "files": files}}
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.append_many([price(), start(1), device(1), phase(1, 10, 12), made, end(1, 10)])
        assert "1 recorded files are gone" in check(audit(tmp_path), "artefacts").not_checkable
        ledger.append_many([start(2, 20), device(2)])
        supersede(ledger, 2, "r1_zero", "a new reward")
        ledger.append_many([phase(2, 20, 2, "setup", stage=""), end(2, 20)])
    assert "no file is recorded" in check(audit(tmp_path), "artefacts").not_checkable


def test_a_project_keeps_superseded_work_apart(tmp_path: Path) -> None:
    run_again(tmp_path)
    with open_project(tmp_path / "project", create=True) as project:
        enter_run(project, tmp_path)
        bill = make_bill(project_account(project)).to_json()
    assert bill["superseded_usd"] == "0.006666666667"
    assert bill["boundaries"][0]["usd"] == "0.002777777778"  # 5 s
