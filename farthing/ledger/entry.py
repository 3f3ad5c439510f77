"""Fields of one row in -> a numbered, hash-chained entry of an append-only SQLite book (schema version 2).

The chain is the old one of Haber and Stornetta (1991): every entry's sha256 covers its own columns as they are stored
and the hash of the entry before it, so a changed, removed or inserted entry breaks every hash that follows. Money is
stored as text with twelve decimals, FLOPs as text too, because a cluster's slice can pass 2**63.
An entry that has been returned survives the death of the process (WAL); a power cut may cost the last ones
(synchronous=NORMAL), never the chain.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, NamedTuple, Required, TypedDict

from farthing.errors import LedgerError

KINDS = (
    "price", "attempt_start", "device", "phase", "attempt_end", "storage", "api", "expense", "artefact", "correction", "run",
    "supersede",
)  # fmt: skip
PHASES = ("setup", "rollout", "reward", "update", "weight_sync", "eval", "checkpoint", "idle")
PURPOSES = ("train", "data", "evaluation", "experiment", "idle", "storage", "api_teacher")
OUTCOMES = ("ok", "failed", "interrupted", "killed")
ENERGY_METHODS = ("measured", "modelled", "assumed")
"""From the strongest to the weakest; a sum is only as good as its weakest part."""

MONEY = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""Wide enough that no sum or product of prices is ever rounded; `to_picousd` is the one place that rounds."""
PICOUSD = Decimal("1e-12")
_TOO_MUCH = Decimal("1e30")
GENESIS = "0" * 64
"""`prev_hash` of the first entry."""


class Entry(NamedTuple):
    """One dated row of the book."""

    seq: int
    at: str
    """UTC, ISO-8601 with microseconds: the end of the slice by the wall clock; nothing is computed from it."""
    mono_ns: int
    """CLOCK_MONOTONIC at the end of the slice; 0: no clock belongs to it. Entries of one flush share it."""
    attempt: int
    """0: outside any attempt."""
    kind: str
    purpose: str
    outcome: str
    """What was known at writing; that work was thrown away or superseded shows in later entries."""
    stage: str
    step: int
    """0-based; -1 where none."""
    phase: str
    held_ns: int
    """Nanoseconds on the wall for which all `num_devices` were held."""
    num_devices: int
    device: str
    price: str
    """Id of the price record that made `usd`."""
    usd: Decimal
    busy_ns: int
    """Of `held_ns`, how long a device was busy; -1: not known."""
    tokens_in: int
    tokens_out: int
    tokens_trained: int
    model_flops: int
    energy_mj: int
    """Millijoules, all devices together."""
    energy_error_mj: int
    """Half width of its error band."""
    energy_method: str
    detail: str
    """Canonical JSON."""
    prev_hash: str
    hash: str


class EntryFields(TypedDict, total=False):
    """What a caller gives; the book adds `seq`, `prev_hash` and `hash`."""

    at: str
    mono_ns: int
    attempt: Required[int]
    kind: Required[str]
    purpose: str
    outcome: str
    stage: str
    step: int
    phase: str
    held_ns: int
    num_devices: int
    device: str
    price: str
    usd: Decimal
    busy_ns: int
    tokens_in: int
    tokens_out: int
    tokens_trained: int
    model_flops: int
    energy_mj: int
    energy_error_mj: int
    energy_method: str
    detail: str | Mapping[str, object]


COLUMNS = Entry._fields
_USD, _FLOPS = COLUMNS.index("usd"), COLUMNS.index("model_flops")
AMOUNTS = ("held_ns", "tokens_in", "tokens_out", "tokens_trained", "model_flops", "energy_mj", "energy_error_mj")
"""What is summed, `usd` and `busy_ns` aside; in a correction these are differences, which may be negative."""
_STORED = tuple(str if kind is Decimal or name == "model_flops" else kind for name, kind in Entry.__annotations__.items())
"""The type of every column in the book."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces, ASCII; NaN and infinity are refused with ValueError."""
    return _CANONICAL.encode(value)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def to_picousd(usd: Decimal) -> Decimal:
    """Rounded half-even to 1e-12 USD; minus zero becomes zero."""
    return MONEY.add(usd.quantize(PICOUSD, context=MONEY), Decimal(0))


def picousd(usd: Decimal) -> int:
    """The amount as an integer of 1e-12 USD, exactly."""
    return int(usd.scaleb(12, MONEY))


def usd_text(picousd: int) -> str:
    """An integer of 1e-12 USD as decimal text with twelve places."""
    return f"{Decimal(picousd).scaleb(-12, MONEY):f}"


def make_entry(new: EntryFields, seq: int, prev_hash: str) -> Entry:
    """Checks the fields and seals them; LedgerError on anything the book could not account for."""
    _check(new)
    unsealed = Entry(
        seq=seq,
        at=_utc(new["at"]) if "at" in new else utc_now(),
        mono_ns=new.get("mono_ns", 0),
        attempt=new["attempt"],
        kind=new["kind"],
        purpose=new.get("purpose", ""),
        outcome=new.get("outcome", ""),
        stage=new.get("stage", ""),
        step=new.get("step", -1),
        phase=new.get("phase", ""),
        held_ns=new.get("held_ns", 0),
        num_devices=new.get("num_devices", 1),
        device=new.get("device", ""),
        price=new.get("price", ""),
        usd=to_picousd(new.get("usd", Decimal(0))),
        busy_ns=new.get("busy_ns", -1),
        tokens_in=new.get("tokens_in", 0),
        tokens_out=new.get("tokens_out", 0),
        tokens_trained=new.get("tokens_trained", 0),
        model_flops=new.get("model_flops", 0),
        energy_mj=new.get("energy_mj", 0),
        energy_error_mj=new.get("energy_error_mj", 0),
        energy_method=new.get("energy_method", "assumed"),
        detail=_detail(new.get("detail", "{}")),
        prev_hash=prev_hash,
        hash="",
    )
    return unsealed._replace(hash=row_hash(to_row(unsealed)))


def to_row(entry: Entry) -> tuple[int | str, ...]:
    """The values as they lie in the book, in the order of COLUMNS."""
    row: list[Any] = list(entry)
    row[_USD], row[_FLOPS] = f"{entry.usd:f}", str(entry.model_flops)
    return tuple(row)


def from_row(row: Sequence[int | str]) -> Entry:
    """The entry in a stored row; LedgerError naming its seq if a column does not hold what it should."""
    if tuple(map(type, row)) != _STORED:
        name, value, wanted = next(each for each in zip(COLUMNS, row, _STORED, strict=True) if type(each[1]) is not each[2])
        raise LedgerError(_damaged(row[0], f"{name} is {value!r}, which is no {wanted.__name__}"))
    values: list[Any] = list(row)
    try:
        values[_USD], values[_FLOPS] = Decimal(values[_USD]), int(values[_FLOPS])
    except (ArithmeticError, ValueError):
        raise LedgerError(_damaged(row[0], f"{row[_USD]!r} or {row[_FLOPS]!r} is no number")) from None
    return Entry._make(values)


_BLOBS_TOO = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=lambda blob: {"blob": repr(blob)})
_BY_NAME = sorted((name, index) for index, name in enumerate(COLUMNS))
_WITH_HASH = [(f'"{name}":', index) for name, index in _BY_NAME]
_SEALED = [(f'"{name}":', index) for name, index in _BY_NAME if name != "hash"]


def row_hash(row: Sequence[object]) -> str:
    """sha256 over the stored values of every column but `hash`; a blob, which no honest row holds, changes it too."""
    return hashlib.sha256(_text_of(row, _SEALED).encode()).hexdigest()


def row_line(row: Sequence[object]) -> bytes:
    """The row as a line of JSON: what was hashed, with the hash."""
    return f"{_text_of(row, _WITH_HASH)}\n".encode()


def _text_of(row: Sequence[object], columns: Sequence[tuple[str, int]]) -> str:
    """As `canonical_json` writes it, in a third of the time."""
    return "{" + ",".join([f"{name}{_json_value(row[index])}" for name, index in columns]) + "}"


def _json_value(value: object) -> object:
    if type(value) is int:
        return value
    return _quoted(value) if type(value) is str else _BLOBS_TOO.encode(value)


def detail_of(entry: Entry) -> dict[str, object]:
    """The entry's detail as a mapping; LedgerError where it holds none."""
    try:
        found = json.loads(entry.detail)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LedgerError(_damaged(entry.seq, f"its detail {entry.detail[:80]!r} is no JSON object"))
    return found


def _damaged(seq: object, what: str) -> str:
    return f"ledger entry {seq} is damaged: {what}. Restore the ledger file from a copy; entries before it still stand."


def _check(new: EntryFields) -> None:
    unknown = sorted(set(new) - set(EntryFields.__annotations__))
    if unknown:
        raise LedgerError(f"unknown ledger fields {unknown}; allowed: {', '.join(EntryFields.__annotations__)}.")
    _one_of("kind", new["kind"], KINDS)
    is_correction = new["kind"] == "correction"
    _one_of("phase", new.get("phase", ""), PHASES if new["kind"] == "phase" else ("", *PHASES) if is_correction else ("",))
    _one_of("purpose", new.get("purpose", ""), ("", *PURPOSES))
    _one_of("outcome", new.get("outcome", ""), ("", *OUTCOMES))
    _one_of("energy_method", new.get("energy_method", "assumed"), ENERGY_METHODS)
    for name in AMOUNTS:
        _check_int(name, new.get(name, 0), least=-(2**63) + 1 if is_correction else 0)
    for name in ("attempt", "num_devices", "mono_ns"):
        _check_int(name, new.get(name, 0), least=0)
    _check_int("step", new.get("step", -1), least=-1)
    _check_busy(new.get("busy_ns", -1), new.get("held_ns", 0), is_correction)
    _check_usd(new.get("usd", Decimal(0)), may_be_negative=new["kind"] in ("correction", "run"))


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise LedgerError(f"ledger field {name} is {value!r}; allowed: {', '.join(map(repr, allowed))}.")


def _check_int(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        allowed = f"{least} or more" if least >= -1 else "of less than 63 bits"
        raise LedgerError(f"ledger field {name} is {value!r}; it must be an integer, {allowed}.")
    if name != "model_flops" and value >= 2**63:
        raise LedgerError(f"ledger field {name} is {value}; the book holds less than 2**63. Append shorter slices.")


def _check_busy(busy_ns: int, held_ns: int, is_correction: bool) -> None:
    _check_int("busy_ns", busy_ns, least=-(2**63) + 1 if is_correction else -1)
    if busy_ns > held_ns and not is_correction:
        raise LedgerError(
            f"ledger field busy_ns is {busy_ns}, more than the {held_ns} ns held; a device is busy only while held."
        )


def _check_usd(usd: object, may_be_negative: bool) -> None:
    fits = isinstance(usd, Decimal) and usd.is_finite() and abs(usd) < _TOO_MUCH
    if not fits or (usd < 0 and not may_be_negative):  # type: ignore[operator]  # fits: it is a Decimal
        raise LedgerError(
            f"usd is {usd!r}; it must be a finite Decimal, 0 or more (below 0 only in a correction), never a float: "
            "use prices.cost()."
        )


def _utc(at: str) -> str:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise LedgerError(f"ledger field at is {at!r}; it must be ISO-8601, as entry.utc_now() gives it.") from None
    if moment.utcoffset() != timedelta(0):
        raise LedgerError(f"ledger field at is {at!r}, which is not UTC; use entry.utc_now().")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _detail(detail: str | Mapping[str, object]) -> str:
    try:
        return canonical_json(dict(json.loads(detail) if isinstance(detail, str) else detail))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"ledger field detail cannot be written as JSON: {error}. Give plain values.") from error
