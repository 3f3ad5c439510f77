"""A damaged entry, or a damaged byte of a file -> the column, the page and the bytes it is about."""

import hashlib
import json
from pathlib import Path

from farthing.ledger.audit.pages import HEADER_BYTES, Malformed, Pages, cells, header_field, layout
from farthing.ledger.audit.schema import COLUMNS, STORED_ORDER, Row, seal

_PRINTABLE = bytes(range(0x20, 0x7F))


def differing(row: Row, other: Row) -> tuple[str, ...]:
    """The columns in which two entries differ."""
    return tuple(name for name in COLUMNS if getattr(row, name) != getattr(other, name))


def column_at(row: Row, index: int) -> str | None:
    """The column whose name or value holds byte `index` of the row's mirror line."""
    end = 1
    for name, value in zip(COLUMNS, row, strict=True):
        end += len(json.dumps(name)) + 1 + len(json.dumps(value)) + 1
        if index < end:
            return name
    return None


def nearest(row: Row) -> Row | None:
    """The one entry that gives the row's hash and differs from it in a single byte of a column, or None."""
    return _nearest_text(row) or _nearest_integer(row)


def _nearest_text(row: Row) -> Row | None:
    try:
        fields = row._asdict()
        del fields["hash"]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    except TypeError:
        return None
    for index in range(len(text)):
        prefix = hashlib.sha256(text[:index])
        rest = text[index + 1 :]
        for byte in _PRINTABLE:
            digest = prefix.copy()
            digest.update(bytes([byte]) + rest)
            if digest.hexdigest() == row.hash:
                try:
                    return Row(**json.loads(text[:index] + bytes([byte]) + rest), hash=row.hash)
                except (ValueError, TypeError):
                    return None
    return None


def _nearest_integer(row: Row) -> Row | None:
    for name in COLUMNS:
        value = getattr(row, name)
        if not isinstance(value, int):
            continue
        for shift in range(0, 64, 8):
            for change in range(1, 256):
                stored = (value & (2**64 - 1)) ^ change << shift
                changed = {**row._asdict(), name: stored - 2**64 if stored >> 63 else stored}
                candidate = Row(**changed)
                if seal(candidate)[0] == row.hash:
                    return candidate
    return None


def place_of_byte(path: Path, offset: int, was: int | None) -> tuple[int | None, str | None, str]:
    """(entry, column, description) of a byte of an SQLite file, seen with the byte `was` put back."""
    try:
        with path.open("rb") as file:
            return _place(Pages(file, {} if was is None else {offset: was}), offset)
    except (Malformed, KeyError) as error:
        return None, None, f"the file cannot be followed that far: {error}"


def bytes_of_entry(path: Path, seq: int, column: str | None) -> tuple[int, int] | None:
    """(offset, length) of an entry, or of one of its columns, in the SQLite file; None where it cannot be found."""
    try:
        with path.open("rb") as file:
            pages = Pages(file)
            for number, _, cell in pages.rows(pages.roots()["entries"]):
                if cell.rowid != seq:
                    continue
                base = (number - 1) * pages.page_bytes
                if column in STORED_ORDER[1:]:
                    _, start, end = layout(cell.payload)[STORED_ORDER.index(column)]
                    return base + cell.payload_start + start, end - start
                return base + cell.start, cell.end - cell.start
    except (Malformed, KeyError, IndexError):
        pass
    return None


def _place(pages: Pages, offset: int) -> tuple[int | None, str | None, str]:
    if offset < HEADER_BYTES:
        return None, None, f"the file header, {header_field(offset)}"
    number, within = offset // pages.page_bytes + 1, offset % pages.page_bytes
    page = pages.page(number)
    for table, root in {"sqlite_schema": 1, **pages.roots()}.items():
        if page[HEADER_BYTES if number == 1 else 0] == 0x0D and any(leaf == number for leaf, _ in pages.leaves(root)):
            return _in_leaf(page, number, within, table)
    kinds = {0x0D: "a table page", 0x05: "an inner page of a table", 0x0A: "an index page", 0x02: "an inner page of an index"}
    at = HEADER_BYTES if number == 1 else 0
    if page[at] in kinds:
        return None, None, f"page {number}, {kinds[page[at]]}"
    return _in_overflow(pages, number), None, f"page {number}, which a long row goes on on"


def _in_leaf(page: bytes, number: int, within: int, table: str) -> tuple[int | None, str | None, str]:
    rows = cells(page, number)
    cell = next((cell for cell in rows if cell.start <= within < cell.end), None)
    if cell is None:
        at = HEADER_BYTES if number == 1 else 0
        where = "the page header and cell pointers" if within < at + 8 + 2 * len(rows) else "unused space"
        return None, None, f"page {number} of table {table}, {where}"
    if table != "entries":
        return None, None, f"page {number} of table {table}, row {cell.rowid}"
    spans = layout(cell.payload) if not cell.overflow_page else []
    index = within - cell.payload_start
    column = next((STORED_ORDER[i] for i, (_, start, end) in enumerate(spans) if start <= index < end), None)
    return cell.rowid, column, f"page {number} of table {table}" + ("" if column else ", the header of the row")


def _in_overflow(pages: Pages, number: int) -> int | None:
    """The entry that goes on on page `number`."""
    for _, _, cell in pages.rows(pages.roots()["entries"]):
        if cell.overflow_page and number in {page for page, _ in pages.overflow(cell)}:
            return cell.rowid
    return None
