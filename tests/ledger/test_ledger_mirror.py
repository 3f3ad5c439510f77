"""Kills, full disks and strangers between the book and its mirror and seal -> repaired from the book, or said."""

import hashlib
import json
from pathlib import Path

import pytest
from ledger_history import History

from farthing.errors import DiskFull, LedgerError
from farthing.ledger.account import read_account
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import COLUMNS, canonical_json
from farthing.ledger.seal import BLOCK_BYTES, seal_path


def lines(path: Path) -> list[str]:
    return path.with_suffix(".jsonl").read_text("ascii").splitlines()


def add(ledger: Ledger, count: int = 3) -> None:
    ledger.append_many([{"attempt": 1, "kind": "phase", "phase": "idle", "stage": "naïve"} for _ in range(count)])


def test_the_mirror_holds_every_column_as_stored_and_its_hash(ledger: Ledger, path: Path) -> None:
    add(ledger)
    rows = [json.loads(line) for line in lines(path)]
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) == set(COLUMNS)
    assert rows[0]["usd"] == "0.000000000000"
    assert lines(path)[0] == canonical_json(rows[0])
    unsealed = canonical_json({name: value for name, value in rows[2].items() if name != "hash"})
    assert rows[2]["hash"] == hashlib.sha256(unsealed.encode()).hexdigest()


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_line_cut_in_half_and_lost_lines_are_filled_in_from_the_book(path: Path, cut: int) -> None:
    with Ledger.open(path) as ledger:
        add(ledger, 5)
    mirror = path.with_suffix(".jsonl")
    whole = mirror.read_bytes()
    mirror.write_bytes(whole[:-cut])
    with Ledger.open(path):
        assert mirror.read_bytes() == whole


def test_a_mirror_that_is_gone_is_written_anew(path: Path) -> None:
    with Ledger.open(path) as ledger:
        add(ledger, 5)
        whole = path.with_suffix(".jsonl").read_bytes()
        path.with_suffix(".jsonl").unlink()
        add(ledger, 1)
    assert path.with_suffix(".jsonl").read_bytes().startswith(whole)
    assert len(lines(path)) == 6


def test_a_book_and_a_mirror_that_differ_are_refused(path: Path, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        add(ledger)
    other = tmp_path / "other.sqlite"
    with Ledger.open(other) as ledger:
        add(ledger)
    path.with_suffix(".jsonl").write_bytes(other.with_suffix(".jsonl").read_bytes())
    with pytest.raises(LedgerError, match="has otherwise"):
        Ledger.open(path)
    path.with_suffix(".jsonl").write_text('{"seq":9,"hash":"x"}\n')
    with pytest.raises(LedgerError, match="does not hold"):
        Ledger.open(path)
    path.with_suffix(".jsonl").write_text("nonsense\n")
    with pytest.raises(LedgerError, match="no entry"):
        Ledger.open(path)


def test_two_writers_share_one_mirror(path: Path) -> None:
    with Ledger.open(path) as first, Ledger.open(path) as second:
        for _ in range(5):
            add(first, 1)
            add(second, 2)
    assert [json.loads(line)["seq"] for line in lines(path)] == list(range(1, 16))


def test_a_book_at_rest_is_sealed_and_the_seal_breaks_with_the_next_entry(path: Path) -> None:
    with Ledger.open(path) as ledger:
        add(ledger)
    seal = json.loads(seal_path(path).read_text())
    assert seal["head_seq"] == 3
    for name, sums in seal["files"].items():
        data = (path.parent / name).read_bytes()
        assert (sums["bytes"], sums["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert len(sums["adler32"]) == 8 * -(-len(data) // BLOCK_BYTES)
    with Ledger.open(path, read_only=True) as reader:
        reader.verify()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == seal["files"][path.name]["sha256"]
    with Ledger.open(path) as ledger:
        assert seal_path(path).exists()
        add(ledger)
        assert not seal_path(path).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_up_under_the_mirror_enters_nothing_twice(path: Path) -> None:
    with Ledger.open(path) as ledger:
        add(ledger)
        mirror = path.with_suffix(".jsonl")
        kept = mirror.read_bytes()
        mirror.unlink()
        mirror.symlink_to("/dev/full")
        add(ledger, 1)  # in the book, though the mirror could not be written
        with pytest.raises(DiskFull, match="no space left"):
            add(ledger, 1)  # said before anything is entered
        assert ledger.verify() == 4
        mirror.unlink()
        mirror.write_bytes(kept)
        add(ledger, 1)
    assert len(lines(path)) == 5


def test_totals_that_were_changed_are_found(path: Path) -> None:
    with Ledger.open(path) as ledger:
        add(ledger)
        ledger._db.execute("""UPDATE totals SET sums = replace(sums, '"entries":3', '"entries":4')""")
        with pytest.raises(LedgerError, match="not what its entries sum to"):
            ledger.verify()
        ledger._db.execute("UPDATE totals SET sums = '[1,\"x\"]' WHERE key = 'head'")
        with pytest.raises(LedgerError, match="go up to entry 1"):
            ledger.totals()


def test_what_is_refused_or_adds_nothing_leaves_the_seal(path: Path) -> None:
    with Ledger.open(path) as ledger:
        add(ledger)
    sealed = seal_path(path).read_bytes()
    with Ledger.open(path) as ledger:
        assert ledger.append_many([]) == []
        with pytest.raises(LedgerError):
            ledger.append_from(lambda: [{"attempt": 1, "kind": "no such kind"}])
    assert seal_path(path).read_bytes() == sealed
    with Ledger.open(path) as ledger:
        add(ledger)
    assert seal_path(path).read_bytes() != sealed


def test_a_book_behind_its_mirror_is_not_billed(path: Path) -> None:
    with Ledger.open(path) as ledger:
        History(ledger).start()
        end = ledger.head()[0]
    with Ledger.open(path, read_only=True) as ledger:
        read_account(ledger)
    mirror = path.with_suffix(".jsonl")
    mirror.write_text(mirror.read_text() + lines(path)[-1].replace(f'"seq":{end}', f'"seq":{end + 1}') + "\n")
    with Ledger.open(path, read_only=True) as ledger, pytest.raises(LedgerError, match="the book has lost entries"):
        read_account(ledger)
