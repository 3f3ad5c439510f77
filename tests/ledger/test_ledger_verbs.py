"""The verbs about money as a user types them, in this process: prices, project, bill, correct."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_history import History
from typer.testing import CliRunner, Result

from farthing.cli import app
from farthing.errors import LedgerError, PriceError, RunError
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


@pytest.mark.parametrize("form", ["--html", "--csv", "--beancount", "--sign"])
def test_what_cannot_be_written_is_named(run: Path, tmp_path: Path, form: str) -> None:
    pytest.importorskip("cryptography")
    target = tmp_path / "none" / "bill"
    error = farthing("bill", run, form, target).exception
    assert isinstance(error, RunError)
    assert f"cannot write {target}" in str(error)


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"version": 1}', b"\xff\xfe", b'{"head_seq": "x", "head_hash": 3, "at": null}']
)
def test_a_damaged_signature_is_named_by_its_line(run: Path, tmp_path: Path, line: bytes) -> None:
    pytest.importorskip("cryptography")
    assert farthing("bill", run, "--sign", tmp_path / "key.pem").exit_code == 0
    with (run / "ledger.signed.jsonl").open("ab") as file:
        file.write(line)
    error = farthing("bill", run, "--signatures").exception
    assert isinstance(error, LedgerError)
    assert "line 2, is no signature" in str(error)
    # half a line left by a full disk does not spoil the next signature
    assert farthing("bill", run, "--sign", tmp_path / "key.pem").exit_code == 0
    assert (run / "ledger.signed.jsonl").read_bytes().count(b'"signature"') == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", "[]"),
        ("run.json", '{"machine": 3}'),
        ("stages/grpo/result.json", '{"eval": {"after": 3}}'),
        ("stages/grpo/result.json", '{"eval": {"after": {"pass_at_1": "x", "ci95": [0, 1], "n": 8, "samples": 4}}}'),
        ("stages/grpo/result.json", "7"),
    ],
)
def test_a_file_of_another_shape_is_named(run: Path, name: str, text: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(text)
    error = farthing("bill", run).exception
    assert isinstance(error, RunError)
    assert f"{run / name} is not as farthing writes it" in str(error)


def test_metrics_of_other_types_are_left_out(run: Path) -> None:
    rows = [{"stage": 3, "step": 0}, {"stage": "grpo", "step": "x"}, {"stage": "grpo", "step": 1, "usd": "x", "reward": None}]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (run / "recipe.json").write_text('{"stages": [1, 2]}')
    assert farthing("bill", run).exit_code == 0
