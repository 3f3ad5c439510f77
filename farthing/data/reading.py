"""A source of a data recipe -> its documents one by one, with file and row; bad rows are errors, or dropped and counted."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from farthing.config import TaskConfig
from farthing.data.compressed import SUFFIXES, TooLong, chunks, lines
from farthing.data.recipe import ReadConfig, SourceConfig
from farthing.errors import DataError

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text", ".md": "text"}
PARQUET_ROWS = 256
TASK_TEST_SHARE = 0.1
"""Of a task's problems, held out from every corpus; the default of the stages."""


@dataclass(slots=True)
class Document:
    text: str
    where: str
    """FILE:ROW, for messages and for rows set aside."""
    language: str = ""
    masked: dict[str, int] = field(default_factory=dict)
    """PII found, by kind."""


@dataclass
class Intake:
    """What reading needs and leaves: its settings, progress, and the rows it refused by reason."""

    config: ReadConfig
    on_read: Callable[[int], None] = lambda _: None
    refused: Counter[str] = field(default_factory=Counter)
    on_refuse: Callable[[str, str], None] = lambda _where, _reason: None

    def refuse(self, where: str, reason: str, advice: str) -> None:
        if self.config.on_bad_row == "error":
            raise DataError(f'{where}: {reason}. {advice}, or set read.on_bad_row = "drop".')
        self._count(where, reason)

    def decode(self, data: bytes, where: str) -> str | None:
        """UTF-8 by the rules of the recipe; None: dropped."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            if self.config.invalid_utf8 == "replace":
                return data.decode("utf-8", errors="replace")
            if self.config.invalid_utf8 == "error":
                raise DataError(
                    f"{where}: invalid UTF-8 at byte {error.start} (0x{data[error.start]:02x}). Mend it, or set "
                    'read.invalid_utf8 = "replace" or "drop".'
                ) from error
        self._count(where, "invalid UTF-8")
        return None

    def too_long(self, where: str) -> None:
        advice = "Raise read.max_document_bytes, or part the document (split for text files)"
        self.refuse(where, f"longer than {self.config.max_document_bytes:,} bytes", advice)

    def _count(self, where: str, reason: str) -> None:
        self.refused[reason] += 1
        self.on_refuse(where, reason)


def source_files(source: SourceConfig, base: Path) -> list[Path]:
    """The files a glob names, sorted. DataError where there is none."""
    given = Path(source.path).expanduser()
    if given.is_absolute():
        found = sorted(Path(given.anchor).glob(str(given.relative_to(given.anchor))))
    else:
        found = sorted(base.glob(source.path))
    files = [p for p in found if p.is_file()]
    if not files:
        raise DataError(f"source {source.name!r}: no file matches {source.path!r} in {base}. Correct its path.")
    return files


def kind_of(path: Path, wanted: str = "auto") -> str:
    """text, jsonl or parquet, by the last suffix that is not a compression's."""
    if wanted != "auto":
        return wanted
    suffix = Path(path.stem).suffix if path.suffix in SUFFIXES else path.suffix
    if suffix not in KINDS:
        raise DataError(f"{path}: what is in a {suffix or 'nameless'} file? Set the source's kind: text, jsonl or parquet.")
    return KINDS[suffix]


def documents(source: SourceConfig, base: Path, intake: Intake) -> Iterator[Document]:
    """Every document of a source, at most `source.documents` where that is set."""
    if source.task is not None:
        yield from task_documents(source.task, source.documents)
        return
    left = source.documents or -1
    for path in source_files(source, base):
        for document in file_documents(path, kind_of(path, source.kind), source.text, source.split, intake):
            yield document
            left -= 1
            if not left:
                return


def file_documents(path: Path, kind: str, text_field: str, split: str, intake: Intake) -> Iterator[Document]:
    if kind == "parquet":
        from farthing.data.parquet import parquet_rows

        yield from parquet_rows(path, text_field, intake)
    elif kind == "jsonl":
        yield from _jsonl(path, text_field, intake)
    elif split == "file":
        yield from _whole(path, intake)
    else:
        yield from _split(path, split, intake)


def _jsonl(path: Path, text_field: str, intake: Intake) -> Iterator[Document]:
    import orjson

    for number, line in enumerate(lines(path, intake.config.max_document_bytes, intake.on_read), start=1):
        where = f"{path}:{number}"
        if isinstance(line, TooLong):
            intake.too_long(where)
            continue
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            decoded = intake.decode(line.removeprefix(b"\xef\xbb\xbf"), where)
            if decoded is None:
                continue
            try:
                record = orjson.loads(decoded)
            except orjson.JSONDecodeError:
                intake.refuse(where, f"invalid JSON ({error})", "Mend the line")
                continue
        text = record.get(text_field) if isinstance(record, dict) else None
        if isinstance(text, str):
            yield Document(text, where)
            continue
        present = ", ".join(sorted(record)) if isinstance(record, dict) else type(record).__name__
        intake.refuse(where, f"no text in the field {text_field!r}; there is: {present or 'nothing'}", "Set the source's text")


def _whole(path: Path, intake: Intake) -> Iterator[Document]:
    held: list[bytes] = []
    size = 0
    for chunk in chunks(path, intake.on_read):
        size += len(chunk)
        if size > intake.config.max_document_bytes:
            intake.too_long(f"{path}:1")
            return
        held.append(chunk)
    text = intake.decode(b"".join(held).removeprefix(b"\xef\xbb\xbf"), f"{path}:1")
    if text is not None:
        yield Document(text, f"{path}:1")


def _split(path: Path, split: str, intake: Intake) -> Iterator[Document]:
    """Lines, or runs of lines that are not empty; the row is the first line's."""
    held: list[bytes] = []
    first = size = 0
    limit = intake.config.max_document_bytes
    for number, line in enumerate(lines(path, limit, intake.on_read), start=1):
        if isinstance(line, TooLong):
            intake.too_long(f"{path}:{number}")
            continue
        if line.strip():
            first = first or number
            held.append(line)
            size += len(line) + 1
        if held and (split == "line" or not line.strip() or size > limit):
            yield from _joined(path, first, held, size, intake)
            held, first, size = [], 0, 0
    if held:
        yield from _joined(path, first, held, size, intake)


def _joined(path: Path, first: int, held: list[bytes], size: int, intake: Intake) -> Iterator[Document]:
    where = f"{path}:{first}"
    if size > intake.config.max_document_bytes + 1:
        intake.too_long(where)
        return
    text = intake.decode(b"\n".join(held).removeprefix(b"\xef\xbb\xbf"), where)
    if text is not None:
        yield Document(text, where)


def task_documents(task: TaskConfig, count: int) -> Iterator[Document]:
    """Question, chain where there is one, and answer of `count` training problems; held-out ones are never written."""
    from farthing.tasks.stream import ProblemStream

    stream = ProblemStream([task], seed=0, test_share=TASK_TEST_SHARE)
    for number in range(1, count + 1):
        [problem] = stream.take(1)
        yield Document("\n".join((problem.question, *problem.chains[:1], problem.answer)), f"{task.spec}:{number}")
