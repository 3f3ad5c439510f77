"""A path, compressed or not -> its bytes in bounded chunks, or its lines. A cut or damaged file is an error, not an end.

gzip, bzip2 and xz come with Python, zstd as backports.zstd (in the standard library from 3.14 on). All four are read with a
limit on what one call may return, so that a small file that unpacks to terabytes costs no memory.
"""

import bz2
import importlib
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from farthing.errors import DataError

CHUNK_BYTES = 1 << 20
SUFFIXES = (".gz", ".zst", ".bz2", ".xz")


class Decompressor(Protocol):
    """What bz2, lzma and zstd share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's object with the interface of the other three."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)


def zstd() -> Any:
    """The module, wherever this Python has it."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _opener(suffix: str) -> tuple[Callable[[], Decompressor], type[Exception]]:
    """What unpacks such a file, and what it raises where the file is damaged."""
    if suffix == ".gz":
        return _Gzip, zlib.error
    if suffix == ".bz2":
        return bz2.BZ2Decompressor, OSError
    if suffix == ".xz":
        return lzma.LZMADecompressor, lzma.LZMAError
    return zstd().ZstdDecompressor, zstd().ZstdError


def chunks(path: Path, on_read: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """At most CHUNK_BYTES at a time; `on_read` hears how many bytes of the file were taken. DataError where it is damaged."""
    try:
        with path.open("rb") as file:
            raw = _counted(iter(lambda: file.read(CHUNK_BYTES), b""), on_read)
            yield from raw if path.suffix not in SUFFIXES else _unpack(path, raw)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Check the path and its permissions.") from error


def _counted(raw: Iterator[bytes], on_read: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in raw:
        on_read(len(chunk))
        yield chunk


def _unpack(path: Path, raw: Iterator[bytes]) -> Iterator[bytes]:
    make, damage = _opener(path.suffix)
    unpacker, done = make(), 0
    try:
        for chunk in raw:
            data = chunk
            while True:
                if unpacker.eof:
                    data = unpacker.unused_data or data
                    if not data.strip(b"\0"):  # padding after the last frame, or nothing at all
                        break
                    unpacker = make()
                out = unpacker.decompress(data, CHUNK_BYTES)
                done += len(out)
                if out:
                    yield out
                data = b""
                if not unpacker.eof and unpacker.needs_input:
                    break
                if unpacker.eof and not unpacker.unused_data:
                    break
    except (damage, EOFError) as error:
        raise DataError(f"{path}: damaged after {done:,} unpacked bytes ({error}). Copy it again from its source.") from error
    if not unpacker.eof and path.stat().st_size:
        raise DataError(f"{path}: truncated, it ends after {done:,} unpacked bytes. Copy it again from its source.")


class TooLong(ValueError):
    """A line above the limit; the rest of it is skipped."""


def lines(path: Path, limit: int, on_read: Callable[[int], None] = lambda _: None) -> Iterator[bytes | TooLong]:
    """Lines without their newline. One longer than `limit` bytes comes as a TooLong and never lies in memory whole."""
    held: list[bytes] = []
    size = 0
    skipping = False
    for chunk in chunks(path, on_read):
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            if skipping or size + len(piece) > limit:
                yield TooLong()
            else:
                yield b"".join((*held, piece)) if held else piece
            held, size, skipping = [], 0, False
        size += len(rest)
        skipping = skipping or size > limit
        if skipping:
            held = []
        elif rest:
            held.append(rest)
    if skipping:
        yield TooLong()
    elif size:
        yield b"".join(held)
