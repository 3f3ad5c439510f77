"""A path -> the SQLite file of a ledger, opened or created, with its errors said in our words."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farthing.errors import DiskFull, LedgerError

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x46525448  # "FRTH": tells our file from any other SQLite database
_BUSY_TIMEOUT_S = 30.0

_SCHEMA = (
    """CREATE TABLE entries (
      seq INTEGER PRIMARY KEY, at TEXT NOT NULL, mono_ns INTEGER NOT NULL, attempt INTEGER NOT NULL, kind TEXT NOT NULL,
      purpose TEXT NOT NULL, outcome TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER NOT NULL, phase TEXT NOT NULL,
      held_ns INTEGER NOT NULL, num_devices INTEGER NOT NULL, device TEXT NOT NULL, price TEXT NOT NULL, usd TEXT NOT NULL,
      busy_ns INTEGER NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, tokens_trained INTEGER NOT NULL,
      model_flops TEXT NOT NULL, energy_mj INTEGER NOT NULL, energy_error_mj INTEGER NOT NULL, energy_method TEXT NOT NULL,
      detail TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL)""",
    "CREATE TABLE totals (key TEXT PRIMARY KEY, sums TEXT NOT NULL)",
    "CREATE INDEX entries_events ON entries(kind, seq) WHERE kind <> 'phase'",
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


def open_database(path: Path, read_only: bool) -> sqlite3.Connection:
    """Opens the file, and creates it unless `read_only`; LedgerError for any file that is not a ledger we know."""
    if read_only and not path.is_file():
        raise LedgerError(f"no ledger at {path}. Every run writes one into its directory; check the path.")
    with sqlite_errors(path):
        db = _connect(path, read_only)
        try:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA secure_delete = ON")  # unused space stays zero, so that a change in it can be seen
            if not read_only and _is_empty(db):
                _create(db)
            _check_version(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    if read_only:
        # A WAL reader makes a -shm file beside the book; where it may not, nobody can be writing either.
        is_archive = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
        uri = path.resolve().as_uri() + ("?mode=ro&immutable=1" if is_archive else "?mode=ro")
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    else:
        db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    db.text_factory = _text
    return db


def _text(raw: bytes) -> str:
    """Damaged text must reach verify(), which names the entry; sqlite3's own decoder would stop with no seq."""
    return raw.decode("utf-8", "surrogateescape")


def fetch(db: sqlite3.Connection, query: str, values: tuple[int | str, ...]) -> list[Any]:
    """All rows of a query, by sqlite3's own decoder, which is faster, where no text is damaged."""
    db.text_factory = str
    try:
        return db.execute(query, values).fetchall()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    finally:
        db.text_factory = _text
    return db.execute(query, values).fetchall()


def _is_empty(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])


def _create(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA page_size = 4096")
    _switch_to_wal(db)
    with transaction(db):
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
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE takes the write lock before the last hash is read: two processes cannot both continue from it.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
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
