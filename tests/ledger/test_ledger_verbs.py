"""The verbs about money as a user types them, in this process: prices, project, bill, correct."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_history import History
from typer.testing import CliRunner, Result

from farthing.cli import app
from farthing.errors import PriceError, RunError
from farthing.ledger.entries import Ledger


def farthing(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    with Ledger.open(folder / "ledger.sqlite") as ledger:
        history = History(ledger)
        history.start()
        history.spend("grpo", 0, "update", usd=8)
        history.end("ok")
    return folder


def test_a_bill_in_every_form_at_once(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    forms = {name: tmp_path / f"bill.{name}" for name in ("html", "csv", "beancount")}
    flags = [part for name, path in forms.items() for part in (f"--{name}", path)]
    result = farthing("bill", run, *flags, "--sign", tmp_path / "key.pem", "--signatures", "--json")
    assert result.exit_code == 0, result.output
    page = json.loads(result.stdout)
    assert page["total_usd"] == "8.000000000000"
    assert [b["key"] for b in page["boundaries"]] == ["rental", "all", "full"]
    assert page["signed"]["head_seq"] == page["signatures"][0]["head_seq"] == page["entries"] == 4
    assert all("8.00" in path.read_text() for path in forms.values())


def test_a_correction_by_hand(run: Path) -> None:
    result = farthing("correct", run, 3, "--usd=-0.5", "--reason", "refund")
    assert result.exit_code == 0, result.output
    assert json.loads(farthing("bill", run, "--json").stdout)["total_usd"] == "7.500000000000"
    assert isinstance(farthing("correct", run, 3, "--usd=much", "--reason", "x").exception, RunError)


def test_a_project_from_the_first_run_to_its_bill(run: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert "entered" in farthing("project", "add", project, run).output
    assert "unchanged" in farthing("project", "add", project, run).output
    added = farthing(
        "project", "expense", project, "--usd", "2", "--what", "labels", "--source", "invoice 1", "--purpose", "data"
    )
    assert added.exit_code == 0, added.output
    shown = json.loads(farthing("project", "show", project, "--json").stdout)
    assert (shown["total_usd"], shown["runs"][0]["role"]) == ("10.000000000000", "final")
    assert "Runs on this account" in farthing("bill", project).output


def test_prices_are_listed_shown_and_compared() -> None:
    listed = json.loads(farthing("prices", "--on", "2026-11-01", "--json").stdout)
    assert {"h800", "storage/local-disk"} <= {record["key"] for record in listed}
    assert all(record["source"] for record in listed)
    [one] = json.loads(farthing("prices", "h800", "--on", "2025-10-01", "--json").stdout)
    assert Decimal(one["usd_per_unit"]) == 2
    changed = json.loads(farthing("prices", "--diff", "2025-03-07", "2026-10-05", "--json").stdout)
    assert "h100-80gb" in {line["key"] for line in changed}
    assert isinstance(farthing("prices", "h9000").exception, PriceError)
    assert isinstance(farthing("prices", "--on", "soon").exception, PriceError)
