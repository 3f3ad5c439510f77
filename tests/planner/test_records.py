"""Claims as flags, TOML and CSV: the same figures, the same verdict; what is wrong is named with its place."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farthing.cli import app
from farthing.errors import DataError
from farthing.ledger.prices import PriceBook
from farthing.planner.hardware import catalogue, find_device
from farthing.planner.interval import INFINITY, Interval, exactly
from farthing.planner.records import claim_from, claims_in_csv, claims_in_file, claims_in_toml, exchange_rates, figure
from farthing.planner.sentence import read_sentence
from farthing.planner.verdict import judge

HEADER = "name,kind,hardware,n_devices,days,gpu_hours,dollars,dollars_per_gpu_hour,derived_fields\n"


def test_flags_and_sentence_agree(book: PriceBook) -> None:
    given = {"devices": "512", "device": "h800", "hours": "80", "usd": "294000"}
    by_flags, by_words = claim_from(given, "flags"), read_sentence("512 H800 GPUs for 80 hours at a cost of $294,000")
    assert (by_flags.usd, by_flags.hours, by_flags.devices) == (by_words.usd, by_words.hours, by_words.devices)
    assert judge(by_flags, book).verdict == judge(by_words, book).verdict == "inconsistent"


def test_toml_takes_sentences_and_figures(book: PriceBook) -> None:
    text = '[[claim]]\ntext = "8 H100s for 4 hours for $100"\n'
    text += '[[claim]]\nparams = "7B"\ntokens = "2T"\ndevices = 64\ndevice = "a100"\ndays = 3\n'
    assert [judge(claim, book).verdict for claim in claims_in_toml(text, "a")] == ["consistent", "inconsistent"]


def test_csv_rows_of_published_runs(book: PriceBook) -> None:
    rows = "press,claim,H800,512,3.333,40960,294000,7.18,days gpu_hours dollars_per_gpu_hour\n"
    rows += "sound,full_run,H100-80GB-SXM,8,1,192,600,,\n"
    claims = claims_in_csv(HEADER + rows, "a.csv")
    assert claims[0].usd_per_device_hour is None, "a derived price is no evidence"
    assert [judge(claim, book).verdict for claim in claims] == ["inconsistent", "consistent"]


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("147K", 146_500, 147_500),
        (147_000, 146_500, 147_500),
        ("3 to 4", 3, 4),
        ("about 80", 72, 88),
        (Decimal("0.4"), 0.36, 0.44),
    ],
)
def test_a_figure_is_a_number_or_words(value: object, low: float, high: float) -> None:
    got = figure(value, "here")
    assert (float(got.low), float(got.high)) == (low, high)


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "", "many", "3 4 5", "1e999", "x" * 500])
def test_what_is_no_figure_is_refused(value: str) -> None:
    with pytest.raises(DataError):
        figure(value, "here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[claim]]\nusd_total = 5", "unknown usd_total"),
        ('[[claim]]\ndevice = "h9000"', "unknown device"),
        ("claim = 5", r"\[\[claim\]\]"),
        ("[[claim", "is not TOML"),
        ('[[claim]]\nwork = "magic"', "allowed: training"),
    ],
)
def test_a_wrong_file_says_where(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        claims_in_toml(text, "claims.toml")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", 'name,dollars\n"x', "name,dollars\nx,nan\n", "name,dollars\nx,-3\n"])
def test_a_wrong_csv_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        claims_in_csv(text, "claims.csv")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe\xff")
    for name in ("absent.toml", "latin.toml", "."):
        with pytest.raises(DataError):
            claims_in_file(tmp_path / name)


def test_rates() -> None:
    assert exchange_rates(["cny=0.14"]) == {"CNY": Decimal("0.14")}
    for wrong in ("CNY", "CNY=0", "CNY=-1", "yuan=1", "CNY=nan"):
        with pytest.raises(DataError, match="--rate"):
            exchange_rates([wrong])


def test_the_command_answers_and_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("")
    monkeypatch.setenv("FARTHING_PRICES", str(prices))
    said = CliRunner().invoke(app, ["claim", "--text", "8 H100s for 4 hours for $100", "--json"])
    page = json.loads(said.stdout)
    assert page["verdict"] == "consistent"
    assert page["read_as"]["usd"] == ["90", "110"]
    assert "INCONSISTENT" in CliRunner().invoke(app, ["claim", "--text", "512 H800s, 80 hours, $294,000"]).stdout
    for wrong in ([], ["--all", "--usd", "5"]):
        assert isinstance(CliRunner().invoke(app, ["claim", *wrong]).exception, DataError)


def test_devices_have_sources_and_go_by_many_names() -> None:
    assert {find_device(name).key for name in ("H100", "h100-80GB-SXM", "H100 80GB")} == {"h100-80gb"}  # type: ignore[union-attr]
    assert find_device("H9000") is None
    assert all(device.source and device.date for device in catalogue().values())
    h800 = catalogue()["h800"]
    assert (h800.peak_flops(), h800.peak_flops("fp8"), h800.largest_peak_flops()) == (989e12, 1979e12, 1979e12)


def test_intervals_keep_their_bounds_and_what_was_said() -> None:
    hours, usd = Interval(Decimal(75), Decimal(85), Decimal(80)), exactly(294_000)
    product = hours * exactly(512)
    assert (product.low, product.middle, product.high) == (38_400, 40_960, 43_520)
    assert round((usd / product).middle, 2) == Decimal("7.18")
    over, under = Interval(Decimal(5), INFINITY), Interval(Decimal(0), Decimal(5))
    assert (over * under).low == 0
    assert (exactly(1) / under).high == INFINITY
    assert over.meets(under)
    with pytest.raises(ValueError, match="from a small to a large"):
        Interval(Decimal(2), Decimal(1))
