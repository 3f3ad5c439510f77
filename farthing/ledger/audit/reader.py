"""Paths -> the entries in the SQLite file and the lines of its mirror, read without leaving a trace beside them."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from farthing.errors import LedgerError
from farthing.ledger.audit.schema import APPLICATION_ID, VERSION, from_json
from farthing.ledger.audit.template import ORDER, Raw

_BUSY_TIMEOUT_S = 30.0
_ROWS_AT_ONCE = 500
_SELECT = f"SELECT {', '.join(ORDER)} FROM entries"


class Files:
    """Where the parts of one ledger lie: `ledger.sqlite` of a run, `project.sqlite` of a project."""

    def __init__(self, sqlite: Path) -> None:
        self.sqlite = sqlite
        self.folder = sqlite.parent
        self.wal = sqlite.with_name(sqlite.name + "-wal")
        self.mirror = sqlite.with_suffix(".jsonl")
        self.seal = sqlite.with_suffix(".seal.json")
        self.signed = sqlite.with_suffix(".signed.jsonl")

    @property
    def has_log(self) -> bool:
        """Whether part of the book may lie in the write-ahead log."""
        return self.wal.is_file() and self.wal.stat().st_size > 0


def open_book(files: Files) -> sqlite3.Connection:
    """A read-only connection. Without a log the file is read as immutable, so that no -shm file is made beside it."""
    alone = not files.has_log
    # a log needs a -shm file; where none can be made nobody can be writing, and the log is all that is lost
    no_shm = not os.access(files.folder, os.W_OK) and not files.sqlite.with_name(files.sqlite.name + "-shm").exists()
    uri = files.sqlite.resolve().as_uri() + ("?mode=ro&immutable=1" if alone or no_shm else "?mode=ro")
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)


def require_version(files: Files) -> None:
    """LedgerError for a ledger of another schema; a changed version byte of one whose mirror we know is left to the checks."""
    with files.sqlite.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or files.has_log:
        return  # the log may hold the header that counts; what is wrong with a header, the checks say
    application, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
    lines = Lines(files.mirror)
    is_ours = from_json(lines.next()[1]) is not None
    lines.close()
    if application == APPLICATION_ID and version != VERSION and not is_ours:
        raise LedgerError(
            f"{files.sqlite} has ledger schema version {version}; this audit reads version {VERSION}. "
            "Use the farthing release that wrote it."
        )


def stored_pages(db: sqlite3.Connection, after: int) -> Iterator[list[Raw]]:
    """The entries behind `after` by seq, some at a time; sqlite3.DatabaseError where the file cannot be read on."""
    while True:
        page = _page(db, after)
        if not page:
            return
        yield page
        after = int(page[-1][ORDER.index("seq")])


def _page(db: sqlite3.Connection, after: int) -> list[Raw]:
    query = f"{_SELECT} WHERE seq > ? ORDER BY seq LIMIT {_ROWS_AT_ONCE}"
    try:
        return db.execute(query, (after,)).fetchall()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    # text that is damaged must reach the checks, which name its entry; decoding every text this way is slower
    db.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        return db.execute(query, (after,)).fetchall()
    finally:
        db.text_factory = str


class Lines:
    """The lines of a mirror with their place, one at a time; a line can be put back, or a part of it."""

    def __init__(self, path: Path, limit_bytes: int = 1 << 24) -> None:
        self._file: BinaryIO | None = path.open("rb") if path.is_file() else None
        self._limit = limit_bytes
        self._waiting: list[tuple[int, bytes]] = []
        self._offset = 0

    @property
    def exists(self) -> bool:
        return self._file is not None

    def next(self) -> tuple[int, bytes]:
        """(offset in the file, the line with its end); an empty line at the end of the file."""
        if self._waiting:
            return self._waiting.pop()
        line = self._file.readline(self._limit) if self._file is not None else b""
        self._offset += len(line)
        return self._offset - len(line), line

    def matches(self, lines: bytes) -> bool:
        """Whether exactly these come next, and passes over them; True of a mirror that is not there."""
        if self._file is None:
            return True
        if self._waiting:
            return False
        if self._file.read(len(lines)) == lines:
            self._offset += len(lines)
            return True
        self._file.seek(self._offset)
        return False

    def put_back(self, offset: int, line: bytes) -> None:
        if line:
            self._waiting.append((offset, line))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
