"""Storage, tokens, expenses and corrections by hand -> entries that a bill adds up; refusals instead of zeros."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_history import History

from farthing.errors import LedgerError, PriceError
from farthing.ledger.account import read_account
from farthing.ledger.bill import make_bill
from farthing.ledger.charges import charge_api, charge_expense, charge_storage, correct
from farthing.ledger.entries import Ledger
from farthing.ledger.price_record import RateRecord
from farthing.ledger.prices import load_price_book

HOUR = 3_600_000_000_000
DAY = date(2026, 11, 1)
TOKENS = """
[[rate]]
item = "api/judge-1/in"
unit = "token"
usd_per_unit = "0.000001"
date = 2026-01-01
source = "its list price"
[[rate]]
item = "api/judge-1/out"
unit = "token"
usd_per_unit = "0.000004"
date = 2026-01-01
source = "its list price"
"""


def rate(unit: str = "GB-month") -> RateRecord:
    return RateRecord(item="storage/x", unit=unit, usd_per_unit=Decimal("0.02"), date=DAY, source="a test")  # type: ignore[arg-type]


def test_storage_by_the_gb_month(ledger: Ledger) -> None:
    # 500 GB for half a month of 730 h at 2 cents: 250 GB-months = 5 dollars
    entry = charge_storage(ledger, rate(), 500 * 10**9, 365 * HOUR, "checkpoints")
    assert entry.usd == 5
    assert (entry.purpose, entry.price) == ("storage", "storage/x@2026-11-01")
    charge_storage(ledger, rate(), 10**9, HOUR, "checkpoints")
    assert [e.kind for e in ledger.entries()] == ["price", "storage", "storage"]  # the record is entered once
    page = make_bill(read_account(ledger)).to_json()
    assert [(s["name"], s["held_s"]) for s in page["stages"]] == [("storage", 0)]
    for unit, num_bytes in (("kWh", 1), ("GB-month", -1)):
        with pytest.raises(LedgerError):
            charge_storage(ledger, rate(unit), num_bytes, 1, "x")


def test_bought_tokens_at_two_rates_and_never_at_none(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOKENS)
    book = load_price_book(tmp_path / "mine.toml")
    bought = {"provider": "somebody", "role": "teacher", "tokens_in": 1_000_000, "tokens_out": 500_000, "on": DAY}
    entry = charge_api(ledger, book, model="judge-1", stage="distill", **bought)  # type: ignore[arg-type]
    assert entry.usd == 3  # 1 + 2
    assert entry.purpose == "api_teacher"
    with pytest.raises(PriceError, match=r"no price for item 'api/other/in'.*\[\[rate\]\] record"):
        charge_api(ledger, book, model="other", **bought)  # type: ignore[arg-type]
    assert ledger.head()[0] == 3


def test_an_expense_needs_a_source(ledger: Ledger) -> None:
    assert charge_expense(ledger, Decimal("12.5"), what="labelling", source="invoice 17", purpose="data").usd == Decimal("12.5")
    with pytest.raises(LedgerError, match="no source"):
        charge_expense(ledger, Decimal(1), what="labelling", source=" ")


def test_a_correction_changes_the_bill_and_not_the_entry(ledger: Ledger, history: History) -> None:
    history.start()
    history.spend("sft", 0, "update", usd=10)
    wrong = ledger.head()[0]
    entry = correct(ledger, wrong, "refund", Decimal("-2.5"), tokens_in=-0, energy_mj=-5)
    assert (entry.kind, entry.stage, entry.usd) == ("correction", "sft", Decimal("-2.5"))
    history.end("ok")
    page = make_bill(read_account(ledger)).to_json()
    assert page["total_usd"] == "7.500000000000"
    assert page["stages"][0]["usd"] == "7.500000000000"
    assert page["corrections"][0] | {"at": ""} == {
        "seq": entry.seq, "at": "", "corrects": wrong, "usd": "-2.500000000000", "reason": "refund",
    }  # fmt: skip
    for seq in (1, entry.seq, 99):
        with pytest.raises(LedgerError, match="cannot be corrected"):
            correct(ledger, seq, "no", Decimal(1))
    with pytest.raises(LedgerError, match="no reason"):
        correct(ledger, wrong, "", Decimal(1))
    with pytest.raises(LedgerError, match="cannot change"):
        correct(ledger, wrong, "no", Decimal(1), step=4)


def test_a_correction_leaves_a_cost_and_changes_something(ledger: Ledger, history: History) -> None:
    history.start()
    history.spend("sft", 0, "update", usd=10)
    wrong = ledger.head()[0]
    correct(ledger, wrong, "refund", Decimal(-6))
    for usd in ("-4.01", "-1e30", "1e13"):
        with pytest.raises(LedgerError, match="stands at 4"):
            correct(ledger, wrong, "slip", Decimal(usd))
    for usd in ("0", "NaN", "Infinity"):
        with pytest.raises(LedgerError, match="changes nothing"):
            correct(ledger, wrong, "slip", Decimal(usd))
    for seq in (0, -1, 2**63, 10**30):
        with pytest.raises(LedgerError, match="there is none"):
            correct(ledger, seq, "slip", Decimal(1))
    correct(ledger, wrong, "the rest of it", Decimal(-4))
    for amount in ("0", "-3", "NaN", "1e13"):
        with pytest.raises(LedgerError, match="stated are amounts above 0"):
            charge_expense(ledger, Decimal(amount), what="labels", source="invoice")
