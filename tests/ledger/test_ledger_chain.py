"""Entries in -> a chain that shows every change, and columns that hold exactly what was given."""

import hashlib
import json
import random
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest

from farthing.errors import LedgerError
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import COLUMNS, GENESIS, EntryFields


def fill(ledger: Ledger, count: int = 5) -> None:
    for number in range(count):
        ledger.append(
            attempt=1,
            kind="phase",
            stage="grpo",
            step=number,
            phase="rollout",
            held_ns=1_000_000 + number,
            device="local-cpu",
            busy_ns=500_000,
            usd=Decimal("0.000000036847"),
            tokens_in=10,
            tokens_out=20,
            tokens_trained=30,
            model_flops=10**20 + number,
            energy_mj=45,
            energy_method="modelled",
            detail={"note": "naïve \udc80 [red]"},
        )


def tampering(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    for trigger in ("entries_no_update", "entries_no_delete", "entries_in_turn"):
        db.execute(f"DROP TRIGGER {trigger}")
    return db


def test_what_was_given_comes_back_exactly(ledger: Ledger) -> None:
    fill(ledger)
    entries = list(ledger.entries())
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[0].model_flops == 10**20  # more than 63 bits
    assert entries[0].usd == Decimal("0.000000036847")
    assert json.loads(entries[0].detail) == {"note": "naïve \udc80 [red]"}
    assert entries[0].prev_hash == GENESIS
    assert entries[1].prev_hash == entries[0].hash
    assert ledger.head() == (5, entries[-1].hash)
    assert ledger.verify() == 5


def test_the_hash_is_sha256_of_the_canonical_json_of_the_stored_columns(ledger: Ledger, path: Path) -> None:
    entry = ledger.append(attempt=1, kind="attempt_start", at="2026-11-22T01:02:03.5Z", detail={"b": 1, "a": None})
    by_hand = (
        '{"at":"2026-11-22T01:02:03.500000+00:00","attempt":1,"busy_ns":-1,"detail":"{\\"a\\":null,\\"b\\":1}","device":"",'
        '"energy_error_mj":0,"energy_method":"assumed","energy_mj":0,"held_ns":0,"kind":"attempt_start","model_flops":"0",'
        '"mono_ns":0,"num_devices":1,"outcome":"","phase":"",'
        f'"prev_hash":"{GENESIS}","price":"","purpose":"","seq":1,"stage":"","step":-1,"tokens_in":0,'
        '"tokens_out":0,"tokens_trained":0,"usd":"0.000000000000"}'
    )
    assert entry.hash == hashlib.sha256(by_hand.encode()).hexdigest()


def test_usd_is_rounded_half_even_to_a_picodollar(ledger: Ledger) -> None:
    given = ("0.0000000000005", "0.0000000000015", "1")
    stored = [ledger.append(attempt=1, kind="phase", phase="idle", usd=Decimal(usd)).usd for usd in given]
    assert [f"{usd:f}" for usd in stored] == ["0.000000000000", "0.000000000002", "1.000000000000"]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_single_changed_byte_in_any_column_is_found(ledger: Ledger, path: Path, column: str) -> None:
    fill(ledger)
    db = tampering(path)
    stored = db.execute(f"SELECT {column} FROM entries WHERE seq = 3").fetchone()[0]
    others = changed_by_one_byte(stored)
    assert len(others) > 3
    for other in others:
        db.execute(f"UPDATE entries SET {column} = ? WHERE seq = 3", (other,))
        with pytest.raises(LedgerError, match="entry 3"):
            ledger.verify()
        db.execute(f"UPDATE entries SET {column} = ? WHERE seq = ?", (stored, other if column == "seq" else 3))
    db.close()
    assert ledger.verify() == 5


def changed_by_one_byte(stored: int | str) -> list[int | str | bytes]:
    rng = random.Random(0)
    if isinstance(stored, int):
        return [number for bit in range(0, 63, 8) if (number := stored ^ (1 << bit)) > 5]
    changed: list[int | str | bytes] = [stored + " ", " " + stored, stored.encode() + b"\xff", stored.encode()]
    for place in range(len(stored)):
        letter = rng.choice([c for c in "09azAZ \x00é" if c != stored[place]])
        changed.append(stored[:place] + letter + stored[place + 1 :])
    return changed


def test_the_first_bad_entry_is_named(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    db = tampering(path)
    db.execute("UPDATE entries SET held_ns = held_ns + 1 WHERE seq IN (2, 4)")
    with pytest.raises(LedgerError, match="entry 2: its columns do not give its hash"):
        ledger.verify()
    db.close()


def test_a_removed_entry_and_a_swap_are_found(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    db = tampering(path)
    db.execute("DELETE FROM entries WHERE seq = 3")
    with pytest.raises(LedgerError, match="entry 3: it is missing"):
        ledger.verify()
    db.execute("UPDATE entries SET seq = seq - 1 WHERE seq > 3")
    with pytest.raises(LedgerError, match="entry 3: it does not follow"):
        ledger.verify()
    db.close()


def test_text_that_is_not_utf8_is_named_not_a_crash(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    db = tampering(path)
    db.execute("UPDATE entries SET stage = CAST(x'ff67' AS TEXT) WHERE seq = 4")
    with pytest.raises(LedgerError, match="entry 4"):
        ledger.verify()
    db.execute("UPDATE entries SET usd = 'much' WHERE seq = 2")
    with pytest.raises(LedgerError, match="entry 2 is damaged"):
        list(ledger.entries())
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET usd = '0' WHERE seq = 1",
        "DELETE FROM entries",
        "INSERT OR REPLACE INTO entries SELECT * FROM entries WHERE seq = 2",
        f"INSERT INTO entries SELECT 9, {', '.join(COLUMNS[1:])} FROM entries LIMIT 1",
    ],
)
def test_the_database_itself_refuses_changes(ledger: Ledger, path: Path, statement: str) -> None:
    fill(ledger)
    db = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    db.close()
    assert ledger.verify() == 5


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("kind", "pause", "allowed: 'price', 'attempt_start'"),
        ("phase", "", "'rollout'"),
        ("usd", 0.1, "never a float"),
        ("usd", Decimal("NaN"), "finite"),
        ("usd", Decimal("-1"), "0 or more"),
        ("held_ns", -1, "0 or more"),
        ("held_ns", 1.5, "integer"),
        ("held_ns", 2**63, "2\\*\\*63"),
        ("step", -2, "-1 or more"),
        ("at", "yesterday", "ISO-8601"),
        ("at", "2026-11-22T01:02:03", "not UTC"),
        ("detail", {"loss": float("nan")}, "JSON"),
        ("detail", "[1]", "JSON"),
        ("energy_method", "guessed", "'modelled'"),
        ("colour", "red", "unknown ledger fields"),
    ],
)
def test_a_field_that_cannot_be_accounted_for_is_refused(ledger: Ledger, field: str, value: object, says: str) -> None:
    new = {"attempt": 1, "kind": "phase", "phase": "idle", field: value}
    with pytest.raises(LedgerError, match=says):
        ledger.append(**new)  # type: ignore[arg-type]
    assert ledger.head() == (0, GENESIS)


def test_many_are_appended_together_or_not_at_all(ledger: Ledger) -> None:
    ledger.append(attempt=1, kind="attempt_start")
    good: EntryFields = {"attempt": 1, "kind": "phase", "phase": "idle"}
    with pytest.raises(LedgerError, match="kind"):
        ledger.append_many([good, {"attempt": 1, "kind": "bad"}])
    assert ledger.head()[0] == 1
    assert [entry.seq for entry in ledger.append_many([good, good])] == [2, 3]
    assert ledger.verify() == 3


def test_appending_while_streaming_and_over_page_borders(ledger: Ledger) -> None:
    ledger.append_many({"attempt": 1, "kind": "phase", "phase": "idle"} for _ in range(2500))
    stream = ledger.entries()
    assert next(stream).seq == 1
    ledger.append(attempt=1, kind="attempt_end")
    assert sum(1 for _ in stream) == 2500
    assert ledger.verify() == 2501
