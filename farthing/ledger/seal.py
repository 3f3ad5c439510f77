"""A book at rest -> a seal beside it: sha256 of its files, and a sum of every block that tells which byte was changed.

The chain proves the entries; the seal covers the rest of the file too (headers, free pages, the mirror). Adler-32 of a
32 KiB block: from its two halves before and after, one changed byte gives its offset and its old value.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from farthing.errors import LedgerError
from farthing.ledger.entry import canonical_json, utc_now

SEAL_VERSION = 1
BLOCK_BYTES = 32768


def seal_path(book: Path) -> Path:
    return book.with_suffix(".seal.json")


def mirror_path(book: Path) -> Path:
    return book.with_suffix(".jsonl")


def write_seal(book: Path, head: tuple[int, str]) -> None:
    """Seals the book and its mirror as they lie on the disk; the caller holds the write lock and has emptied the WAL."""
    seal: dict[str, Any] = {
        "version": SEAL_VERSION,
        "at": utc_now(),
        "head_seq": head[0],
        "head_hash": head[1],
        "files": {path.name: _sums(path) for path in (book, mirror_path(book)) if path.is_file()},
    }
    seal["seal_sha256"] = hashlib.sha256(canonical_json(seal).encode()).hexdigest()
    temporary = seal_path(book).with_suffix(".partial")
    temporary.write_text(canonical_json(seal) + "\n")
    os.replace(temporary, seal_path(book))


def break_seal(book: Path) -> None:
    """Before anything is appended, under the write lock. LedgerError, and the seal stays, where the files are not those that
    were sealed: a new seal over a change would hide it."""
    path = seal_path(book)
    try:
        sealed = json.loads(path.read_bytes())["files"]
        changed = [name for name, sums in sealed.items() if _sha256(path.parent / name) != sums["sha256"]]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        changed = [path.name]
    if changed:
        raise LedgerError(
            f"{', '.join(changed)} in {path.parent} changed after the ledger was sealed; nothing was written. `farthing audit` "
            f"tells which byte. Restore it from a copy, or, to go on with what is there, move {path.name} away"
        )
    path.unlink()


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(path: Path) -> dict[str, object]:
    whole, blocks, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            whole.update(block)
            blocks.append(f"{zlib.adler32(block):08x}")
            size += len(block)
    return {"bytes": size, "sha256": whole.hexdigest(), "block_bytes": BLOCK_BYTES, "adler32": "".join(blocks)}
