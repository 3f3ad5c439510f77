"""Files of every kind and compression, and what is wrong with them: named with file and row, in bounded memory."""

import bz2
import gzip
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from farthing.config import TaskConfig
from farthing.data.compressed import TooLong, chunks, lines, zstd
from farthing.data.reading import Intake, file_documents, kind_of, task_documents
from farthing.data.recipe import ReadConfig
from farthing.errors import DataError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(zstd().compress(data)),
}
LINES = b"one\ntwo\n\nthree"


def texts(path: Path, kind: str = "jsonl", split: str = "file", field: str = "text", **config: object) -> list[str]:
    return [d.text for d in file_documents(path, kind, field, split, Intake(ReadConfig.model_validate(config)))]


@pytest.mark.parametrize("suffix", PACK)
def test_every_compression_gives_the_same_lines_also_in_several_frames(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](LINES))
    assert list(lines(path, 100)) == [b"one", b"two", b"", b"three"]
    path.write_bytes(PACK[suffix](LINES) + PACK[suffix](b"!\nfour\n"))
    assert list(lines(path, 100)) == [b"one", b"two", b"", b"three!", b"four"]


@pytest.mark.parametrize("suffix", [s for s in PACK if s])
@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_file_is_named_not_taken_for_its_end(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    whole = PACK[suffix]("".join(json.dumps({"text": f"row {n * 7919 % 10007}"}) + "\n" for n in range(20_000)).encode())
    changed = whole[:40] + bytes(b ^ 0x5A for b in whole[40:60]) + whole[60:]
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else changed)
    with pytest.raises(DataError, match=f"a.jsonl{suffix}"):
        list(lines(path, 1 << 20))


@pytest.mark.parametrize("suffix", [".zst", ".gz"])
def test_a_bomb_unpacks_a_chunk_at_a_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb.txt{suffix}"
    path.write_bytes(PACK[suffix](bytes(100 << 20)))
    tracemalloc.start()
    assert sum(map(len, chunks(path))) == 100 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_a_line_of_100_mb_is_refused_or_dropped_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "good"}\n{"text": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "also good"}\n')
    tracemalloc.start()
    assert texts(path, on_bad_row="drop", max_document_bytes=1 << 20) == ["good", "also good"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    with pytest.raises(DataError, match=r"long\.jsonl:2: longer than 1,048,576 bytes"):
        texts(path, max_document_bytes=1 << 20)


def test_lines_are_cut_where_they_end_whatever_the_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 10 + b"\n" + b"b" * 11 + b"\n\n")
    assert [type(line) is TooLong or line for line in lines(path, 10)] == [b"a" * 10, True, b""]
    path.write_bytes(b"")
    assert list(lines(path, 10)) == []


def test_invalid_utf8_is_placed_replaced_or_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: invalid UTF-8 at byte 13 \(0xe9\)"):
        texts(path)
    assert texts(path, invalid_utf8="replace") == ["fine", "caf\ufffd"]
    assert texts(path, invalid_utf8="drop") == ["fine"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "invalid JSON"),
        (b"[1]", "no text in the field 'text'; there is: list"),
        (b'{"body": "x"}', "there is: body"),
        (b'{"text": 7}', "no text in the field"),
        (b'{"text": null}', "no text in the field"),
        (b'{"text": "\\ud800"}', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
    ],
)
def test_a_bad_row_is_an_error_with_its_number_or_counted(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"a\.jsonl:3: .*" + says.replace("'", ".")):
        texts(path)
    intake = Intake(ReadConfig(on_bad_row="drop"))
    assert [d.where for d in file_documents(path, "jsonl", "text", "file", intake)] == [f"{path}:2"]
    assert sum(intake.refused.values()) == 1


def test_text_files_as_one_document_paragraphs_or_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\ntwo\n\n \n\nthree\n")
    assert texts(path, "text", "file") == ["one\ntwo\n\n \n\nthree\n"]
    assert texts(path, "text", "paragraph") == ["one\ntwo", "three"]
    assert texts(path, "text", "line") == ["one", "two", "three"]
    path.write_bytes(b"x\n" * 1000 + b"\nend")
    with pytest.raises(DataError, match=r"a\.txt:1: longer than 1,024 bytes"):
        texts(path, "text", "paragraph", max_document_bytes=1024)
    with pytest.raises(DataError, match=r"a\.txt:1: longer than 1,024 bytes"):
        texts(path, "text", "file", max_document_bytes=1024)


def test_parquet_rows_and_what_can_be_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = ["é", "b"] * 400
    pq.write_table(pa.table({"body": rows, "n": list(range(800))}), path)
    assert texts(path, "parquet", field="body") == rows
    with pytest.raises(DataError, match="no column 'text'; there is: body, n"):
        texts(path, "parquet")
    with pytest.raises(DataError, match="'n' holds int64, text is needed"):
        texts(path, "parquet", field="n")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"a\.parquet: broken Parquet after row 0"):
        texts(path, "parquet", field="body")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()])
def test_parquet_text_of_any_type(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    rows = ["é", "b"] * 100
    pq.write_table(pa.table({"text": pa.array(rows).cast(pa.large_binary()).cast(kind)}), path)
    assert texts(path, "parquet") == rows
    pq.write_table(pa.table({"text": pa.array(rows).dictionary_encode()}), path)
    assert texts(path, "parquet") == rows


def test_a_row_group_of_parquet_is_never_whole_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [random.Random(i).randbytes(500).hex() for i in range(60_000)]
    pq.write_table(pa.table({"text": rows}), path, row_group_size=len(rows), use_dictionary=False, compression="none")
    del rows
    before = pa.total_allocated_bytes()
    intake, most = Intake(ReadConfig()), 0
    for document in file_documents(path, "parquet", "text", "line", intake):
        assert len(document.text) == 1000
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12 << 20, "of 60 MB"


def test_a_null_in_parquet_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c"]}), path)
    with pytest.raises(DataError, match=r"a\.parquet:2: no text in the column"):
        texts(path, "parquet")
    assert texts(path, "parquet", on_bad_row="drop") == ["a", "c"]


def test_the_kind_is_read_off_the_name() -> None:
    names = ("x.jsonl.zst", "x.txt", "x.md.gz", "x.parquet")
    assert [kind_of(Path(name)) for name in names] == ["jsonl", "text", "text", "parquet"]
    with pytest.raises(DataError, match=r"what is in a \.csv file"):
        kind_of(Path("x.csv"))


def test_a_task_gives_its_training_problems_with_their_chains() -> None:
    found = list(task_documents(TaskConfig(spec="toy:running_total"), 3))
    assert [d.where for d in found] == [f"toy:running_total:{n}" for n in (1, 2, 3)]
    question, chain, answer = found[0].text.split("\n")
    assert question.endswith("?")
    assert chain.endswith(answer)
