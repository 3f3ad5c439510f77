"""Any single changed byte of a ledger is found, and its place and right copy are named."""

import hashlib
import json
import random
import shutil
import sqlite3
import zlib
from pathlib import Path

import book
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from farthing.ledger.audit.auditor import audit
from farthing.ledger.audit.locate import place_of_byte
from farthing.ledger.audit.report import Check, Finding, Report
from farthing.ledger.audit.schema import COLUMNS, STORED_ORDER, from_json
from farthing.ledger.audit.seal import compare, read_seal
from farthing.ledger.audit.wal import check_wal
from farthing.ledger.entries import Ledger

FILES = ("ledger.sqlite", "ledger.jsonl", "ledger.seal.json")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return book.write(tmp_path_factory.mktemp("sealed"), book.whole_run(12))


@pytest.fixture
def run(sealed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sealed, tmp_path / "run")


@pytest.fixture
def unsealed(run: Path) -> Path:
    (run / "ledger.seal.json").unlink()
    return run


def flip(path: Path, offset: int, change: int = 0x11) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= change
    path.write_bytes(data)


def check(report: Report, name: str) -> Check:
    return next(c for c in report.checks if c.name == name)


def findings(report: Report) -> list[Finding]:
    return [finding for c in report.checks for finding in c.findings]


def forge(path: Path, sql: str, *values: object) -> None:
    """Changes the book behind the triggers' back."""
    db = sqlite3.connect(path / "ledger.sqlite")
    for trigger in ("entries_no_update", "entries_no_delete", "entries_in_turn"):
        text = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (trigger,)).fetchone()[0]
        db.execute(f"DROP TRIGGER {trigger}")
        path.joinpath(trigger).write_text(text)
    db.execute(sql, values)
    for trigger in ("entries_no_update", "entries_no_delete", "entries_in_turn"):
        db.execute(path.joinpath(trigger).read_text())
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def test_a_whole_ledger_passes_and_is_not_touched(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    report = audit(run)
    assert report.passed, [f.what for f in findings(report)]
    assert {c.status for c in report.checks if c.name in ("seal", "log", "pages", "chain", "mirror", "sums")} == {"pass"}
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


@pytest.mark.parametrize("name", FILES)
def test_every_region_of_every_file(run: Path, name: str) -> None:
    """20 bytes of each file; the place that is named is the byte itself, and the old value is proven."""
    path, rng = run / name, random.Random(7)
    data = path.read_bytes()
    for _ in range(15):
        offset = rng.randrange(len(data))
        flip(path, offset, rng.randrange(1, 256))
        report = audit(run)
        assert not report.passed, f"byte {offset} of {name}"
        if name != "ledger.seal.json":
            [place] = check(report, "seal").findings
            assert (place.file, place.offset, place.length) == (name, offset, 1)
            assert f"was 0x{data[offset]:02x}" in place.what
        path.write_bytes(data)


def test_the_command_that_is_printed_puts_the_byte_back(run: Path) -> None:
    data = (run / "ledger.sqlite").read_bytes()
    flip(run / "ledger.sqlite", 20_000)
    [place] = check(audit(run), "seal").findings
    assert place.restore is not None
    assert f"printf '\\x{data[20_000]:02x}' | dd of=ledger.sqlite bs=1 seek=20000 conv=notrunc" in place.restore


@pytest.mark.parametrize("column", [c for c in STORED_ORDER if c != "seq"])
def test_every_column_is_named(unsealed: Path, column: str) -> None:
    """Without a seal: the entry and the column, from the hash and the mirror."""
    [(value,)] = sqlite3.connect(unsealed / "ledger.sqlite").execute(f"SELECT {column} FROM entries WHERE seq = 9").fetchall()
    forge(unsealed, f"UPDATE entries SET {column} = ? WHERE seq = 9", value + 7 if isinstance(value, int) else value + "x")
    report = audit(unsealed)
    [place] = check(report, "chain").findings
    assert (place.entry, place.columns, place.file) == (9, (column,), "ledger.sqlite")
    assert place.restore is not None
    assert "mirror is right" in place.restore
    assert place.offset is not None
    assert place.length is not None
    stored = (unsealed / "ledger.sqlite").read_bytes()[place.offset : place.offset + place.length]
    assert int.from_bytes(stored, "big", signed=True) == value + 7 if isinstance(value, int) else stored == f"{value}x".encode()


def test_without_a_mirror_the_hash_itself_gives_the_old_value(unsealed: Path) -> None:
    (unsealed / "ledger.jsonl").unlink()
    forge(unsealed, "UPDATE entries SET tokens_trained = tokens_trained + 4 WHERE seq = 9")
    forge(unsealed, "UPDATE entries SET stage = 'r1_zerp' WHERE seq = 11")
    first, second = check(audit(unsealed), "chain").findings
    assert (first.entry, first.columns) == (9, ("tokens_trained",))
    assert first.what == "tokens_trained is 1004, was 1000"
    assert (second.entry, second.columns, second.what) == (11, ("stage",), "stage is 'r1_zerp', was 'r1_zero'")


@pytest.mark.parametrize("column", ["prev_hash", "hash"])
def test_a_changed_hash_is_told_from_a_changed_figure(unsealed: Path, column: str) -> None:
    (unsealed / "ledger.jsonl").unlink()
    forge(unsealed, f"UPDATE entries SET {column} = ? WHERE seq = 9", "ab" * 32)
    [place] = check(audit(unsealed), "chain").findings
    assert (place.entry, place.columns) == (9, (column,))


def test_a_damaged_figure_does_not_reach_the_sums(unsealed: Path) -> None:
    right = audit(unsealed).totals
    forge(unsealed, "UPDATE entries SET usd = '9.000000000000' WHERE seq = 9")
    assert audit(unsealed).totals == right


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_without_a_seal(unsealed: Path, data: st.DataObject) -> None:
    """But for the SQLite release in the header, and unused space of the totals, which are written over: those need a seal."""
    path = unsealed / data.draw(st.sampled_from(["ledger.sqlite", "ledger.jsonl"]))
    whole = path.read_bytes()
    offset = data.draw(st.integers(0, len(whole) - 1).filter(lambda o: path.suffix == ".jsonl" or not 97 <= o <= 99))
    where = place_of_byte(path, offset, None)[2] if path.suffix == ".sqlite" else ""
    assume(not ("unused space" in where and "totals" in where) and "index page" not in where)
    flip(path, offset, data.draw(st.integers(1, 255)))
    try:
        assert not audit(unsealed).passed
    finally:
        path.write_bytes(whole)


def test_a_mirror_line_that_differs_is_placed_to_the_byte_and_column(unsealed: Path) -> None:
    lines = (unsealed / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    offset = sum(map(len, lines[:8])) + lines[8].index(b'"usd":"') + 7
    flip(unsealed / "ledger.jsonl", offset, 1)
    [place] = check(audit(unsealed), "mirror").findings
    assert (place.entry, place.columns, place.offset, place.length) == (9, ("usd",), offset, 1)
    assert place.restore == "the SQLite file is right: its entry gives its hash"


@pytest.mark.parametrize("within", [30, -1])
def test_a_byte_that_becomes_or_was_a_line_end(unsealed: Path, within: int) -> None:
    lines = (unsealed / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    offset = sum(map(len, lines[: 8 + (within < 0)])) + within
    data = bytearray(b"".join(lines))
    data[offset] = 0x0A if within >= 0 else 0x20
    (unsealed / "ledger.jsonl").write_bytes(data)
    [place] = check(audit(unsealed), "mirror").findings
    assert (place.entry, place.offset, place.length) == (9, offset, 1)


def test_lines_missing_from_and_added_to_the_mirror(unsealed: Path) -> None:
    path = unsealed / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], *lines[5:9], lines[2], *lines[9:]]))
    first, second = check(audit(unsealed), "mirror").findings
    assert (first.entry, first.what) == (5, "its line is missing")
    assert (second.entry, second.what) == (10, "a line of entry 3 where entry 10 belongs")


def test_a_half_written_last_line_is_no_damage(unsealed: Path) -> None:
    path = unsealed / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    report = audit(unsealed)
    assert report.passed
    assert check(report, "mirror").status == "not checkable"
    assert "the last 1 entries have no whole line yet" in check(report, "mirror").not_checkable


def test_a_cut_tail_of_the_sqlite_file_is_in_the_mirror(unsealed: Path) -> None:
    forge(unsealed, "DELETE FROM entries WHERE seq > 50")
    report = audit(unsealed)
    assert report.entries == len((unsealed / "ledger.jsonl").read_bytes().splitlines())
    assert "cannot be had from the SQLite file" in check(report, "chain").findings[0].what


def test_an_entry_taken_out_is_missing(unsealed: Path) -> None:
    forge(unsealed, "DELETE FROM entries WHERE seq = 9")
    [place] = check(audit(unsealed), "chain").findings
    assert (place.entry, place.what, place.restore) == (9, "entry 9 is missing", "ledger.jsonl has 1 of them")


def test_a_file_that_sqlite_cannot_open_is_audited_from_its_mirror(unsealed: Path) -> None:
    right = audit(unsealed)
    (unsealed / "ledger.sqlite").write_bytes(bytes(8192))
    report = audit(unsealed)
    assert not report.passed
    assert (report.entries, report.head_hash, report.totals) == (right.entries, right.head_hash, right.totals)


def test_free_space_is_watched_without_a_seal(unsealed: Path) -> None:
    path = unsealed / "ledger.sqlite"
    data = path.read_bytes()
    free = max((i for i in range(4096, len(data), 4096)), key=lambda i: data[i : i + 4096].count(0))
    offset = data.index(bytes(64), free) + 32
    flip(path, offset)
    [place] = check(audit(unsealed), "pages").findings
    assert (place.offset, place.length) == (offset, 1)
    assert "unused space" in place.what


def test_a_table_or_trigger_that_is_not_ours(unsealed: Path) -> None:
    db = sqlite3.connect(unsealed / "ledger.sqlite")
    db.execute("DROP TRIGGER entries_no_update")
    db.execute("CREATE TABLE notes (x TEXT)")
    db.commit()
    db.close()
    found = [f.what for f in check(audit(unsealed), "pages").findings]
    assert any("holds what no ledger holds: table notes" in what for what in found)
    assert any("lacks what every ledger holds: trigger entries_no_update" in what for what in found)


def test_totals_that_do_not_add_up(unsealed: Path) -> None:
    db = sqlite3.connect(unsealed / "ledger.sqlite")
    db.execute("UPDATE totals SET sums = replace(sums, '\"tokens_trained\":12000', '\"tokens_trained\":13000')")
    db.commit()
    db.close()
    assert check(audit(unsealed), "sums").num_findings == 4  # one group for each phase of whole_run


# The write-ahead log ---------------------------------------------------------------------------------------------------


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A ledger as a killed process leaves it: entries in the log, no seal."""
    whole, left = tmp_path / "whole", tmp_path / "left"
    whole.mkdir()
    ledger = Ledger.open(whole / "ledger.sqlite")
    for entry in list(book.whole_run(6))[:-1]:
        ledger.append(**entry)
    shutil.copytree(whole, left)
    ledger.close()
    return left


def test_a_killed_ledger_passes_and_says_that_it_is_not_sealed(killed: Path) -> None:
    report = audit(killed)
    assert report.passed, [f.what for f in findings(report)]
    assert (check(report, "seal").status, check(report, "attempts").status) == ("not checkable", "not checkable")
    assert "frames" in check(report, "log").evidence


def test_every_byte_of_the_log_counts(killed: Path) -> None:
    path, rng = killed / "ledger.sqlite-wal", random.Random(3)
    data = path.read_bytes()
    assert len(data) > 40_000
    for offset in [*range(0, 56, 5), *(rng.randrange(len(data)) for _ in range(8))]:
        flip(path, offset, rng.randrange(1, 256))
        problems = check_wal(path).problems
        assert problems
        start, length, _ = problems[0]
        assert start <= offset < start + length
        path.write_bytes(data)
    flip(path, len(data) // 2)
    assert check(audit(killed), "log").status == "fail"


# The seal ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=70_000), st.data())
def test_adler_gives_place_and_old_value(tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("seal") / "file"
    sums = "".join(f"{zlib.adler32(content[i : i + 32768]):08x}" for i in range(0, len(content), 32768))
    sealed = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "block_bytes": 32768, "adler32": sums}
    path.write_bytes(content)
    assert compare(path, sealed) == []
    offset = data.draw(st.integers(0, len(content) - 1))
    flip(path, offset, data.draw(st.integers(1, 255)))
    [damage] = compare(path, sealed)
    assert (damage.offset, damage.was, damage.proven) == (offset, content[offset], True)
    path.write_bytes(content[:offset])
    assert [(d.offset, d.length) for d in compare(path, sealed)] == [(offset, len(content) - offset)]


def test_a_seal_of_which_a_byte_was_changed_is_refused(run: Path) -> None:
    path = run / "ledger.seal.json"
    whole = path.read_bytes()
    for offset in range(0, len(whole), 7):
        flip(path, offset)
        assert read_seal(path)[0] is None
        path.write_bytes(whole)
    assert read_seal(path)[0] is not None


def test_the_two_orders_of_columns_are_the_same_columns() -> None:
    assert sorted(STORED_ORDER) == list(COLUMNS)
    assert from_json(b"{}\n") is None
    assert from_json(json.dumps(["x"]).encode()) is None
