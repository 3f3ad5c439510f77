"""One bill -> HTML, FOCUS CSV and Parquet, beancount, a signature: each says what the bill says, and loads where it should."""

import csv
import json
import re
from datetime import date
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ledger_history import History

from farthing.errors import LedgerError
from farthing.ledger.account import Account, read_account
from farthing.ledger.bill import make_bill
from farthing.ledger.charges import charge_api, charge_expense, correct
from farthing.ledger.double_entry import beancount_text
from farthing.ledger.entries import Ledger
from farthing.ledger.focus import COLUMNS, focus_rows, write_csv, write_parquet
from farthing.ledger.html import bill_html
from farthing.ledger.price_record import RateRecord
from farthing.ledger.prices import PriceBook
from farthing.ledger.sign import check_signatures, sign_ledger

NAME = 'a <b>"run"</b>'


@pytest.fixture
def account(history: History) -> Account:
    history.start()
    history.spend("sft 1:<x>", 0, "update", usd=10)
    history.spend("grpo", 0, "rollout", usd=4)
    history.end("killed")
    history.start(resumed_from=("grpo", -1))
    history.spend("grpo", 0, "rollout", usd=3)
    correct(history.ledger, history.ledger.head()[0], "refund", Decimal("-0.25"))
    charge_expense(history.ledger, Decimal("0.5"), what="labels", source="invoice", purpose="data")
    history.end("ok")
    return read_account(history.ledger)


TOTAL = Decimal("17.25")


def test_focus_rows_sum_to_the_bill_and_mark_corrections(account: Account, tmp_path: Path) -> None:
    rows = focus_rows(account, NAME)
    write_csv(rows, tmp_path / "bill.csv")
    with (tmp_path / "bill.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert sum(Decimal(row["BilledCost"]) for row in read) == TOTAL
    assert [row["BilledCost"] for row in read if row["ChargeClass"] == "Correction"] == ["-0.250000000000"]
    assert {row["BillingCurrency"] for row in read} == {"USD"}
    assert [row["x_Outcome"] for row in read if row["BilledCost"] == "4.000000000000"] == ["thrown_away"]
    usage = next(row for row in read if row["BilledCost"] == "10.000000000000")
    assert Decimal(usage["PricingQuantity"]) * Decimal(usage["ListUnitPrice"]) == Decimal(usage["ListCost"]) == 10
    for name in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"):
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row[name]) for row in read)
    assert usage["ChargePeriodStart"] < usage["ChargePeriodEnd"]
    assert {row["PricingUnit"] for row in read} == {"Device-Hours", "Units", ""}  # a correction has no quantity


def test_every_focus_charge_is_its_quantity_times_its_price(history: History) -> None:
    """1000 tokens in at $1 a million and 500 out at $2: a charge each; nothing else is counted twice."""
    history.start()
    history.spend("grpo", 0, "rollout", usd=3)
    teacher = (("in", "0.000001"), ("out", "0.000002"))
    day = date(2026, 1, 1)
    rates = tuple(
        RateRecord(item=f"api/t/{way}", unit="token", usd_per_unit=Decimal(usd), date=day, source="a list")
        for way, usd in teacher
    )
    book = PriceBook((), Path("prices.toml"), rates)
    charge_api(
        history.ledger, book, provider="x", model="t", role="teacher", tokens_in=1000, tokens_out=500, attempt=1, stage="sft"
    )
    charge_expense(history.ledger, Decimal(7), what="labels", source="invoice", purpose="data")
    rows = focus_rows(read_account(history.ledger), NAME)
    assert [(r["PricingQuantity"], r["PricingUnit"], r["ListUnitPrice"], r["ListCost"]) for r in rows] == [
        ("1.500000000000", "Device-Hours", "2.00", "3.000000000000"),
        ("1000", "Tokens", "0.000001", "0.001000000000"),
        ("500", "Tokens", "0.000002", "0.001000000000"),
        ("1", "Units", "7.000000000000", "7.000000000000"),
    ]
    assert [(r["x_TokensIn"], r["x_TokensOut"], r["x_Entries"]) for r in rows][1:3] == [("1000", "500", "1"), ("0", "0", "0")]
    assert [r["ConsumedQuantity"] for r in rows][-1] is None
    assert all(cell != "" for row in rows for cell in row.values())  # what is not known is null, never an empty text


def test_parquet_holds_decimals(account: Account, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_parquet(focus_rows(account, NAME), tmp_path / "bill.parquet")
    table = pq.read_table(tmp_path / "bill.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert sum(table.column("BilledCost").to_pylist()) == TOTAL


def test_parquet_takes_prices_of_many_places(account: Account, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [row | {"ListUnitPrice": "0.00000000000012345678901"} for row in focus_rows(account, NAME)]
    write_parquet(rows, tmp_path / "bill.parquet")
    found = pq.read_table(tmp_path / "bill.parquet").column("ListUnitPrice").to_pylist()
    assert set(found) == {Decimal("0.000000000000123457")}


def test_periods_begin_before_they_end_though_the_clock_was_set_back(history: History) -> None:
    history.start()
    history.spend("grpo", 0, "rollout", usd=3)
    history.end("ok")
    account = read_account(history.ledger)
    account.attempts[0].ended_at, account.ended_at = "2026-01-01T00:00:00.000000+00:00", "2026-01-01T00:00:00.000000+00:00"
    for row in focus_rows(account, NAME):
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]


def test_beancount_accepts_the_file_and_its_balance(account: Account, tmp_path: Path) -> None:
    loader = pytest.importorskip("beancount.loader")
    (tmp_path / "bill.beancount").write_text(beancount_text(account, NAME))
    entries, errors, options = loader.load_file(str(tmp_path / "bill.beancount"))
    assert not errors
    assert options["title"] == NAME
    spent = sum(
        posting.units.number
        for entry in entries
        if type(entry).__name__ == "Transaction"
        for posting in entry.postings
        if posting.account.startswith("Expenses:")
    )
    assert spent == TOTAL
    wrong = beancount_text(account, NAME).replace("10.000000000000 USD\n  Liab", "11.000000000000 USD\n  Liab")
    (tmp_path / "wrong.beancount").write_text(wrong)
    assert loader.load_file(str(tmp_path / "wrong.beancount"))[1]


def test_html_is_whole_and_escapes_names(account: Account) -> None:
    class Tags(HTMLParser):
        depth, links = 0, 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.links += sum(name in ("src", "href") for name, _ in attrs)
            self.depth += tag in ("table", "ul", "div", "body")

        def handle_endtag(self, tag: str) -> None:
            self.depth -= tag in ("table", "ul", "div", "body")

    text = bill_html(make_bill(account).to_json(), NAME)
    tags = Tags()
    tags.feed(text)
    assert (tags.depth, tags.links) == (0, 0)
    assert "<b>" not in text
    assert "17.250000000000" in text
    assert "sft 1:&lt;x&gt;" in text


def test_a_signature_outlives_later_entries_and_shows_a_changed_book(history: History, path: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    history.start()
    history.spend("sft", 0, "update", usd=1)
    signed = sign_ledger(path, tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
    assert (signed["head_seq"], signed["total_usd"]) == (3, "1.000000000000")
    history.end("ok")
    again = sign_ledger(path, tmp_path / "key.pem")
    assert again["public_key"] == signed["public_key"]
    assert [c["head_seq"] for c in check_signatures(path)] == [3, 4]
    lines = path.with_suffix(".signed.jsonl")
    honest = lines.read_text()
    lines.write_text(honest.replace('"total_usd":"1.', '"total_usd":"2.', 1))
    with pytest.raises(LedgerError, match="line 1: the signature does not fit"):
        check_signatures(path)
    lines.write_text(honest)
    history.ledger.close()
    path.unlink()
    path.with_suffix(".jsonl").unlink()
    path.with_suffix(".seal.json").unlink()
    with Ledger.open(path) as ledger:
        other = History(ledger)
        other.start()
        other.spend("sft", 0, "update", usd=1)
    with pytest.raises(LedgerError, match="no longer what was signed"):
        check_signatures(path)
    (tmp_path / "bad.pem").write_text("nonsense")
    with pytest.raises(LedgerError, match="no private key"):
        sign_ledger(path, tmp_path / "bad.pem")


def test_the_page_is_json(account: Account) -> None:
    page = make_bill(account).to_json()
    assert json.loads(json.dumps(page)) == page
