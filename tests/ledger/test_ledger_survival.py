"""Two writers, a SIGKILL, a full disk, a damaged or foreign file -> the book stays whole and readable, or says no."""

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bench.ledger import fill, kill_writers
from farthing.errors import DiskFull, LedgerError
from farthing.ledger import account
from farthing.ledger.account import read_account
from farthing.ledger.entries import Ledger

EACH = 60


def append_some(path: Path, attempt: int) -> None:
    with Ledger.open(path) as ledger:
        for step in range(EACH):
            ledger.append(attempt=attempt, kind="phase", phase="idle", step=step)


def append_for_ever(ledger: Ledger) -> None:
    while True:
        ledger.append(attempt=1, kind="phase", phase="idle", detail={"x": "y" * 500})


def test_two_processes_append_to_one_new_file(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=append_some, args=(path, attempt)) for attempt in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.verify() == 2 * EACH
        written = [(entry.attempt, entry.step) for entry in ledger.entries()]
    assert sorted(written) == [(attempt, step) for attempt in (1, 2) for step in range(EACH)]


_WRITER = """
import sys
from pathlib import Path
from farthing.ledger.entries import Ledger
with Ledger.open(Path(sys.argv[1])) as ledger:
    while True:
        print(ledger.append(attempt=1, kind="phase", phase="idle", detail={"x": "y" * 500}).seq, flush=True)
"""


def test_sigkill_in_mid_write_loses_nothing_that_was_acknowledged(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(200):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    with Ledger.open(path) as ledger:
        count = ledger.verify()
        assert acknowledged <= count <= acknowledged + 1
        assert ledger.append(attempt=1, kind="attempt_end", detail={"outcome": "killed"}).seq == count + 1
        assert ledger.verify() == count + 1


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_sigkills_one_after_another_lose_and_double_nothing(path: Path, kills: int) -> None:
    assert kill_writers(path, kills, random.Random(kills)) == (0, 0, kills)


def test_a_long_book_is_billed_from_its_totals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, 300)
    with Ledger.open(path, read_only=True) as ledger:
        whole = read_account(ledger)
    monkeypatch.setattr(account, "WHOLE_CHAIN", 100)
    monkeypatch.setattr(account, "TAIL", 50)
    with Ledger.open(path, read_only=True) as ledger:
        tail = read_account(ledger)
    assert (whole.chain, tail.chain) == ("whole", "tail")
    assert whole.rows == tail.rows
    last = whole.num_entries
    for seq, found in ((last - 10, True), (10, False)):
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("DROP TRIGGER IF EXISTS entries_no_update")
        db.execute("UPDATE entries SET tokens_out = tokens_out + 1 WHERE seq = ?", (seq,))
        db.close()
        with Ledger.open(path, read_only=True) as ledger:
            if found:
                with pytest.raises(LedgerError, match=f"entry {seq}"):
                    read_account(ledger)
            else:
                read_account(ledger)  # beyond the tail: the audit finds it
                with pytest.raises(LedgerError, match=f"entry {seq}"):
                    ledger.verify()
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("UPDATE entries SET tokens_out = tokens_out - 1 WHERE seq = ?", (seq,))
        db.close()


def test_a_reader_sees_what_a_writer_appends_and_cannot_write(ledger: Ledger, path: Path) -> None:
    ledger.append(attempt=1, kind="attempt_start")
    with Ledger.open(path, read_only=True) as viewer:
        assert viewer.verify() == 1
        ledger.append(attempt=1, kind="attempt_end")
        assert viewer.head() == ledger.head()
        with pytest.raises(LedgerError, match="readonly"):
            viewer.append(attempt=1, kind="attempt_end")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_book_in_a_directory_without_write_permission_can_be_read(path: Path) -> None:
    append_some(path, attempt=1)
    path.parent.chmod(0o555)
    with Ledger.open(path, read_only=True) as viewer:
        assert viewer.verify() == EACH
    path.parent.chmod(0o755)


def test_a_full_disk_keeps_every_entry_and_takes_more_when_there_is_room(ledger: Ledger) -> None:
    ledger.append(attempt=1, kind="attempt_start")
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFull, match="every entry written so far is kept"):
        append_for_ever(ledger)
    count = ledger.verify()
    assert count > 1
    assert sum(1 for _ in ledger.entries()) == count
    ledger._db.execute("PRAGMA max_page_count = 100000")
    assert ledger.append(attempt=1, kind="attempt_end").seq == count + 1
    assert ledger.verify() == count + 1


def test_a_byte_flipped_anywhere_in_the_file_is_refused_or_harmless(path: Path) -> None:
    with Ledger.open(path) as ledger:
        for step in range(30):
            ledger.append(attempt=1, kind="phase", phase="idle", step=step, held_ns=step)
        honest = list(ledger.entries())
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        place = rng.randrange(len(whole))
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            with Ledger.open(path, read_only=True) as ledger:
                ledger.verify()
                assert list(ledger.entries()) == honest  # a byte that no entry uses
        except LedgerError:
            refused += 1
    assert refused > 50


def test_foreign_and_other_version_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger.open(text)

    foreign = tmp_path / "other.sqlite"
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE mine (x)")
    db.close()
    before = foreign.read_bytes()
    with pytest.raises(LedgerError, match="no farthing ledger"):
        Ledger.open(foreign)
    assert foreign.read_bytes() == before

    other_version = tmp_path / "other_version.sqlite"
    Ledger.open(other_version).close()
    db = sqlite3.connect(other_version)
    db.execute("PRAGMA user_version = 1")
    db.close()
    with pytest.raises(LedgerError, match="schema version 1"):
        Ledger.open(other_version)
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.open(tmp_path / "none.sqlite", read_only=True)
    assert not (tmp_path / "none.sqlite").exists()
