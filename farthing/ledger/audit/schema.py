"""The auditor's own copy of ledger schema 2: columns, tables, and the one text of an entry that its hash is made from.

Written from the description of the format, not from the code that writes it: a mistake there must not be repeated here.
"""

import hashlib
import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as _quoted
from typing import NamedTuple

VERSION = 2
PAGE_BYTES = 4096
APPLICATION_ID = 0x46525448
GENESIS = "0" * 64
NS_PER_HOUR = 3_600_000_000_000

KINDS = (
    "price", "attempt_start", "device", "phase", "attempt_end", "storage", "api", "expense", "artefact", "correction", "run",
    "supersede",
)  # fmt: skip
PHASES = ("setup", "rollout", "reward", "update", "weight_sync", "eval", "checkpoint", "idle")
PURPOSES = ("train", "data", "evaluation", "experiment", "idle", "storage", "api_teacher", "")
OUTCOMES = ("ok", "failed", "interrupted", "killed", "")
ENERGY_METHODS = ("measured", "modelled", "assumed")


class Row(NamedTuple):
    """One entry as it is stored; the columns in the order of their names, which is that of the hashed text."""

    at: str
    attempt: int
    busy_ns: int
    detail: str
    device: str
    energy_error_mj: int
    energy_method: str
    energy_mj: int
    hash: str
    held_ns: int
    kind: str
    model_flops: str
    mono_ns: int
    num_devices: int
    outcome: str
    phase: str
    prev_hash: str
    price: str
    purpose: str
    seq: int
    stage: str
    step: int
    tokens_in: int
    tokens_out: int
    tokens_trained: int
    usd: str


COLUMNS = Row._fields
STORED_ORDER = (
    "seq", "at", "mono_ns", "attempt", "kind", "purpose", "outcome", "stage", "step", "phase", "held_ns", "num_devices",
    "device", "price", "usd", "busy_ns", "tokens_in", "tokens_out", "tokens_trained", "model_flops", "energy_mj",
    "energy_error_mj", "energy_method", "detail", "prev_hash", "hash",
)  # fmt: skip
"""As the table has them on disk."""
TYPES = tuple(Row.__annotations__.values())


def is_well_typed(row: Sequence[object]) -> bool:
    """Whether every column holds what the schema says, int or text; a blob or a null is neither."""
    return tuple(map(type, row)) == TYPES


def seal(row: Row) -> tuple[str, bytes]:
    """(the hash that the row's columns give, the mirror line it should have with the hash that it carries).

    Written out: json.dumps of a dict takes three times as long, and a million entries have to pass.
    """
    if not is_well_typed(row):
        return _seal_any(row)
    (
        at, attempt, busy_ns, detail, device, energy_error_mj, energy_method, energy_mj, carried, held_ns, kind, model_flops,
        mono_ns, num_devices, outcome, phase, prev_hash, price, purpose, seq, stage, step, tokens_in, tokens_out,
        tokens_trained, usd,
    ) = row  # fmt: skip
    before = (
        f'{{"at":{_quoted(at)},"attempt":{attempt},"busy_ns":{busy_ns},"detail":{_quoted(detail)},"device":{_quoted(device)},'
        f'"energy_error_mj":{energy_error_mj},"energy_method":{_quoted(energy_method)},"energy_mj":{energy_mj},'
    )
    after = (
        f'"held_ns":{held_ns},"kind":{_quoted(kind)},"model_flops":{_quoted(model_flops)},"mono_ns":{mono_ns},'
        f'"num_devices":{num_devices},"outcome":{_quoted(outcome)},"phase":{_quoted(phase)},"prev_hash":{_quoted(prev_hash)},'
        f'"price":{_quoted(price)},"purpose":{_quoted(purpose)},"seq":{seq},"stage":{_quoted(stage)},"step":{step},'
        f'"tokens_in":{tokens_in},"tokens_out":{tokens_out},"tokens_trained":{tokens_trained},"usd":{_quoted(usd)}}}'
    )
    digest = hashlib.sha256((before + after).encode()).hexdigest()
    return digest, f'{before}"hash":{_quoted(carried)},{after}\n'.encode()


def from_json(line: bytes) -> Row | None:
    """The entry in a mirror line; None unless the line is the one canonical text of a well-typed entry."""
    try:
        found = json.loads(line)
        row = Row(**found)
    except (ValueError, TypeError, RecursionError):
        return None
    return row if is_well_typed(row) and seal(row)[1] == line else None


def picousd(usd: str) -> int:
    """1e-12 USD; ValueError unless the text has exactly twelve decimals."""
    whole, point, decimals = usd.rpartition(".")
    if not point or len(decimals) != 12 or not decimals.isdecimal() or not whole.removeprefix("-").isdecimal():
        raise ValueError(f"{usd!r} is no amount with twelve decimals")
    return int(whole + decimals)


def dollars(picousd_: int) -> str:
    """The text of an amount, exact."""
    sign, digits = "-" * (picousd_ < 0), f"{abs(picousd_):013d}"
    return f"{sign}{digits[:-12]}.{digits[-12:]}"


def _seal_any(row: Row) -> tuple[str, bytes]:
    stored = row._asdict()
    line = json.dumps(stored, sort_keys=True, separators=(",", ":"), default=lambda blob: {"blob": repr(blob)})
    del stored["hash"]
    sealed = json.dumps(stored, sort_keys=True, separators=(",", ":"), default=lambda blob: {"blob": repr(blob)})
    return hashlib.sha256(sealed.encode()).hexdigest(), line.encode() + b"\n"


_NO_CHANGE = "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a correction is a new entry'); END"
_TYPE_OF = {"int": "INTEGER", "str": "TEXT"}
_ENTRIES = ", ".join(
    f"{name} INTEGER PRIMARY KEY" if name == "seq" else f"{name} {_TYPE_OF[Row.__annotations__[name].__name__]} NOT NULL"
    for name in STORED_ORDER
)
DDL = (
    ("table", "entries", "entries", f"CREATE TABLE entries ({_ENTRIES})"),
    ("table", "totals", "totals", "CREATE TABLE totals (key TEXT PRIMARY KEY, sums TEXT NOT NULL)"),
    ("index", "sqlite_autoindex_totals_1", "totals", ""),
    ("index", "entries_events", "entries", "CREATE INDEX entries_events ON entries(kind, seq) WHERE kind <> 'phase'"),
    ("trigger", "entries_no_update", "entries", f"CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries {_NO_CHANGE}"),
    ("trigger", "entries_no_delete", "entries", f"CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries {_NO_CHANGE}"),
    (
        "trigger",
        "entries_in_turn",
        "entries",
        "CREATE TRIGGER entries_in_turn BEFORE INSERT ON entries "
        "WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM entries) "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: the next entry takes the next seq'); END",
    ),
)
"""(type, name, table, SQL with single spaces) of all that the file holds."""
