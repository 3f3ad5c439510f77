"""Parquet files -> documents, a few dozen rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from farthing.errors import DataError

if TYPE_CHECKING:
    from farthing.data.reading import Document, Intake

BATCH_ROWS = 64
BUFFER_BYTES = 1 << 20


def parquet_rows(path: Path, text_field: str, intake: "Intake") -> Iterator["Document"]:
    """The text column's rows. DataError where the file is broken (with the row reached) or has no such column."""
    from farthing.data.reading import Document

    row = 0
    try:
        # page by page: without these two a whole row group is in memory, and writers make groups of a million rows
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            _require_text(path, file.schema_arrow, text_field)
            size = path.stat().st_size
            # a large_binary view keeps pyarrow from refusing invalid UTF-8 itself: the recipe decides
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[text_field]):
                for scalar in batch.column(0).cast(pa.large_binary()):
                    value = scalar.as_py()
                    row += 1
                    where = f"{path}:{row}"
                    if value is None:
                        intake.refuse(where, f"no text in the column {text_field!r}", "Fill it")
                    elif len(value) > intake.config.max_document_bytes:
                        intake.too_long(where)
                    else:
                        text = intake.decode(value, where)
                        if text is not None:
                            yield Document(text, where)
                intake.on_read(size * batch.num_rows // max(file.metadata.num_rows, 1))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: broken Parquet after row {row} ({reason}). Copy it again from its source.") from error


def _require_text(path: Path, schema: pa.Schema, text_field: str) -> None:
    if text_field not in schema.names:
        raise DataError(f"{path}: no column {text_field!r}; there is: {', '.join(schema.names)}. Set the source's text.")
    kind = schema.field(text_field).type
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    if held not in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()):
        raise DataError(f"{path}: the column {text_field!r} holds {kind}, text is needed. Set the source's text.")
