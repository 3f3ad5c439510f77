"""A book's rows -> the same rows as JSON lines beside it: readable without SQLite, and always a prefix of the book.

Lines are written after the commit, under a file lock. What a kill or a full disk left out or cut in half is filled in
from the book by the next writer.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from farthing.errors import LedgerError, disk_error
from farthing.ledger.entry import row_line

Row = tuple[int | str, ...]
RowsAfter = Callable[[int], Iterable[Row]]
"""seq -> the book's rows after it, in order."""
_TAIL_BYTES = 1 << 20


class Mirror:
    """The JSONL file of one book. `size` is how long it was when we last looked: unchanged, it needs no reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size, self._last = -1, (0, "")

    def catch_up(self, rows_after: RowsAfter) -> None:
        """Appends the rows that are missing; DiskFull without room, LedgerError where the file tells another story."""
        try:
            with self.path.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                seq, digest = self._end_of(file)
                for row in rows_after(0) if seq == 0 else self._following(rows_after, seq, digest):
                    file.write(row_line(row))
                    seq, digest = int(row[0]), str(row[-1])
                file.flush()
                self._size, self._last = os.fstat(file.fileno()).st_size, (seq, digest)
        except OSError as error:
            self._size = -1
            raise disk_error(self.path, error) from error

    def end(self) -> int:
        """Number of the last whole entry, 0 without one; changes nothing."""
        if not self.path.is_file():
            return 0
        with self.path.open("rb") as file:
            whole, newline, _ = _tail(file, file.seek(0, os.SEEK_END))
        return self._read(whole.rpartition(b"\n")[2])[0] if newline else 0

    def _following(self, rows_after: RowsAfter, seq: int, digest: str) -> Iterator[Row]:
        """The rows after `seq`, once the book has shown that it holds that very entry."""
        rows = iter(rows_after(seq - 1))
        last = next(rows, None)
        if last is None or last[-1] != digest:
            raise LedgerError(
                f"{self.path} ends with entry {seq} ({digest[:16]}...), which the ledger beside it "
                f"{'does not hold' if last is None else 'has otherwise'}: one of the two was replaced or cut. Put the right "
                "pair back; if the ledger is the right one, move the .jsonl away and it is written anew."
            )
        return rows

    def _end_of(self, file: IO[bytes]) -> tuple[int, str]:
        """(seq, hash) of the last whole line; half a line after it is cut off."""
        size = file.seek(0, os.SEEK_END)
        if size == self._size:
            return self._last
        whole, newline, half = _tail(file, size)
        if half:
            file.truncate(size - len(half))
        if not newline:
            return 0, ""
        return self._read(whole.rpartition(b"\n")[2])

    def _read(self, line: bytes) -> tuple[int, str]:
        try:
            row = json.loads(line)
            return int(row["seq"]), str(row["hash"])
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{self.path} has a last line that is no entry ({error}): {line[:60]!r}. "
                "Move the file away; it is written anew."
            ) from error


def _tail(file: IO[bytes], size: int) -> tuple[bytes, bytes, bytes]:
    """Of a file so long: (its end up to the last line break, the break, half a line after it); at least one whole line."""
    tail, start = b"", size
    while start > 0 and tail.count(b"\n") < 2:
        start = max(0, start - _TAIL_BYTES)
        file.seek(start)
        tail = file.read(size - start)
    return tail.rpartition(b"\n")
