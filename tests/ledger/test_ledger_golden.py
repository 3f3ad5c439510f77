"""Recorded hours of published runs -> their own tables to the dollar: DeepSeek-R1's three lines and V3's three."""

import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from farthing.ledger.account import read_account
from farthing.ledger.bill import make_bill
from farthing.ledger.entries import Ledger
from farthing.ledger.prices import cost, load_price_book

NS_PER_HOUR = 3_600_000_000_000
R1 = [("DeepSeek-R1-Zero", 101_000, "train"), ("SFT data creation", 5_000, "data"), ("DeepSeek-R1", 41_000, "train")]
"""Nature 645:633, Supplementary Table 7: H800 GPU-hours."""
V3 = [("pre-training", 2_664_000, "train"), ("context extension", 119_000, "train"), ("post-training", 5_000, "train")]
"""arXiv:2412.19437, Table 1."""


def record(path: Path, stages: list[tuple[str, int, str]], day: datetime.date, num_devices: int) -> Ledger:
    """A ledger with the hours as published, at the price book's H800 of that day."""
    price = load_price_book().price("h800", day)
    ledger = Ledger.open(path)
    ledger.append(attempt=0, kind="price", detail=price.detail())
    ledger.append(attempt=1, kind="attempt_start", detail={"pid": 0, "resumed_from": None, "price": price.id})
    for stage, hours, purpose in stages:
        held_ns = hours * NS_PER_HOUR // num_devices
        ledger.append(
            attempt=1, kind="phase", stage=stage, step=0, phase="update", purpose=purpose, outcome="ok", held_ns=held_ns,
            num_devices=num_devices, device="h800", price=price.id, usd=cost(held_ns, num_devices, price.usd_per_device_hour),
        )  # fmt: skip
    ledger.append(attempt=1, kind="attempt_end", outcome="ok", detail={"outcome": "ok"})
    return ledger


@pytest.mark.parametrize(
    ("stages", "day", "num_devices", "dollars", "total"),
    [
        (R1, datetime.date(2025, 9, 17), 512, [202_000, 10_000, 82_000], 294_000),
        (V3, datetime.date(2024, 12, 27), 2048, [5_328_000, 238_000, 10_000], 5_576_000),
    ],
    ids=["R1", "V3"],
)
def test_the_published_table(
    path: Path, stages: list[tuple[str, int, str]], day: datetime.date, num_devices: int, dollars: list[int], total: int
) -> None:
    with record(path, stages, day, num_devices) as ledger:
        page = make_bill(read_account(ledger)).to_json()
    assert [Decimal(stage["usd"]) for stage in page["stages"]] == dollars
    assert [round(stage["device_hours"], 6) for stage in page["stages"]] == [hours for _, hours, _ in stages]
    assert page["total_usd"] == f"{total}.000000000000"
    rental, everything, full = page["boundaries"]
    assert Decimal(rental["usd"]) == Decimal(everything["usd"]) == total
    assert [Decimal(line["usd"]) for line in rental["lines"]] == dollars
    assert full["usd"] is None
