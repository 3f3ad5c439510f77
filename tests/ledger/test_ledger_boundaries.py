"""Hand-worked histories -> the three boundaries, the split of waste, and evaluations that are kept."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ledger_history import History

from farthing.errors import PriceError
from farthing.ledger.account import read_account
from farthing.ledger.bill import make_bill
from farthing.ledger.charges import charge_expense
from farthing.ledger.overhead import load_overhead

COSTS = """
[hardware]
usd_per_device_hour = "1.00"
source = "a lease"
[energy]
usd_per_kwh = "0.10"
pue = "1.5"
source = "an invoice"
[[staff]]
role = "engineer"
hours = 3
usd_per_hour = 100
source = "payroll"
[[overhead]]
what = "licence"
usd = "50"
source = "an invoice"
[[overhead]]
what = "office"
percent = 10
source = "accounting"
"""


def page(history: History, overhead: Path | None = None) -> dict[str, Any]:
    return make_bill(read_account(history.ledger), overhead=load_overhead(overhead) if overhead else None).to_json()


def two_attempts(history: History) -> None:
    history.start()
    history.spend("grpo", 0, "rollout", usd=10)
    history.spend("grpo", 0, "eval", usd=3)
    history.spend("grpo", 1, "rollout", usd=7)
    history.end("killed")
    history.start(resumed_from=("grpo", 0))
    history.spend("grpo", 1, "rollout", usd=10, detail={"waste_usd": {"flat_groups": "4.000000000000"}})
    history.spend("grpo", 1, "update", usd=5, detail={"waste_usd": {"padding": "1.250000000000"}})
    history.spend("grpo", 1, "checkpoint", usd=2)
    history.spend("grpo", 1, "idle", usd=1)
    history.end("ok")
    charge_expense(history.ledger, Decimal(6), what="labelling", source="invoice", purpose="data")


def test_waste_is_split_without_overlap(history: History) -> None:
    two_attempts(history)
    parts = {part["what"]: Decimal(part["usd"]) for part in page(history)["waste"]}
    assert parts == {
        "failed_attempts": 7, "superseded": 0, "idle": 1, "evaluation": 3, "checkpointing": 2, "padding": Decimal("1.25"),
        "flat_groups": 4, "truncated": 0,
    }  # fmt: skip


def test_three_boundaries_by_hand(history: History, tmp_path: Path) -> None:
    two_attempts(history)
    rental, everything, full = page(history)["boundaries"]
    assert Decimal(rental["usd"]) == 10 + 10 + 5 + 2  # kept, neither evaluation nor idle
    assert Decimal(everything["usd"]) == 38 + 6
    assert full["usd"] is None
    assert all(boundary["excluded"] for boundary in (rental, everything, full))
    (tmp_path / "costs.toml").write_text(COSTS)
    full = page(history, tmp_path / "costs.toml")["boundaries"][2]
    lines = {line["name"]: Decimal(line["usd"]) for line in full["lines"]}
    # 38 dollars at two dollars an hour are 19 device-hours, now at one; the history has no energy
    assert lines == {
        "grpo": 19, "stated expenses": 6, "staff: engineer": 300, "energy": 0, "licence": 50, "office, 10%": Decimal("37.5"),
    }  # fmt: skip
    assert Decimal(full["usd"]) == Decimal("412.5")


def test_a_run_that_has_not_ended_is_billed_so_far(history: History) -> None:
    history.start()
    history.spend("grpo", 0, "rollout", usd=10)
    assert page(history)["boundaries"][0]["included"][0].startswith("So far: the run is still going on;")
    history.end("failed")
    assert page(history)["boundaries"][0]["included"][0].startswith("So far: the last attempt was failed;")
    history.start(resumed_from=("grpo", 0))
    history.end("ok")
    assert not any(line.startswith("So far") for line in page(history)["boundaries"][0]["included"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[staff]\nrole='x'", "staff"),
        ("[[staff]]\nrole='x'\nhours=-1\nusd_per_hour=1\nsource='y'", "staff.0.hours"),
        ("[[overhead]]\nwhat='x'\nsource='y'", "either usd or percent"),
        ("[hardware]\nusd_per_device_hour=0\nsource='y'", "hardware.usd_per_device_hour"),
        ("[energy]\nusd_per_kwh=1", "energy.source"),
        ("[[", "cannot read"),
    ],
)
def test_a_wrong_overhead_file_names_the_place(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "costs.toml").write_text(text)
    with pytest.raises(PriceError, match=says):
        load_overhead(tmp_path / "costs.toml")


def test_an_evaluation_on_disk_is_kept_from_an_attempt_that_was_killed(history: History) -> None:
    def first_attempt(keeps: bool) -> None:
        history.start(None if history.attempt == 0 else ("grpo", -1))
        history.spend("", -1, "setup", usd=1)
        history.spend("grpo", -1, "eval", usd=20, mono_ns=77)
        history.spend("grpo", -1, "eval", usd=5, mono_ns=78)
        if keeps:
            files = [{"path": "stages/grpo/eval_before.json", "bytes": 1, "sha256": "0"}]
            detail = {"what": "evaluation", "files": files, "keeps": "eval"}
            history.ledger.append(attempt=history.attempt, kind="artefact", stage="grpo", mono_ns=77, detail=detail)
        history.spend("grpo", 0, "rollout", usd=3)
        history.end("killed")

    first_attempt(keeps=False)
    first_attempt(keeps=True)
    history.start(resumed_from=("grpo", -1))
    history.end("ok")
    wasted = [Decimal(attempt["wasted_usd"]) for attempt in page(history)["attempts"]]
    # without the file all is lost; with it the step after, while kept_to = (grpo, -1) covers the set-up and step -1
    assert wasted == [29, 3, 0]


def test_judged_pairs_on_disk_are_kept_from_an_attempt_that_was_killed(history: History) -> None:
    history.start()
    history.spend("rm", -1, "setup", usd=1)
    history.spend("rm", -1, "rollout", usd=20)
    history.spend("rm", -1, "reward", usd=5)
    files = [{"path": "stages/rm/pairs.jsonl", "bytes": 1, "sha256": "0"}]
    detail = {"what": "pairs", "files": files, "keeps": "pairs"}
    history.ledger.append(attempt=1, kind="artefact", stage="rm", detail=detail)
    history.spend("rm", 0, "update", usd=3)
    history.end("killed")
    history.start()
    history.end("ok")
    assert [Decimal(attempt["wasted_usd"]) for attempt in page(history)["attempts"]] == [4, 0]
