"""Finished documents -> shards of a few hundred megabytes with their digests; a built folder -> its documents, checked.

DIR/manifest.json   what is in it and how it came about; written last
DIR/shard-00000.jsonl.zst or .parquet   rows of id, text, source, language
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from farthing.data.compressed import TooLong, lines, zstd
from farthing.errors import DataError

FORMAT = "farthing-corpus-1"
MANIFEST = "manifest.json"
ZSTD_LEVEL = 3
ROW_GROUP = 1024
MAX_ROW_BYTES = 1 << 30


class ShardWriter:
    """`write` rows as JSON lines with their text's size; `close` -> the list of shards for the manifest."""

    def __init__(self, folder: Path, form: str, shard_mb: float) -> None:
        self.folder, self.form = folder, form
        self.limit = int(shard_mb * 1e6)
        self.shards: list[dict[str, Any]] = []
        self._out: _JsonlOut | _ParquetOut | None = None
        self._documents = self._bytes = 0

    def write(self, row: bytes, text_bytes: int) -> None:
        if self._out is not None and self._bytes + text_bytes > self.limit:
            self._finish()
        if self._out is None:
            path = self.folder / f"shard-{len(self.shards):05d}.{self.form}"
            self._out = _JsonlOut(path) if self.form == "jsonl.zst" else _ParquetOut(path)
        self._out.write(row)
        self._documents += 1
        self._bytes += text_bytes

    def close(self) -> list[dict[str, Any]]:
        if self._out is not None:
            self._finish()
        return self.shards

    def _finish(self) -> None:
        assert self._out is not None
        self._out.close()
        path = self._out.path
        self.shards.append(
            {
                "file": path.name,
                "documents": self._documents,
                "text_bytes": self._bytes,
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
        )
        self._out, self._documents, self._bytes = None, 0, 0


class _JsonlOut:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = zstd().open(path, "wb", level=ZSTD_LEVEL)
        self._rows: list[bytes] = []

    def write(self, row: bytes) -> None:
        self._rows.append(row + b"\n")
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._file.write(b"".join(self._rows))
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._file.close()


class _ParquetOut:
    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self._schema = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "language")])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, str]] = []

    def write(self, row: bytes) -> None:
        self._rows.append(json.loads(row))
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """DataError where `folder` is not a corpus built by farthing."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder} is no built corpus: it has no {MANIFEST}. Make one with `farthing data build`.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). Build the corpus again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not of the format {FORMAT}. Build the corpus again.")
    return manifest


def check_shards(folder: Path, manifest: dict[str, Any]) -> None:
    """DataError names the first shard that is missing or not what was written."""
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise DataError(f"{path} is missing. Put it back, or build the corpus again.")
        if file_sha256(path) != shard["sha256"]:
            raise DataError(f"{path} has changed since it was built (sha256 differs). Put it back, or build the corpus again.")


def corpus_digest(shards: list[dict[str, Any]]) -> str:
    """What the corpus says, in its order: sha256 over the shards' own."""
    return hashlib.sha256("\n".join(f"{s['file']} {s['sha256']}" for s in shards).encode()).hexdigest()


def shard_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of one shard."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP):
                yield from batch.to_pylist()
        return
    import orjson

    for number, line in enumerate(lines(path, MAX_ROW_BYTES), start=1):
        if isinstance(line, TooLong):
            raise DataError(f"{path}:{number}: a row of more than {MAX_ROW_BYTES:,} bytes. Build the corpus again.")
        yield orjson.loads(line)
