"""The bytes of an SQLite file -> which entry and column, or which part of the file, a byte belongs to; and stray bytes.

Reads the file format itself (sqlite.org/fileformat2.html), as far as a ledger needs it: tables by rowid, indices,
overflow pages, no auto-vacuum. SQLite never shows the bytes that carry no value; an audit has to see those too.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

HEADER_BYTES = 100
_HEADER = (
    (0, 16, "magic string"), (16, 2, "page size"), (18, 1, "write version"), (19, 1, "read version"),
    (20, 1, "reserved space"), (21, 3, "payload fractions"), (24, 4, "file change counter"), (28, 4, "size in pages"),
    (32, 4, "first freelist page"), (36, 4, "number of freelist pages"), (40, 4, "schema cookie"),
    (44, 4, "schema format"), (48, 4, "default cache size"), (52, 4, "largest root page"), (56, 4, "text encoding"),
    (60, 4, "user version"), (64, 4, "incremental vacuum"), (68, 4, "application id"), (72, 20, "reserved, zero"),
    (92, 4, "version-valid-for"), (96, 4, "SQLite version that wrote it"),
)  # fmt: skip
_LEAF, _INTERIOR, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x05, 0x0A, 0x02
_INT_BYTES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
"""Bytes of a value by its serial type, up to 9; then 12 + 2n is a blob and 13 + 2n a text of n bytes."""


class Malformed(Exception):
    """The file is not built as the format says; the message says where."""


@dataclass(frozen=True)
class Cell:
    """One row on its leaf page. `start` and `end` are offsets within the page."""

    rowid: int
    """0 in an index."""
    start: int
    end: int
    payload: bytes
    payload_start: int
    overflow_page: int
    payload_bytes: int


@dataclass(frozen=True)
class Log:
    """The write-ahead log over a file: where it holds a page, that form counts."""

    file: BinaryIO
    pages: dict[int, int]
    num_pages: int


class Pages:
    """Pages of one file, from 1; `patch` maps file offsets to bytes that are to be seen instead of what is there."""

    def __init__(self, file: BinaryIO, patch: dict[int, int] | None = None, log: Log | None = None) -> None:
        self._file, self._patch, self._log = file, patch or {}, log
        header = self._read(0, HEADER_BYTES)
        if log is not None and 1 in log.pages:
            log.file.seek(log.pages[1])
            header = log.file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or header[:16] != b"SQLite format 3\0":
            raise Malformed("the file does not begin with the header of an SQLite file")
        size = struct.unpack(">H", header[16:18])[0]
        self.page_bytes = 65536 if size == 1 else size
        if self.page_bytes < 512 or self.page_bytes & (self.page_bytes - 1):
            raise Malformed(f"the header gives a page size of {self.page_bytes}")
        self.header = header
        self.num_bytes = file.seek(0, 2)
        if log is not None and log.num_pages:
            self.num_bytes = log.num_pages * self.page_bytes
        self.num_pages = self.num_bytes // self.page_bytes

    def page(self, number: int) -> bytes:
        """The page's bytes; Malformed if the file has no such page."""
        if not 1 <= number <= self.num_pages:
            raise Malformed(f"page {number} is named, but the file has {self.num_pages} pages")
        if self._log is not None and number in self._log.pages:
            self._log.file.seek(self._log.pages[number])
            return self._log.file.read(self.page_bytes)
        return self._read((number - 1) * self.page_bytes, self.page_bytes)

    def roots(self, kind: bytes = b"table") -> dict[str, int]:
        """Table (or index) -> its root page, from the schema table on page 1."""
        found = {}
        for _, _, cell in self.rows(1):
            stored, name, _, root, _ = self.values(cell)
            if stored == kind and isinstance(root, int) and isinstance(name, bytes):
                found[name.decode("utf-8", "replace")] = root
        return found

    def rows(self, root: int) -> Iterator[tuple[int, bytes, Cell]]:
        """(page number, page, cell) of every row of a table, in order."""
        for number, page in self.leaves(root):
            for cell in cells(page, number):
                yield number, page, cell

    def leaves(self, root: int) -> Iterator[tuple[int, bytes]]:
        """The leaf pages of a table, in order; Malformed where a page is no page of a table, or is met twice."""
        stack, seen = [root], set()
        while stack:
            number = stack.pop()
            if number in seen:
                raise Malformed(f"page {number} is part of its table twice")
            seen.add(number)
            page = self.page(number)
            if page[_at(number)] == _LEAF:
                yield number, page
            else:
                stack += [child for child, _ in reversed(children(page, number))]

    def values(self, cell: Cell) -> list[int | bytes | None]:
        """The row's values as they are stored; text stays bytes, a float is not told from its eight bytes."""
        payload = cell.payload + b"".join(part for _, part in self.overflow(cell))
        return [_value(payload[start:end], kind) for kind, start, end in layout(payload)]

    def overflow(self, cell: Cell) -> Iterator[tuple[int, bytes]]:
        """(page number, bytes) of what of a row did not fit on its leaf page."""
        left, number, seen = cell.payload_bytes - len(cell.payload), cell.overflow_page, set()
        while left > 0:
            if number in seen:
                raise Malformed(f"the overflow pages of row {cell.rowid} go in a circle")
            seen.add(number)
            page = self.page(number)
            part = page[4 : 4 + left]
            yield number, part
            left -= len(part)
            number = int.from_bytes(page[:4], "big")

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(length)
        hit = [o for o in self._patch if offset <= o < offset + len(data)]
        if not hit:
            return data
        changed = bytearray(data)
        for o in hit:
            changed[o - offset] = self._patch[o]
        return bytes(changed)


def cells(page: bytes, number: int) -> list[Cell]:
    """The rows of a leaf page, in the order of its cell pointers."""
    return [_leaf_cell(page, number, start) for start in _pointers(page, number, 8)]


def children(page: bytes, number: int) -> list[tuple[int, int | None]]:
    """(child page, largest rowid below it) of an interior page; None for the right-most child."""
    at = _at(number)
    if page[at] != _INTERIOR:
        raise Malformed(f"page {number} has type {page[at]:#x}, which is no page of a table")
    found: list[tuple[int, int | None]] = []
    for start in _pointers(page, number, 12):
        key, _ = _varint(page, start + 4)
        found.append((int.from_bytes(page[start : start + 4], "big"), key))
    return [*found, (int.from_bytes(page[at + 8 : at + 12], "big"), None)]


def layout(payload: bytes) -> list[tuple[int, int, int]]:
    """(serial type, start, end) of every value in a record."""
    header_end, position = _varint(payload, 0)
    kinds = []
    while position < header_end:
        kind, position = _varint(payload, position)
        kinds.append(kind)
    spans, start = [], header_end
    for kind in kinds:
        end = start + (_INT_BYTES[kind] if kind < 10 else (kind - 12) // 2)
        if kind in (10, 11) or end > len(payload):
            raise Malformed("a record says that it is longer than it is")
        spans.append((kind, start, end))
        start = end
    return spans


def header_field(offset: int) -> str:
    """The name of the field of the file header that `offset`, below 100, lies in."""
    return next(name for start, length, name in _HEADER if start <= offset < start + length)


def _at(number: int) -> int:
    return HEADER_BYTES if number == 1 else 0


def _pointers(page: bytes, number: int, header_bytes: int) -> list[int]:
    at = _at(number)
    count = int.from_bytes(page[at + 3 : at + 5], "big")
    first = at + header_bytes
    if first + 2 * count > len(page):
        raise Malformed(f"page {number} says that it has {count} cells, which do not fit")
    starts = list(struct.unpack_from(f">{count}H", page, first))
    if any(not first + 2 * count <= start < len(page) for start in starts):
        raise Malformed(f"page {number} has a cell pointer that points outside its cells")
    return starts


def index_cells(page: bytes, number: int) -> tuple[list[Cell], list[int]]:
    """(the keys on a page of an index, its child pages: none for a leaf)."""
    at = _at(number)
    if page[at] not in (_INDEX_LEAF, _INDEX_INTERIOR):
        raise Malformed(f"page {number} has type {page[at]:#x}, which is no page of an index")
    inner = page[at] == _INDEX_INTERIOR
    found, below = [], []
    for start in _pointers(page, number, 12 if inner else 8):
        size, position = _varint(page, start + 4 * inner)
        found.append(_cell(page, number, 0, start, position, size, (len(page) - 12) * 64 // 255 - 23))
        if inner:
            below.append(int.from_bytes(page[start : start + 4], "big"))
    return found, [*below, int.from_bytes(page[at + 8 : at + 12], "big")] if inner else []


def _leaf_cell(page: bytes, number: int, start: int) -> Cell:
    size, position = _varint(page, start)
    rowid, position = _varint(page, position)
    if rowid >= 2**63:
        rowid -= 2**64
    return _cell(page, number, rowid, start, position, size, len(page) - 35)


def _cell(page: bytes, number: int, rowid: int, start: int, position: int, size: int, largest: int) -> Cell:
    """`largest`: bytes of a payload that stay on the page at most."""
    local = size
    if size > largest:
        least = (len(page) - 12) * 32 // 255 - 23
        kept = least + (size - least) % (len(page) - 4)
        local = kept if kept <= largest else least
    end = position + local
    overflow = int.from_bytes(page[end : end + 4], "big") if local < size else 0
    if end + 4 * (local < size) > len(page):
        raise Malformed(f"page {number} has a cell at {start} that runs over its end")
    return Cell(rowid, start, end + 4 * (local < size), page[position:end], position, overflow, size)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    try:
        for _ in range(8):
            byte = data[position]
            position += 1
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value, position
        return value << 8 | data[position], position + 1
    except IndexError:
        raise Malformed("a number runs over the end of its page") from None


def _value(data: bytes, kind: int) -> int | bytes | None:
    if kind == 0:
        return None
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(data, "big", signed=True) if kind < 7 else data
