"""The pages of a ledger's SQLite file -> every byte that the format does not account for, and every link that is wrong.

For ledgers without a seal: SQLite itself never looks at these bytes. Entries are only appended and unused space is written
as zeros (secure_delete), so the pages of the entries leave no byte unexplained. Totals and indices are written over: between
their rows SQLite leaves remains of free blocks, and only a seal can vouch for those.
"""

from collections.abc import Iterator

from farthing.ledger.audit.pages import HEADER_BYTES, Cell, Malformed, Pages, cells, children, index_cells, layout

Stray = tuple[int, int, str]
"""(offset in the file, length, what is wrong)."""

_FIXED = (
    (20, b"\0", "reserved space"), (21, b"\x40\x20\x20", "payload fractions"), (32, bytes(8), "freelist"),
    (40, b"\0\0\0\x06", "schema cookie"),
    (44, b"\0\0\0\x04", "schema format"), (48, bytes(8), "cache size and auto-vacuum"), (56, b"\0\0\0\x01", "text encoding"),
    (64, bytes(4), "incremental vacuum"), (72, bytes(20), "reserved, zero"),
)  # fmt: skip


def stray_bytes(pages: Pages, num_entries: int, remains: list[Stray]) -> Iterator[Stray]:
    """Yields what is wrong, in no order; into `remains` goes what SQLite may have left behind, or a changed byte.

    Memory grows with the number of pages only.
    """
    yield from _file_header(pages)
    seen = {1}
    try:
        roots = pages.roots()
        yield from _table(pages, 1, seen, "the schema", None, remains)
        for table, root in roots.items():
            yield from _table(pages, root, seen, table, num_entries if table == "entries" else None, remains)
        for index, root in pages.roots(b"index").items():
            yield from _index(pages, root, seen, index, remains)
    except Malformed as error:
        yield 0, pages.num_bytes, f"the pages do not hang together: {error}"
        return
    for number in range(1, pages.num_pages + 1):
        if number not in seen:
            yield (number - 1) * pages.page_bytes, pages.page_bytes, f"page {number} belongs to no table"


def _file_header(pages: Pages) -> Iterator[Stray]:
    header = pages.header
    for offset, value, name in _FIXED:
        if header[offset : offset + len(value)] != value:
            yield offset, len(value), f"file header, {name}: {header[offset : offset + len(value)].hex()}, not {value.hex()}"
    if header[18:20] not in (b"\1\1", b"\2\2"):
        yield 18, 2, f"file header, write and read version: {header[18:20].hex()}, not 0101 or 0202"
    if header[24:28] != header[92:96]:
        yield 24, 4, "file header: the change counter and version-valid-for differ; one of the two was changed"
    major, rest = divmod(int.from_bytes(header[96:100], "big"), 1_000_000)
    if major != 3 or rest // 1000 >= 100 or rest % 1000 >= 100:
        yield 96, 4, f"file header: SQLite {major}.{rest // 1000}.{rest % 1000} is no release that could have written it"
    if pages.num_bytes % pages.page_bytes:
        yield pages.num_pages * pages.page_bytes, pages.num_bytes % pages.page_bytes, "half a page at the end of the file"
    if (named := int.from_bytes(header[28:32], "big")) != pages.num_pages:
        yield 28, 4, f"file header: {named} pages, but the file has {pages.num_pages}"


def _table(pages: Pages, root: int, seen: set[int], name: str, num_rows: int | None, remains: list[Stray]) -> Iterator[Stray]:
    last = 0
    todo: list[tuple[int, int | None]] = [(root, None)]
    while todo:
        number, largest = todo.pop()
        if number in seen and number != 1:
            raise Malformed(f"page {number} is used twice")
        seen.add(number)
        page, base = pages.page(number), (number - 1) * pages.page_bytes
        at = HEADER_BYTES if number == 1 else 0
        where = f"page {number} of {name}"
        if page[at] == 0x05:
            below = children(page, number)
            # the bounds of a subtree: its own keys, and for the last child the key of the parent
            todo += [(child, key if key is not None else largest) for child, key in reversed(below)]
            spans = [_interior_span(page, start) for start in _pointer_list(page, at, 12)]
            yield from _unused(page, base, at, at + 12 + 2 * len(spans), spans, where, remains)
            continue
        rows = cells(page, number)
        for cell in rows:
            if cell.rowid <= last or (num_rows is not None and cell.rowid != last + 1):
                yield base + cell.start, cell.end - cell.start, f"{where}: row {cell.rowid} follows row {last}"
            last = cell.rowid
            yield from _row(pages, base, cell, seen, where)
        if largest is not None and rows and rows[-1].rowid != largest:
            yield base, pages.page_bytes, f"{where} ends with row {rows[-1].rowid}, but the page above says {largest}"
        yield from _unused(page, base, at, at + 8 + 2 * len(rows), [(c.start, c.end) for c in rows], where, remains)
    if num_rows is not None and last != num_rows:
        yield 0, pages.num_bytes, f"{name} has {last} rows on its pages and {num_rows} when it is asked"


def _index(pages: Pages, root: int, seen: set[int], name: str, remains: list[Stray]) -> Iterator[Stray]:
    todo = [root]
    while todo:
        number = todo.pop()
        if number in seen:
            raise Malformed(f"page {number} is used twice")
        seen.add(number)
        page, base, where = pages.page(number), (number - 1) * pages.page_bytes, f"page {number} of {name}"
        keys, below = index_cells(page, number)
        todo += below
        for cell in keys:
            yield from _row(pages, base, cell, seen, where)
        spans = [(cell.start, cell.end) for cell in keys]
        yield from _unused(page, base, 0, (12 if below else 8) + 2 * len(keys), spans, where, remains)


def _row(pages: Pages, base: int, cell: Cell, seen: set[int], where: str) -> Iterator[Stray]:
    payload = cell.payload
    for number, part in pages.overflow(cell):
        if number in seen:
            raise Malformed(f"page {number} is used twice")
        seen.add(number)
        page = pages.page(number)
        payload += part
        if len(part) < len(page) - 4 and (any(page[4 + len(part) :]) or any(page[:4])):
            yield (
                (number - 1) * pages.page_bytes,
                len(page),
                f"overflow page {number}: bytes behind the end of row {cell.rowid}",
            )
    spans = layout(payload)
    if where.endswith("entries") and spans and spans[0][0] != 0:
        yield base + cell.start, cell.end - cell.start, f"{where}: the place of seq in row {cell.rowid} is not empty"
    if spans and spans[-1][2] != len(payload):
        yield base + cell.start, cell.end - cell.start, f"{where}: row {cell.rowid} has bytes behind its last column"


def _unused(
    page: bytes, base: int, at: int, pointers_end: int, spans: list[tuple[int, int]], where: str, remains: list[Stray]
) -> Iterator[Stray]:
    """Between pointers and cells, between cells, and on the page's list of free blocks: all of it zero."""
    is_appended = where.endswith((" of entries", " of the schema"))
    content = int.from_bytes(page[at + 5 : at + 7], "big") or 65536
    free = _free_blocks(page, at)
    ends = sorted([*spans, *free])
    if content != (ends[0][0] if ends else len(page)):
        yield base + at + 5, 2, f"{where}: the start of its cells is given as {content}"
    gaps, position = 0, content
    for start, end in ends:
        if start < position:
            yield base + start, end - start, f"{where}: two cells overlap"
        gaps += max(0, start - position)
        if is_appended:
            yield from _zero(page, base, position, start, where)
        position = max(position, end)
    gaps += len(page) - position
    if gaps != page[at + 7]:
        yield base + at + 7, 1, f"{where}: {gaps} stray bytes between its cells, but it counts {page[at + 7]}"
    if not is_appended:
        remains += _zero(page, base, pointers_end, content, where)
        return
    yield from _zero(page, base, pointers_end, content, where)
    yield from _zero(page, base, position, len(page), where)
    for start, end in free:
        yield from _zero(page, base, start + 4, end, where)


def _zero(page: bytes, base: int, start: int, end: int, where: str) -> Iterator[Stray]:
    part = page[start:end]
    if part.strip(b"\0"):
        first = next(i for i, byte in enumerate(part) if byte)
        length = len(part.rstrip(b"\0")) - first
        yield base + start + first, length, f"{where}: {length} byte(s) in unused space are not zero"


def _free_blocks(page: bytes, at: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    start = int.from_bytes(page[at + 1 : at + 3], "big")
    while start:
        if start + 4 > len(page) or (found and start <= found[-1][0]):
            raise Malformed(f"a free block at {start} cannot be")
        found.append((start, start + int.from_bytes(page[start + 2 : start + 4], "big")))
        start = int.from_bytes(page[start : start + 2], "big")
    return found


def _pointer_list(page: bytes, at: int, header_bytes: int) -> list[int]:
    count = int.from_bytes(page[at + 3 : at + 5], "big")
    first = at + header_bytes
    return [int.from_bytes(page[first + 2 * i : first + 2 * i + 2], "big") for i in range(count)]


def _interior_span(page: bytes, start: int) -> tuple[int, int]:
    end = start + 4
    while page[end] & 0x80:
        end += 1
    return start, end + 1
