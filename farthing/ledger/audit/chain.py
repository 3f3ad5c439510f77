"""Stored rows and mirror lines in -> the same entries out, each checked against its hash, its neighbours and its twin.

Every entry is there twice, and each copy proves itself by its hash, so that of two that differ one can be said to be right.
An entry that was damaged goes on in its right form, so that the checks behind this one still see whole books.
"""

import sqlite3
from collections.abc import Callable, Iterator

from farthing.ledger.audit.alike import Phases, split, to_row
from farthing.ledger.audit.locate import column_at, differing, nearest
from farthing.ledger.audit.reader import Lines
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import GENESIS, Row, from_json, is_well_typed, seal
from farthing.ledger.audit.template import Raw

_SEARCHES = 3
"""Damaged entries without a mirror line for which the changed byte is searched for; each takes about half a second."""


class Chain:
    """Follows one ledger from its first entry; `chain` and `mirror` are its two answers."""

    def __init__(self, lines: Lines, mirror_name: str) -> None:
        self.lines, self.mirror_name = lines, mirror_name
        self.chain = Check("chain", "Does every entry give its own hash, and follow from the one before it?")
        self.mirror = Check("mirror", "Is every line of the JSONL mirror the entry of the SQLite file?")
        self.count = 0
        self.head_hash = GENESIS
        self.mirror_behind = 0
        self.half_line = 0
        self._also: tuple[str, ...] = ()
        """Hashes that the next entry may name beside `head_hash`, because this one was damaged."""
        self._forked_at: int | None = None
        self._searches = 0
        self._error: Exception | None = None

    def follow(self, read: Callable[[int], Iterator[list[Raw]]]) -> Iterator[Phases | Row]:
        """Yields every entry once, as it should be where that can be told; `read` gives pages of the rows behind an entry."""
        yield from self._pages(self._readable(read(-(2**63))))
        while self._error is None and self._more_lines():
            before = self.count  # lines may have been written since the last row was read: are there more rows as well?
            yield from self._pages(self._readable(read(self.count)))
            if self.count == before:
                break
        if self._error is not None:
            self._cannot_read_on(self._error)
        yield from self._only_in_mirror()
        self._close()

    def _more_lines(self) -> bool:
        offset, line = self.lines.next()
        self.lines.put_back(offset, line)
        return bool(line)

    def _pages(self, pages: Iterator[list[Raw]]) -> Iterator[Phases | Row]:
        page = next(pages, None)
        while page is not None:
            parts = self._whole(page)
            if parts is not None:
                yield from parts
                page = next(pages, None)
                continue
            following = next(pages, None)
            yield from self._rows([to_row(raw) for raw in page], to_row(following[0]) if following else None)
            page = following

    def _whole(self, page: list[Raw]) -> list[Phases | Row] | None:
        """The page, if everything about it and its lines is as it should be."""
        count, head_hash, lines = self.count, self.head_hash, list[bytes]()
        try:
            parts = split(page)
            for part in parts:
                some = _line_of(part, count, head_hash) if isinstance(part, Row) else part.lines(count, head_hash)
                if some is None:
                    return None
                count += len(some)
                head_hash = part.hash
                lines += some
        except (ValueError, TypeError):  # a value that is not of its form, or half a character
            return None
        if not self.lines.matches(b"".join(lines)):
            return None
        self.count, self.head_hash, self._also = count, head_hash, ()
        return parts

    def _rows(self, rows: list[Row], behind: Row | None) -> Iterator[Row]:
        for row, following in zip(rows, [*rows[1:], behind], strict=True):
            digest, expected = seal(row)
            offset, line = self.lines.next()
            if digest == row.hash and row.prev_hash == self.head_hash and row.seq == self.count + 1 and line == expected:
                self.count += 1
                self.head_hash = digest
                self._also = ()
                yield row
            else:
                self.lines.put_back(offset, line)
                yield from self._unlike(row, following)

    def _readable(self, stored: Iterator[list[Raw]]) -> Iterator[list[Raw]]:
        try:
            yield from stored
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._error = error

    def _cannot_read_on(self, error: Exception) -> None:
        what = f"SQLite cannot read on after entry {self.count}: {error}"
        restore = f"{self.mirror_name} holds the entries as well; the checks below use it"
        self.chain.found(Finding(what, entry=self.count + 1, restore=restore))

    def _accept(self, row: Row, *also: str) -> None:
        self.count = row.seq
        self.head_hash = row.hash
        self._also = also

    @property
    def _last(self) -> set[str]:
        return {self.head_hash, *self._also}

    def _unlike(self, row: Row, following: Row | None) -> Iterator[Row]:
        """Something about this row, or its line, is not as it should be."""
        stored, found = row, False
        if row.seq != self.count + 1:
            here = row._replace(seq=self.count + 1)
            if seal(here)[0] == row.hash:
                self._broken(here.seq, ("seq",), f"it is numbered {row.seq}", "its hash gives the number back")
                row, found = here, True
            elif isinstance(row.seq, int) and row.seq > self.count + 1:
                yield from self._gap(row.seq)
                self._also += (row.prev_hash,)  # named as missing; what follows from them is not wrong as well
            else:
                self._broken(self.count + 1, (), f"an entry numbered {row.seq!r} stands in its place", None)
                return
        digest, _ = seal(row)
        if digest == row.hash and row.prev_hash in self._last:
            if not found:
                self._compare_line(row)
            else:
                self._twin(row.seq)
            self._accept(row)
            yield row
            return
        twin = self._twin(row.seq)
        best, columns, why = self._best(row, digest, twin, following)
        self._broken(row.seq, columns, *why)
        self._accept(best, stored.hash, digest)
        if is_well_typed(best):
            yield best

    def _best(
        self, row: Row, digest: str, twin: Row | None, following: Row | None
    ) -> tuple[Row, tuple[str, ...], tuple[str, str | None]]:
        """(the entry as it should be, the columns that are not, (what is wrong, which copy is right))."""
        if twin is not None and twin != row and twin.prev_hash in self._last:
            columns = differing(row, twin)
            values = "; ".join(f"{c} is {getattr(row, c)!r}, was {getattr(twin, c)!r}" for c in columns)
            return twin, columns, (values[:500], f"the line of {self.mirror_name} gives its hash: the mirror is right")
        for last in self._last:
            if seal(row._replace(prev_hash=last))[0] == row.hash:
                right = row._replace(prev_hash=last)
                if following is not None and following.prev_hash == row.hash and digest != row.hash:
                    return (
                        right,
                        ("prev_hash",),
                        ("it does not name the entry before it", "the hash of the entry before it is right"),
                    )
        if following is not None and following.prev_hash == digest and row.prev_hash in self._last:
            return (
                row._replace(hash=digest),
                ("hash",),
                ("its columns give another hash", "the next entry follows from its columns"),
            )
        if digest == row.hash:
            what = (
                "it gives its own hash but does not follow from the entry before it: entries were removed, put in or replaced"
            )
            return row, (), (what, None)
        if self._searches < _SEARCHES:
            self._searches += 1
            if (near := nearest(row)) is not None:
                columns = differing(row, near)
                values = "; ".join(f"{c} is {getattr(row, c)!r}, was {getattr(near, c)!r}" for c in columns)
                return near, columns, (values[:500], "with that one character changed back it gives its hash")
        return row, (), ("its columns do not give its hash; no single byte explains it, so the column cannot be told", None)

    def _broken(self, seq: int, columns: tuple[str, ...], what: str, restore: str | None) -> None:
        self.chain.found(Finding(what, entry=seq, columns=columns, restore=restore or "restore the file from a copy"))

    def _gap(self, before: int) -> Iterator[Row]:
        """Entries that the SQLite file lacks, from the mirror where it has them."""
        first = self.count + 1
        while self.count + 1 < before and (twin := self._twin(self.count + 1)) is not None and twin.prev_hash in self._last:
            self._accept(twin)
            yield twin
        had = self.count + 1 - first
        restore = f"{self.mirror_name} has {had} of them" if had else "restore the file from a copy"
        which = f"entries {first} to {before - 1} are missing" if before - 1 > first else f"entry {first} is missing"
        self._broken(first, (), which, restore)

    def _twin(self, seq: int) -> Row | None:
        """The mirror's own entry `seq`, taken from the lines; None where its line is not there or not whole."""
        while True:
            offset, line = self.lines.next()
            if not line:
                return None
            twin = from_json(line)
            if twin is not None and seal(twin)[0] == twin.hash and twin.seq == seq:
                return twin
            if twin is None or twin.seq > seq:
                if twin is not None:
                    self.lines.put_back(offset, line)
                self._line(seq, offset, len(line), "its line cannot be read" if twin is None else "its line is missing", None)
                return None
            self._line(seq, offset, len(line), f"a line of entry {twin.seq} where entry {seq} belongs", "take the line out")

    def _compare_line(self, row: Row) -> None:
        """The row is right, so its line is what differs."""
        _, expected = seal(row)
        offset, line = self.lines.next()
        twin = from_json(line)
        whole = twin is not None and seal(twin)[0] == twin.hash
        if line == expected:
            return
        if not line:
            self.mirror_behind += 1
        elif whole and twin is not None and twin.seq != row.seq:
            if twin.seq > row.seq:
                self.lines.put_back(offset, line)
                self._line(row.seq, offset, 0, "its line is missing", "put it in from the SQLite file")
            else:
                self._line(
                    row.seq, offset, len(line), f"a line of entry {twin.seq} where entry {row.seq} belongs", "take it out"
                )
                self._compare_line(row)
        elif whole and twin is not None:
            self._fork(row, twin)
        elif len(line) > len(expected) and line.startswith(expected[:-1]):
            at = offset + len(expected) - 1
            self._line(
                row.seq, at, 1, f"the end of the line is {line[len(expected) - 1 : len(expected)]!r}, was b'\\n'", _ROW_IS_RIGHT
            )
            self.lines.put_back(offset + len(expected), line[len(expected) :])
        else:
            self._changed_line(row, expected, offset, line)

    def _changed_line(self, row: Row, expected: bytes, offset: int, line: bytes) -> None:
        while len(line) < len(expected):  # a changed byte may have cut the line in two
            next_offset, more = self.lines.next()
            if not more or from_json(more) is not None:
                self.lines.put_back(next_offset, more)
                break
            line += more
        if len(line) < len(expected) and expected.startswith(line):
            self.half_line = len(line)
            return
        wrong = [i for i, (a, b) in enumerate(zip(line, expected, strict=False)) if a != b]
        first, last = (wrong[0], wrong[-1]) if wrong else (min(len(line), len(expected)) - 1,) * 2
        if len(line) != len(expected):
            last = len(line) - 1
        what = f"{line[first : last + 1]!r}, was {expected[first : last + 1]!r}"[:300]
        self._line(row.seq, offset + first, last + 1 - first, what, _ROW_IS_RIGHT, column_at(row, first))

    def _fork(self, row: Row, twin: Row) -> None:
        if self._forked_at is not None:
            self.mirror.num_findings += 1
            return
        self._forked_at = row.seq
        columns = differing(row, twin)
        self.mirror.found(
            Finding(
                "from here on the SQLite file and the mirror are two different books, each with a whole chain: one was "
                "changed and all its hashes were made anew",
                entry=row.seq,
                columns=columns,
                restore="no hash inside tells which is the forgery; a head noted elsewhere (--head) or a signature does",
            )
        )

    def _line(self, seq: int, offset: int, length: int, what: str, restore: str | None, column: str | None = None) -> None:
        columns = (column,) if column else ()
        self.mirror.found(Finding(what, seq, columns, self.mirror_name, offset, length or None, restore))

    def _only_in_mirror(self) -> Iterator[Row]:
        """Lines behind the last row that SQLite gave."""
        first, num = self.count + 1, 0
        while True:
            offset, line = self.lines.next()
            if not line:
                break
            twin = from_json(line)
            if twin is not None and twin.prev_hash in self._last and twin.seq == self.count + 1 and seal(twin)[0] == twin.hash:
                num += 1
                self._accept(twin)
                yield twin
            elif self._forked_at is None:
                what = "bytes behind the last entry" if twin is None else f"a line of entry {twin.seq} behind the last entry"
                self._line(self.count, offset, len(line), what, "take it out")
        if num:
            what = f"{num} entries, {first} to {self.count}, are in the mirror but cannot be had from the SQLite file"
            self.chain.found(
                Finding(what, entry=first, restore=f"{self.mirror_name} is right: it follows from the entries before")
            )

    def _close(self) -> None:
        self.chain.evidence = f"{self.count} entries, head {self.head_hash}"
        if not self.lines.exists:
            self.mirror.not_checkable = f"there is no {self.mirror_name}; the next process that writes the ledger makes it anew"
            return
        self.mirror.evidence = f"{self.count - self.mirror_behind} lines, byte for byte the entries"
        if self.mirror_behind or self.half_line:
            half = f", and {self.half_line} bytes of a line that was not finished" if self.half_line else ""
            behind = self.mirror_behind + bool(self.half_line)
            self.mirror.not_checkable = (
                f"the last {behind} entries have no whole line yet{half}: a process died there, or is writing now; "
                "the next one that opens the ledger for writing fills them in from the SQLite file"
            )


def _line_of(row: Row, count: int, head_hash: str) -> list[bytes] | None:
    digest, line = seal(row)
    is_right = is_well_typed(row) and digest == row.hash and row.prev_hash == head_hash and row.seq == count + 1
    return [line] if is_right else None


_ROW_IS_RIGHT = "the SQLite file is right: its entry gives its hash"
