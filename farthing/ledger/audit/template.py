"""Phase entries -> the mirror lines they should have, if each gives its own hash and follows from the one before.

The text that is hashed is the one that `schema.seal` writes, from a template for all rows alike: what their key says is
written out once.
"""

import functools
import hashlib
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from farthing.ledger.audit.schema import COLUMNS, Row

KEY = (
    "attempt", "kind", "stage", "phase", "purpose", "outcome", "device", "num_devices", "price", "energy_method",
)  # fmt: skip
"""What rows alike have in common: that by which a ledger keeps its totals."""
FIGURES = tuple(name for name in COLUMNS if name not in KEY)
ORDER = (*KEY, *FIGURES)
Raw = tuple[Any, ...]
"""A stored row with its columns in ORDER."""
Key = tuple[int, str, str, str, str, str, str, int, str, str]

_NUM_KEY = len(KEY)
_DETAIL, _PREV_HASH, _SEQ, _HASH = (ORDER.index(name) for name in ("detail", "prev_hash", "seq", "hash"))
_MARK = b'"hash":"'
"""Stands once in a line: within a text its quotation marks are escaped."""
_LEFT_OUT = len(_MARK) + 64 + 2
_KEPT = 1024


@functools.lru_cache(_KEPT)
def template_of(key: Key) -> str:
    """Figures are filled in as they are; a text that needs escapes must be brought in its JSON form, without its marks."""
    known = dict(zip(KEY, key, strict=True))
    return "{" + ",".join(f'"{name}":{_value(name, known)}' for name in COLUMNS) + "}\n"


def _value(name: str, known: dict[str, object]) -> str:
    if name not in known:
        return "%d" if Row.__annotations__[name] is int else '"%s"'
    value = known[name]
    return (str(value) if isinstance(value, int) else _quoted(str(value))).replace("%", "%%")


def lines_of(rows: Sequence[Raw], templates: Sequence[str], count: int, head_hash: str) -> list[bytes] | None:
    """The lines of rows whose figures are of their form; `count` and `head_hash` are those of the entry before them."""
    hashes = [raw[_HASH] for raw in rows]
    if [raw[_PREV_HASH] for raw in rows] != [head_hash, *hashes[:-1]]:
        return None
    if [raw[_SEQ] for raw in rows] != list(range(count + 1, count + 1 + len(rows))):
        return None
    texts = [
        template % (raw[_NUM_KEY:] if raw[_DETAIL] == "{}" else _escaped(raw))
        for raw, template in zip(rows, templates, strict=True)
    ]
    sha256 = hashlib.sha256
    lines = [text.encode() for text in texts]
    marks = [line.index(_MARK) for line in lines]
    digests = [sha256(line[:i] + line[i + _LEFT_OUT : -1]).hexdigest() for line, i in zip(lines, marks, strict=True)]
    return lines if digests == hashes else None


def _escaped(raw: Raw) -> Raw:
    return (*raw[_NUM_KEY:_DETAIL], _quoted(raw[_DETAIL])[1:-1], *raw[_DETAIL + 1 :])
