"""Paths of built corpora, text and JSONL files -> their documents' texts in order, and the digests of what was read."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from farthing.data.extra import require_extra
from farthing.data.reading import Intake, file_documents, kind_of
from farthing.data.recipe import ReadConfig
from farthing.data.shards import MANIFEST, check_shards, corpus_digest, file_sha256, read_manifest, shard_rows
from farthing.errors import DataError


def corpus_texts(paths: Sequence[Path]) -> Iterator[str]:
    """Every document's text: folders by their manifest, JSONL and Parquet by the field `text`, text files by paragraph."""
    require_extra()
    for path in paths:
        if path.is_dir():
            for shard in read_manifest(path)["shards"]:
                yield from (row["text"] for row in shard_rows(path / shard["file"]))
        elif path.is_file():
            intake = Intake(ReadConfig())
            yield from (d.text for d in file_documents(path, kind_of(path), "text", "paragraph", intake))
        else:
            raise DataError(f"{path} is neither a built corpus nor a file. Make one with `farthing data build`.")


def corpus_digests(paths: Sequence[Path]) -> dict[str, str]:
    """path -> what identifies its content, after a built corpus's shards have been checked."""
    digests = {}
    for path in paths:
        if path.is_dir():
            manifest = read_manifest(path)
            check_shards(path, manifest)
            digests[str(path / MANIFEST)] = corpus_digest(manifest["shards"])
        elif path.is_file():
            digests[str(path)] = file_sha256(path)
        else:
            raise DataError(f"{path} is neither a built corpus nor a file. Make one with `farthing data build`.")
    return digests


def limited(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """The first texts, up to about so many bytes."""
    left = max_bytes
    for text in texts:
        if left <= 0:
            return
        left -= len(text)
        yield text
