"""A path -> the ledger in it: append entries, stream them back, prove that none was changed.

One SQLite file (WAL), which several processes may append to and any number may read meanwhile. Triggers refuse UPDATE,
DELETE and out-of-turn INSERT; the hash chain (see entry.py) shows what was done with the triggers taken off.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from farthing.errors import DiskFull, LedgerError
from farthing.ledger.entry import (
    COLUMNS,
    GENESIS,
    PHASES,
    Entry,
    EntryFields,
    canonical_json,
    from_row,
    make_entry,
    row_hash,
    to_row,
    utc_now,
)

__all__ = ["PHASES", "SCHEMA_VERSION", "Entry", "EntryFields", "Ledger", "canonical_json", "utc_now"]

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x46525448  # "FRTH": tells our file from any other SQLite database
_BUSY_TIMEOUT_S = 30.0
_PAGE_ROWS = 1000

_SCHEMA = (
    """CREATE TABLE entries (
      seq INTEGER PRIMARY KEY, at TEXT NOT NULL, attempt INTEGER NOT NULL, kind TEXT NOT NULL, stage TEXT NOT NULL,
      step INTEGER NOT NULL, phase TEXT NOT NULL, held_ns INTEGER NOT NULL, num_devices INTEGER NOT NULL,
      device TEXT NOT NULL, usd TEXT NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
      tokens_trained INTEGER NOT NULL, model_flops TEXT NOT NULL, energy_mj INTEGER NOT NULL,
      energy_method TEXT NOT NULL, detail TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL)""",
    """CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a correction is a new entry'); END""",
    """CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a correction is a new entry'); END""",
    """CREATE TRIGGER entries_in_turn BEFORE INSERT ON entries
       WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM entries)
       BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: the next entry takes the next seq'); END""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_INSERT = f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM entries"


class Ledger:
    """The book of one run. Not shared between threads: open it once in each."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Opens the book, and creates it unless `read_only`; LedgerError for any file that is not a ledger we know."""
        if read_only and not path.is_file():
            raise LedgerError(f"no ledger at {path}. Every run writes one into its directory; check the path.")
        with _sqlite_errors(path):
            db = _connect(path, read_only)
            try:
                db.execute("PRAGMA synchronous = NORMAL")
                if not read_only and _is_empty(db):
                    _create(db)
                _check_version(db, path)
            except BaseException:
                db.close()
                raise
        return cls(path, db)

    def append(self, **new: Unpack[EntryFields]) -> Entry:
        """Seals one entry; it is in the book for good when this returns."""
        return self.append_many([new])[0]

    def append_many(self, news: Iterable[EntryFields]) -> list[Entry]:
        """Seals all of them in one transaction, or none. DiskFull if there is no room; what was there stays."""
        with _sqlite_errors(self.path), _transaction(self._db):
            seq, last_hash = self.head()
            entries = []
            for new in news:
                seq += 1
                entries.append(make_entry(new, seq, last_hash))
                last_hash = entries[-1].hash
            self._db.executemany(_INSERT, map(to_row, entries))
        return entries

    def entries(self) -> Iterator[Entry]:
        """All entries in order, a page at a time, so that a long book needs no more memory than a short one."""
        return map(from_row, self._rows())

    def head(self) -> tuple[int, str]:
        """(seq, hash) of the last entry; (0, 64 zeros) if there is none. Noted elsewhere, it shows a cut-off tail."""
        with _sqlite_errors(self.path):
            last = self._db.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        return (0, GENESIS) if last is None else (last[0], last[1])

    def verify(self) -> int:
        """Recomputes the whole chain; the number of entries, or LedgerError that names the first bad one."""
        count, last_hash = 0, GENESIS
        for row in self._rows():
            stored = dict(zip(COLUMNS, row, strict=True))
            count += 1
            if stored["seq"] != count:
                raise LedgerError(_broken(self.path, count, f"it is missing; the next one is {stored['seq']}"))
            if stored["prev_hash"] != last_hash:
                raise LedgerError(_broken(self.path, count, "it does not follow from the entry before it"))
            if stored["hash"] != row_hash(row):
                raise LedgerError(_broken(self.path, count, "its columns do not give its hash"))
            last_hash = str(stored["hash"])
        return count

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _rows(self) -> Iterator[tuple[int | str, ...]]:
        # Pages, not one cursor: an open cursor would pin an old snapshot, and an append in between would be refused.
        after = -(2**63)
        while True:
            with _sqlite_errors(self.path):
                query = f"{_SELECT} WHERE seq > ? ORDER BY seq LIMIT {_PAGE_ROWS}"
                page: list[tuple[int | str, ...]] = self._db.execute(query, (after,)).fetchall()
            if not page:
                return
            yield from page
            after = int(page[-1][0])


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    if read_only:
        # A WAL reader makes a -shm file beside the book; where it may not, nobody can be writing either.
        is_archive = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
        uri = path.resolve().as_uri() + ("?mode=ro&immutable=1" if is_archive else "?mode=ro")
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    else:
        db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    # Damaged text must reach verify(), which names the entry; sqlite3's own decoder would stop with no seq.
    db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return db


def _is_empty(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])


def _create(db: sqlite3.Connection) -> None:
    _switch_to_wal(db)
    with _transaction(db):
        if _is_empty(db):  # another process may have been quicker
            for statement in _SCHEMA:
                db.execute(statement)


def _switch_to_wal(db: sqlite3.Connection) -> None:
    # SQLite does not wait its busy timeout here when another process is switching the same new file.
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    if application_id != _APPLICATION_ID:
        raise LedgerError(
            f"{path} is no farthing ledger: its SQLite application id is {application_id:#x}, not "
            f"{_APPLICATION_ID:#x}. Give the ledger file of a run directory."
        )
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has ledger schema version {version}; this farthing reads version {SCHEMA_VERSION}. "
            "Use the farthing release that wrote it."
        )


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE takes the write lock before the last hash is read: two processes cannot both continue from it.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except UnicodeDecodeError as error:  # sqlite3 quoting damaged bytes in its own message
        raise LedgerError(f"the ledger {path} is damaged: {error}. Restore it from a copy.") from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_FULL or error.sqlite_errorcode == sqlite3.SQLITE_IOERR_SHMSIZE:
            raise DiskFull(
                f"no space left for the ledger {path} ({error}). Free some space and start the same command again; "
                "every entry written so far is kept."
            ) from error
        if code == sqlite3.SQLITE_BUSY:
            raise LedgerError(
                f"the ledger {path} stayed locked by another process for {_BUSY_TIMEOUT_S:.0f} s ({error}). "
                "Stop that process or wait for it, then try again."
            ) from error
        raise LedgerError(
            f"cannot use the ledger {path}: {error}. If the file is damaged, restore it from a copy; "
            "if it is missing rights, mend those."
        ) from error


def _broken(path: Path, seq: int, what: str) -> str:
    return (
        f"the chain of {path} breaks at entry {seq}: {what}. Entries before it stand; "
        "restore the file from a copy, or bill without this run."
    )
