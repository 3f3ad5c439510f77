"""SQLite's write-ahead log beside a ledger -> whether every committed frame is as it was written.

SQLite trusts a log up to the first frame whose sum does not match and drops what follows without a word. Each frame
carries the running sum of all frames before it (sqlite.org/fileformat2.html, section 4), so that the frame at fault is known:
the next ones still follow from the sum that it stored.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_HEADER_BYTES = 32
_FRAME_BYTES = 24
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}


@dataclass
class WalReport:
    """What the log holds; offsets are of the log file."""

    num_frames: int = 0
    """Frames that follow from the first one, in this writing of the log."""
    stale_bytes: int = 0
    """Behind them: remains of earlier writings, which SQLite never reads."""
    pages: dict[int, int] = field(default_factory=dict)
    """Page -> offset in the log of its newest committed form."""
    num_pages: int = 0
    """Of the database after the last commit."""
    problems: list[tuple[int, int, str]] = field(default_factory=list)
    """(offset, length, what is wrong)."""


def check_wal(path: Path) -> WalReport:
    """Follows the sums through the log at `path`; a log that is absent or empty has no frames and no problems."""
    report = WalReport()
    if not path.is_file() or path.stat().st_size == 0:
        return report
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        order = _MAGIC.get(int.from_bytes(header[:4], "big"))
        if len(header) < _HEADER_BYTES or order is None:
            report.problems.append((0, _HEADER_BYTES, "its first four bytes are no mark of a write-ahead log"))
            return report
        page_bytes = int.from_bytes(header[8:12], "big")
        if _sum(header[:24], (0, 0), order) != struct.unpack(">II", header[24:32]):
            report.problems.append((0, _HEADER_BYTES, "its header does not match its sum, so SQLite reads none of it"))
            return report
        _follow(file.read, page_bytes, order, header, report)
    return report


def _follow(read: Callable[[int], bytes], page_bytes: int, order: str, header: bytes, report: WalReport) -> None:
    salts, running = header[16:24], struct.unpack(">II", header[24:32])
    offset, broken, is_stale = _HEADER_BYTES, False, False
    uncommitted: dict[int, int] = {}
    while len(frame := read(_FRAME_BYTES + page_bytes)) == _FRAME_BYTES + page_bytes:
        stored = struct.unpack(">II", frame[16:24])
        follows = _sum(frame[_FRAME_BYTES:], _sum(frame[:8], running, order), order) == stored
        if frame[8:16] != salts and not follows:
            is_stale = True  # an earlier writing of the log begins: the first of it follows from nothing we still have
            salts = frame[8:16]
        elif not follows or frame[8:16] != salts:
            what = "does not match its sum, so SQLite drops it and all behind it"
            if is_stale:
                what = "is a remain of an earlier writing of the log, and was changed"
            report.problems.append((offset, len(frame), f"the frame of page {int.from_bytes(frame[:4], 'big')} {what}"))
            broken = True
        if is_stale:
            report.stale_bytes += len(frame)
        elif not broken:
            report.num_frames += 1
            uncommitted[int.from_bytes(frame[:4], "big")] = offset + _FRAME_BYTES
            if committed := int.from_bytes(frame[4:8], "big"):
                report.pages |= uncommitted
                report.num_pages, uncommitted = committed, {}
        running = stored
        offset += len(frame)
    report.stale_bytes += len(frame)


def _sum(data: bytes, start: tuple[int, ...], order: str) -> tuple[int, ...]:
    s0, s1 = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for a, b in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + a + s1) & 0xFFFFFFFF
        s1 = (s1 + b + s0) & 0xFFFFFFFF
    return s0, s1
