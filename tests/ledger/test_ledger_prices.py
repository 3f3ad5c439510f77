"""Price records in -> the one valid on a day, exact costs, and refusals that say where to put a price."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.errors import PriceError
from farthing.ledger.prices import PriceRecord, cost, load_price_book

HOUR = 3_600_000_000_000
A_PRICE = """
[[price]]
device = "{device}"
usd_per_device_hour = {usd}
date = {day}
source = "my invoice"
power_w = 300
power_method = "measured"
"""


@pytest.fixture(autouse=True)
def _no_user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARTHING_PRICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path))


def price_file(path: Path, device: str = "h100-80gb", usd: str = "1.10", day: str = "2026-01-01") -> Path:
    path.write_text(A_PRICE.format(device=device, usd=usd, day=day))
    return path


def test_the_latest_record_not_after_the_day() -> None:
    book = load_price_book()
    assert book.price("h100-80gb", date(2025, 3, 7)).usd_per_device_hour == Decimal("4.215")
    assert book.price("h100-80gb", date(2026, 10, 4)).usd_per_device_hour == Decimal("4.215")
    assert book.price("h100-80gb", date(2026, 10, 5)).usd_per_device_hour == Decimal("4.32")
    with pytest.raises(PriceError, match=r"first record is of 2025-03-07.*prices\.toml"):
        book.price("h100-80gb", date(2025, 3, 6))
    with pytest.raises(PriceError, match=r"no price for device 'h1000'; known: a100-40gb, .*prices\.toml"):
        book.price("h1000", date(2026, 1, 1))


def test_every_shipped_record_has_a_source_and_survives_json() -> None:
    records = load_price_book().records
    assert {record.device for record in records} >= {"local-cpu", "h800", "h100-80gb", "a100-80gb", "l4"}
    for record in records:
        assert len(record.source) > 20
        assert PriceRecord.model_validate(record.model_dump(mode="json")) == record


def test_the_laptop_by_hand() -> None:
    # 1000 / (4 x 2000) = 0.125 of wear; 0.045 kW x 0.17 = 0.00765 of electricity
    laptop = load_price_book().price("local-cpu", date(2026, 11, 22))
    assert laptop.usd_per_device_hour == Decimal("0.13265")
    assert laptop.power_w == 45
    assert laptop.power_method == "assumed"
    assert laptop.components is not None
    assert {component["method"] for component in laptop.components.model_dump().values()} == {"assumed"}


def test_a_users_file_replaces_all_records_of_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARTHING_PRICES", str(price_file(tmp_path / "mine.toml")))
    book = load_price_book()
    assert book.price("h100-80gb", date(2026, 11, 22)).usd_per_device_hour == Decimal("1.10")
    with pytest.raises(PriceError, match="first record is of 2026-01-01"):
        book.price("h100-80gb", date(2025, 12, 31))
    assert book.price("h800", date(2026, 1, 1)).usd_per_device_hour == 2

    extra = load_price_book(price_file(tmp_path / "extra.toml", usd="0.90"))
    assert extra.price("h100-80gb", date(2026, 11, 22)).usd_per_device_hour == Decimal("0.90")


def test_the_users_config_directory_is_read() -> None:
    where = load_price_book().user_file
    where.parent.mkdir(parents=True)
    price_file(where, device="my-box")
    assert load_price_book().price("my-box", date(2026, 1, 1)).source == "my invoice"


@pytest.mark.parametrize("usd", ["0", "-1", "nan", "inf", "true", '"free"', "1e30"])
def test_a_price_that_is_no_positive_number_is_refused(tmp_path: Path, usd: str) -> None:
    with pytest.raises(PriceError, match=r"extra\.toml, \[\[price\]\] number 1: usd_per_device_hour"):
        load_price_book(price_file(tmp_path / "extra.toml", usd=usd))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("price = 3", "tables only"),
        ("[prices]", "tables only"),
        ("[[price", "not TOML"),
        (A_PRICE.format(device="x", usd="1", day="2026-01-01") + "discount = 3", "discount: Extra inputs"),
        (A_PRICE.format(device="X Y", usd="1", day="2026-01-01"), "device: "),
        (A_PRICE.format(device="x", usd="1", day='"soon"'), "date: "),
        (A_PRICE.format(device="x", usd="1", day="2026-01-01") * 2, "twice"),
        ('[[price]]\ndevice = "x"\ncomponents = { purchase_usd = 3 }', "components.purchase_usd"),
    ],
)
def test_a_bad_file_names_the_mistake(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "extra.toml").write_text(text)
    with pytest.raises(PriceError, match=says):
        load_price_book(tmp_path / "extra.toml")


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PriceError, match="cannot read"):
        load_price_book(tmp_path / "none.toml")
    monkeypatch.setenv("FARTHING_PRICES", str(tmp_path / "none.toml"))
    with pytest.raises(PriceError, match="cannot read"):
        load_price_book()


def test_components_and_a_price_that_contradicts_them() -> None:
    laptop = load_price_book().price("local-cpu", date(2026, 11, 22)).model_dump(mode="json")
    with pytest.raises(ValueError, match="do not agree with the components"):
        PriceRecord.model_validate({**laptop, "usd_per_device_hour": "0.1"})
    with pytest.raises(ValueError, match="is a float"):
        PriceRecord.model_validate({**laptop, "components": None, "usd_per_device_hour": 0.1})


def test_r1s_own_cost_table() -> None:
    # Nature 645:633, Supplementary Table 7: $202K + $10K + $82K = $294K
    two = load_price_book().price("h800", date(2025, 9, 17)).usd_per_device_hour
    stages = [cost(hours * 1000 * HOUR, 1, two) for hours in (101, 5, 41)]
    assert stages == [202_000, 10_000, 82_000]
    assert sum(stages) == 294_000
    assert cost(80 * HOUR, 512, two) == 81_920  # what "512 H800s for 80 hours" comes to


@given(held_ns=st.integers(0, 10**18), num_devices=st.integers(0, 100_000), usd=st.decimals("0.0001", "9999", places=4))
def test_cost_is_the_exact_fraction_rounded_half_even(held_ns: int, num_devices: int, usd: Decimal) -> None:
    exact = Fraction(usd) * held_ns * num_devices / HOUR
    assert Fraction(cost(held_ns, num_devices, usd)) == Fraction(round(exact * 10**12), 10**12)
