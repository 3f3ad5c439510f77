"""A path -> the ledger in it: append entries, stream them back, prove that none was changed.

One SQLite file (WAL), which several processes may append to and any number may read meanwhile. Triggers refuse UPDATE,
DELETE and out-of-turn INSERT; the hash chain (see entry.py) shows what was done with the triggers taken off. Beside it
lie a mirror in JSON lines (mirror.py) and, at rest, a seal (seal.py); in it, sums by group (totals.py).
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from farthing.errors import DiskFull, FarthingError, LedgerError
from farthing.ledger.database import SCHEMA_VERSION, fetch, open_database, sqlite_errors, transaction
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
from farthing.ledger.mirror import Mirror, Row
from farthing.ledger.seal import break_seal, mirror_path, seal_path, write_seal
from farthing.ledger.totals import HEAD, Totals, add_sums

__all__ = ["PHASES", "SCHEMA_VERSION", "Entry", "EntryFields", "Ledger", "canonical_json", "utc_now"]

_PAGE_ROWS = 1000
_INSERT = f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM entries"
_UPSERT = "INSERT INTO totals (key, sums) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET sums = excluded.sums"


class Ledger:
    """The book of one run or project. Not shared between threads: open it once in each."""

    def __init__(self, path: Path, connection: sqlite3.Connection, read_only: bool) -> None:
        self.path = path
        self._db, self._read_only = connection, read_only
        self._mirror = Mirror(mirror_path(path))
        self._totals = Totals()
        """As in the book after our last append."""
        self._appended = self._mirror_is_behind = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Opens the book, and creates it unless `read_only`; LedgerError for any file that is not a ledger we know."""
        ledger = cls(path, open_database(path, read_only), read_only)
        if not read_only:
            try:
                ledger._catch_up()
            except BaseException:
                ledger._db.close()
                raise
        return ledger

    # writing ---------------------------------------------------------------------------------------------------------

    def append(self, **new: Unpack[EntryFields]) -> Entry:
        """Seals one entry; it is in the book for good when this returns."""
        return self.append_many([new])[0]

    def append_many(self, news: Iterable[EntryFields]) -> list[Entry]:
        """Seals all of them in one transaction, or none. DiskFull if there is no room; what was there stays."""
        entries: list[Entry] = []
        self._write(news, entries.append)
        return entries

    def append_stream(self, news: Iterable[EntryFields]) -> int:
        """As `append_many`, without keeping the entries in memory -> how many."""
        count = 0

        def counted(_: Entry) -> None:
            nonlocal count
            count += 1

        self._write(news, counted)
        return count

    def append_from(self, build: Callable[[], Iterable[EntryFields]]) -> list[Entry]:
        """As `append_many`; `build` reads the book under the write lock, so what it decides on cannot change meanwhile."""
        entries: list[Entry] = []

        def under_the_lock() -> Iterator[EntryFields]:
            yield from build()

        self._write(under_the_lock(), entries.append)
        return entries

    def _write(self, news: Iterable[EntryFields], keep: Callable[[Entry], object]) -> None:
        if self._mirror_is_behind:
            self._catch_up()
        with sqlite_errors(self.path), transaction(self._db):
            seq, last_hash = self.head()
            if self._totals.head != (seq, last_hash):  # another process wrote, or our last transaction was undone
                self._totals = self.totals()
            totals = Totals()
            pending: list[Row] = []
            for new in news:
                seq += 1
                entry = make_entry(new, seq, last_hash)
                last_hash = entry.hash
                totals.add(entry)
                keep(entry)
                pending.append(to_row(entry))
                if len(pending) == _PAGE_ROWS:
                    self._insert(pending)
                    pending.clear()
            if not totals.groups:
                return  # nothing to enter: the seal stays as it is
            self._insert(pending)
            self._add_totals(totals)
        self._appended = True
        try:
            self._catch_up()
        except FarthingError:
            # the entries are in the book for good: raising now would have them entered again. The next append says it.
            self._mirror_is_behind = True

    def _insert(self, rows: list[Row]) -> None:
        """Entries that are built already: what is refused must not cost a book its seal."""
        if not self._read_only:
            break_seal(self.path)
        self._db.executemany(_INSERT, rows)

    def _add_totals(self, new: Totals) -> None:
        if not new.groups:
            return
        for group, sums in new.groups.items():
            known = self._totals.groups.setdefault(group, {})
            add_sums(known, sums)
            self._db.execute(_UPSERT, (canonical_json(list(group)), canonical_json(known)))
        self._totals.head = new.head
        self._db.execute(_UPSERT, (HEAD, canonical_json(list(new.head))))

    def _catch_up(self) -> None:
        self._mirror.catch_up(self._rows)
        self._mirror_is_behind = False

    # reading ---------------------------------------------------------------------------------------------------------

    def entries(self, after: int = 0, where: str = "", values: tuple[int | str, ...] = ()) -> Iterator[Entry]:
        """Entries after seq `after` in order, a page at a time, so that a long book needs no more memory than a short one.

        `where` is an SQL condition on columns, with its `values`.
        """
        return map(from_row, self._rows(after, where, values))

    def events(self) -> list[Entry]:
        """All entries but the phases, which are most; found by their index."""
        with sqlite_errors(self.path):
            rows = self._db.execute(f"{_SELECT} WHERE kind <> 'phase' ORDER BY seq").fetchall()
        return [from_row(row) for row in rows]

    def mirror_end(self) -> int:
        """Number of the mirror's last whole entry, which the book must hold: lines are written after the commit."""
        return self._mirror.end()

    def totals(self) -> Totals:
        """The sums by group; LedgerError where they do not go up to the last entry."""
        with sqlite_errors(self.path):
            totals = Totals.from_rows(self._db.execute("SELECT key, sums FROM totals ORDER BY rowid"))
        if totals.head != self.head():
            raise LedgerError(
                f"the totals of {self.path} go up to entry {totals.head[0]}, the book to {self.head()[0]}: something else than "
                "farthing wrote to it. Look with `farthing audit`, or restore it from a copy."
            )
        return totals

    def head(self) -> tuple[int, str]:
        """(seq, hash) of the last entry; (0, 64 zeros) if there is none. Noted elsewhere, it shows a cut-off tail."""
        with sqlite_errors(self.path):
            last = self._db.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        return (0, GENESIS) if last is None else (last[0], last[1])

    def holds(self, seq: int, digest: str) -> bool:
        """Whether entry `seq` has this hash."""
        with sqlite_errors(self.path):
            found = self._db.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
        return found is not None and found[0] == digest

    def last_at(self, seqs: range) -> str:
        """When the last entry of `seqs` was written."""
        query = "SELECT at FROM entries WHERE seq >= ? AND seq < ? ORDER BY seq DESC LIMIT 1"
        with sqlite_errors(self.path):
            return str(self._db.execute(query, (seqs.start, seqs.stop)).fetchone()[0])

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment, whatever others append."""
        with sqlite_errors(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def verify(self) -> int:
        """Recomputes the whole chain and the totals; the number of entries, or LedgerError that names the first bad one."""
        count, last_hash = 0, GENESIS
        totals = Totals()
        with self.snapshot():
            for row in self._rows():
                count += 1
                last_hash = self._check(row, count, last_hash)
                totals.add(from_row(row))
            stored = self.totals()
        if stored.groups != totals.groups:
            different = next(g for g in totals.groups | stored.groups if totals.groups.get(g) != stored.groups.get(g))
            raise LedgerError(
                f"the totals of {self.path} are not what its entries sum to, at {list(different)}: the table was changed. "
                "Restore the file from a copy; the entries themselves stand."
            )
        return count

    def verify_tail(self, count: int) -> None:
        """The links of the last `count` entries; LedgerError that names the first bad one."""
        seq, _ = self.head()
        first = max(seq - count, 0) + 1
        rows = self._rows(first - 1)
        last_hash: str | None = GENESIS if first == 1 else None
        for number, row in enumerate(rows, start=first):
            last_hash = self._check(row, number, str(row[-2]) if last_hash is None else last_hash)

    def _check(self, row: Row, number: int, last_hash: str) -> str:
        stored = dict(zip(COLUMNS, row, strict=True))
        if stored["seq"] != number:
            raise LedgerError(_broken(self.path, number, f"it is missing; the next one is {stored['seq']}"))
        if stored["prev_hash"] != last_hash:
            raise LedgerError(_broken(self.path, number, "it does not follow from the entry before it"))
        if stored["hash"] != row_hash(row):
            raise LedgerError(_broken(self.path, number, "its columns do not give its hash"))
        return str(stored["hash"])

    def _rows(self, after: int = 0, where: str = "", values: tuple[int | str, ...] = ()) -> Iterator[Row]:
        # Pages, not one cursor: an open cursor would pin an old snapshot, and an append in between would be refused.
        condition = f" AND ({where})" if where else ""
        query = f"{_SELECT} WHERE seq > ?{condition} ORDER BY seq LIMIT {_PAGE_ROWS}"
        after = after or -(2**63)
        while True:
            with sqlite_errors(self.path):
                page: list[Row] = fetch(self._db, query, (after, *values))
            if not page:
                return
            after = int(page[-1][0])
            yield from page

    # closing ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the book; one that we appended to is sealed, unless another process has it open or the disk is full."""
        try:
            if self._appended:
                self._appended = False
                self._seal()
        finally:
            self._db.close()

    def _seal(self) -> None:
        try:
            with sqlite_errors(self.path):
                busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                wal = self.path.with_name(self.path.name + "-wal")
                if busy:
                    return
                with transaction(self._db):
                    if not wal.exists() or wal.stat().st_size == 0:
                        write_seal(self.path, self.head())
        except (DiskFull, LedgerError, OSError):
            # the entries are safe; a book without a seal says only less about its unused bytes
            seal_path(self.path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _broken(path: Path, seq: int, what: str) -> str:
    return (
        f"the chain of {path} breaks at entry {seq}: {what}. Entries before it stand; "
        "restore the file from a copy, or bill without this run."
    )
