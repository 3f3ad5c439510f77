"""The price book as a person asks for it -> what holds on a day, what changed, a snapshot; Epoch AI's depreciation by hand."""

import datetime
import math
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farthing.errors import PriceError
from farthing.ledger import price_list
from farthing.ledger.price_record import PriceRecord, RateRecord
from farthing.ledger.prices import load_price_book, read_price_file

DAY = datetime.date(2026, 11, 1)


@pytest.fixture(autouse=True)
def _no_user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARTHING_PRICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def owned(**components: str) -> PriceRecord:
    return PriceRecord.model_validate(
        {
            "device": "my-h100",
            "date": DAY,
            "source": "a test",
            "components": {name: {"value": value, "method": "assumed"} for name, value in components.items()},
        }
    )


def test_epoch_depreciation_by_hand() -> None:
    record = owned(purchase_usd="40000", age_years="2", oom_per_year="0.14", power_w="700", usd_per_kwh="0.10")
    rate = 0.14 * math.log(10)
    by_hand = 40000 * math.exp(-rate * 2) * rate / 8760 + 0.7 * 0.10
    assert float(record.usd_per_device_hour) == pytest.approx(by_hand, rel=1e-9)
    assert record.method == "modelled"
    assert record.detail()["tenure"] == "owned"
    new = owned(purchase_usd="40000", age_years="0.0001", oom_per_year="0.14", power_w="700", usd_per_kwh="0.10")
    assert new.usd_per_device_hour > record.usd_per_device_hour


def test_ids_tell_region_and_tenure_apart_and_are_unique() -> None:
    book = load_price_book()
    ids = [record.id for record in (*book.records, *book.rates)]
    assert len(ids) == len(set(ids))
    assert book.price("h100-80gb+spot", DAY).id == "h100-80gb@2026-10-05+spot"
    given = book.price("l4", DAY).model_dump() | {"region": "eu-west-1", "tenure": "reserved"}
    assert PriceRecord.model_validate(given).id == "l4@2025-03-07/eu-west-1+reserved"


def test_what_the_issue_names_has_a_price_and_a_source_that_says_when_it_is_assumed() -> None:
    book = load_price_book()
    for device in ("h100-80gb", "h200", "a100-80gb", "h800", "l4", "ascend-910b", "tpu-v5e", "tpu-v5p", "local-cpu"):
        record = book.price(device, DAY)
        assert ("ssumed" in record.source) <= (record.method in ("assumed", "modelled"))
    for item in ("storage/local-disk", "electricity/us", "staff/engineer"):
        assert book.rate(item, DAY).usd_per_unit > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"currency": "EUR"}, "currency.*USD only"),
        ({"usd_per_unit": "-1"}, "usd_per_unit"),
        ({"unit": "GB"}, "unit"),
        ({"item": "A B"}, "item"),
        ({"source": ""}, "source"),
    ],
)
def test_a_bad_rate_is_named(tmp_path: Path, change: dict[str, str], says: str) -> None:
    fields = {"item": "storage/x", "unit": "GB-month", "usd_per_unit": "0.02", "source": "me"} | change
    text = "[[rate]]\ndate = 2026-01-01\n" + "".join(f'{name} = "{value}"\n' for name, value in fields.items())
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(PriceError, match=rf"\[\[rate\]\] number 1: {says}"):
        load_price_book(tmp_path / "mine.toml")


def test_differences_between_two_days_and_a_file(tmp_path: Path) -> None:
    book = load_price_book()
    old, new = (price_list.side_of(day, book) for day in ("2025-03-07", "2026-10-05"))
    lines = {line["key"]: line for line in price_list.differences(old, new)}
    assert (lines["h100-80gb"]["old_usd"], lines["h100-80gb"]["new_usd"]) == ("4.215", "4.32")
    assert lines["h100-80gb"]["change"] == pytest.approx(4.32 / 4.215 - 1)
    assert lines["b200"]["old_usd"] is None
    assert "l4" not in lines
    with pytest.raises(PriceError, match="neither a date"):
        price_list.side_of("yesterday", book)


def test_a_snapshot_is_a_price_file_of_medians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpuhunt = pytest.importorskip("gpuhunt")
    offers = [SimpleNamespace(price=p, gpu_count=n, spot=s) for p, n, s in ((8.0, 4, False), (3.0, 1, False), (1.0, 1, True))]

    def query(**wanted: Any) -> list[SimpleNamespace]:
        return offers if wanted["gpu_name"] == ["H100"] else []

    monkeypatch.setattr(gpuhunt, "query", query)
    (tmp_path / "today.toml").write_text(price_list.snapshot(["H100"], DAY))
    on_demand, spot = read_price_file(tmp_path / "today.toml")
    assert isinstance(on_demand, PriceRecord)
    assert isinstance(spot, PriceRecord)
    assert (on_demand.usd_per_device_hour, spot.usd_per_device_hour) == (Decimal("2.5"), Decimal(1))
    assert spot.id == "h100@2026-11-01+spot"
    with pytest.raises(PriceError, match="no offer for GPU 'X1'"):
        price_list.snapshot(["X1"], DAY)

    def offline(**wanted: Any) -> list[Any]:
        raise OSError("no route to host")

    monkeypatch.setattr(gpuhunt, "query", offline)
    with pytest.raises(PriceError, match="cannot be reached"):
        price_list.snapshot(["H100"], DAY)


def test_a_rate_keeps_zero_for_what_is_free() -> None:
    free = RateRecord(item="storage/free", unit="GB-month", usd_per_unit=Decimal(0), date=DAY, source="a gift")
    assert price_list.unit_price(free) == (Decimal(0), "GB-month")
