"""Clean documents -> files on disk between the two passes of a build, one a source; and rows set aside with their reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from farthing.data.compressed import zstd
from farthing.data.steps import Kept

ZSTD_LEVEL = -3
"""The fast levels: these files are read once and removed."""


class Row(NamedTuple):
    number: int
    """Of the document, in the whole corpus."""
    data: bytes
    """JSON, as it goes into a shard."""
    size: int
    """UTF-8 bytes of the text."""
    language: str


class Spool:
    """Rows in order of writing, by source."""

    def __init__(self, folder: Path, num_sources: int) -> None:
        folder.mkdir()
        self._paths = [folder / f"{n}.zst" for n in range(num_sources)]
        self._files: list[IO[bytes]] = [zstd().open(path, "wb", level=ZSTD_LEVEL) for path in self._paths]
        self._first = [0] * num_sources
        self._count = 0

    def close(self) -> None:
        for file in self._files:
            file.close()

    def write(self, source: int, kept: Kept) -> None:
        """Sources are written one after the other: a source's numbers are a range."""
        if not self._files[source].tell():
            self._first[source] = self._count
        self._count += len(kept.rows)
        rows = zip(kept.sizes, kept.languages, kept.rows, strict=True)
        self._files[source].write(b"".join(b"%d %s %s\n" % (size, language.encode(), row) for size, language, row in rows))

    def read(self, source: int) -> Iterator[Row]:
        if not self._paths[source].stat().st_size:  # nothing was written, not even a frame
            return
        with zstd().open(self._paths[source], "rb") as file:
            for number, line in enumerate(file, start=self._first[source]):
                size, language, row = line.split(b" ", 2)
                yield Row(number, row[:-1], int(size), language.decode())


class DroppedFile:
    """One line of JSON for each document that is not in the corpus: why, and what it was."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = zstd().open(path, "wb", level=ZSTD_LEVEL)

    def refused(self, where: str, reason: str) -> None:
        self.document(where, "read", reason, "")

    def document(self, where: str, step: str, reason: str, text: str) -> None:
        import orjson

        self._file.write(orjson.dumps({"step": step, "reason": reason, "where": where, "text": text}) + b"\n")

    def row(self, row: "Row", step: str, reason: str) -> None:
        import orjson

        record = orjson.loads(row.data)
        self._file.write(orjson.dumps({"step": step, "reason": reason, **record}) + b"\n")

    def close(self) -> None:
        self._file.close()
