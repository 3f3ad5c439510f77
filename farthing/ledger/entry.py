"""Fields of one timed slice in -> a numbered, hash-chained entry in an append-only SQLite book.

The chain is the old one of Haber and Stornetta (1991): every entry's sha256 covers its own columns as they are stored
and the hash of the entry before it, so a changed, removed or inserted entry breaks every hash that follows. Money is
stored as text with twelve decimals, FLOPs as text too, because a cluster's slice can pass 2**63.
An entry that has been returned survives the death of the process (WAL); a power cut may cost the last ones
(synchronous=NORMAL), never the chain.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Required, TypedDict

from farthing.errors import LedgerError

KINDS = ("attempt_start", "phase", "attempt_end")
PHASES = ("setup", "rollout", "reward", "update", "weight_sync", "eval", "checkpoint", "idle")
ENERGY_METHODS = ("measured", "modelled", "assumed")
"""From the strongest to the weakest; a sum is only as good as its weakest part."""

MONEY = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""Wide enough that no sum or product of prices is ever rounded; `to_picousd` is the one place that rounds."""
PICOUSD = Decimal("1e-12")
GENESIS = "0" * 64
"""`prev_hash` of the first entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One dated row of the book."""

    seq: int
    at: str
    """UTC, ISO-8601 with microseconds: the end of the slice."""
    attempt: int
    kind: str
    stage: str
    step: int
    """0-based; -1 where none."""
    phase: str
    held_ns: int
    """Nanoseconds on the wall for which all `num_devices` were held."""
    num_devices: int
    device: str
    usd: Decimal
    tokens_in: int
    tokens_out: int
    tokens_trained: int
    model_flops: int
    energy_mj: int
    """Millijoules, all devices together."""
    energy_method: str
    detail: str
    """Canonical JSON."""
    prev_hash: str
    hash: str


class EntryFields(TypedDict, total=False):
    """What a caller gives; the book adds `seq`, `prev_hash` and `hash`."""

    at: str
    attempt: Required[int]
    kind: Required[str]
    stage: str
    step: int
    phase: str
    held_ns: int
    num_devices: int
    device: str
    usd: Decimal
    tokens_in: int
    tokens_out: int
    tokens_trained: int
    model_flops: int
    energy_mj: int
    energy_method: str
    detail: str | Mapping[str, object]


COLUMNS = tuple(field.name for field in fields(Entry))
_COUNTS = (
    "attempt", "held_ns", "num_devices", "tokens_in", "tokens_out", "tokens_trained", "model_flops", "energy_mj",
)  # fmt: skip


def canonical_json(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces, ASCII; NaN and infinity are refused with ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def to_picousd(usd: Decimal) -> Decimal:
    """Rounded half-even to 1e-12 USD."""
    return usd.quantize(PICOUSD, context=MONEY)


def make_entry(new: EntryFields, seq: int, prev_hash: str) -> Entry:
    """Checks the fields and seals them; LedgerError on anything the book could not account for."""
    _check(new)
    unsealed = Entry(
        seq=seq,
        at=_utc(new["at"]) if "at" in new else utc_now(),
        attempt=new["attempt"],
        kind=new["kind"],
        stage=new.get("stage", ""),
        step=new.get("step", -1),
        phase=new.get("phase", ""),
        held_ns=new.get("held_ns", 0),
        num_devices=new.get("num_devices", 1),
        device=new.get("device", ""),
        usd=to_picousd(new.get("usd", Decimal(0))),
        tokens_in=new.get("tokens_in", 0),
        tokens_out=new.get("tokens_out", 0),
        tokens_trained=new.get("tokens_trained", 0),
        model_flops=new.get("model_flops", 0),
        energy_mj=new.get("energy_mj", 0),
        energy_method=new.get("energy_method", "assumed"),
        detail=_detail(new.get("detail", "{}")),
        prev_hash=prev_hash,
        hash="",
    )
    row = to_row(unsealed)
    return from_row((*row[:-1], row_hash(row)))


def to_row(entry: Entry) -> tuple[int | str, ...]:
    """The values as they lie in the book, in the order of COLUMNS."""
    values = (getattr(entry, name) for name in COLUMNS)
    return tuple(
        f"{value:f}" if name == "usd" else str(value) if name == "model_flops" else value
        for name, value in zip(COLUMNS, values, strict=True)
    )


def from_row(row: Sequence[int | str]) -> Entry:
    """The entry in a stored row; LedgerError naming its seq if a column does not hold what it should."""
    stored = dict(zip(COLUMNS, row, strict=True))
    for name, value in stored.items():
        wanted = int if name in (*_COUNTS, "seq", "step") and name != "model_flops" else str
        if not isinstance(value, wanted):
            raise LedgerError(_damaged(row[0], f"{name} is {value!r}, which is no {wanted.__name__}"))
    try:
        converted = {**stored, "usd": Decimal(stored["usd"]), "model_flops": int(stored["model_flops"])}
    except (ArithmeticError, ValueError):
        raise LedgerError(_damaged(row[0], f"{stored['usd']!r} or {stored['model_flops']!r} is no number")) from None
    return Entry(**converted)  # type: ignore[arg-type]  # the loop above has checked every type


def row_hash(row: Sequence[object]) -> str:
    """sha256 over the stored values of every column but `hash`; a blob, which no honest row holds, changes it too."""
    sealed = dict(zip(COLUMNS[:-1], row[:-1], strict=True))
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), default=lambda blob: {"blob": repr(blob)})
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(seq: object, what: str) -> str:
    return f"ledger entry {seq} is damaged: {what}. Restore the ledger file from a copy; entries before it still stand."


def _check(new: EntryFields) -> None:
    unknown = sorted(set(new) - set(EntryFields.__annotations__))
    if unknown:
        raise LedgerError(f"unknown ledger fields {unknown}; allowed: {', '.join(EntryFields.__annotations__)}.")
    _one_of("kind", new["kind"], KINDS)
    _one_of("phase", new.get("phase", ""), PHASES if new["kind"] == "phase" else ("",))
    _one_of("energy_method", new.get("energy_method", "assumed"), ENERGY_METHODS)
    for name in _COUNTS:
        _check_int(name, new.get(name, 0), least=0)
    _check_int("step", new.get("step", -1), least=-1)
    usd: object = new.get("usd", Decimal(0))
    if not isinstance(usd, Decimal) or not usd.is_finite() or usd < 0:
        raise LedgerError(f"usd is {usd!r}; it must be a finite Decimal, 0 or more, never a float: use prices.cost().")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise LedgerError(f"ledger field {name} is {value!r}; allowed: {', '.join(map(repr, allowed))}.")


def _check_int(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise LedgerError(f"ledger field {name} is {value!r}; it must be an integer, {least} or more.")
    if name != "model_flops" and value >= 2**63:
        raise LedgerError(f"ledger field {name} is {value}; the book holds less than 2**63. Append shorter slices.")


def _utc(at: str) -> str:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise LedgerError(f"ledger field at is {at!r}; it must be ISO-8601, as entry.utc_now() gives it.") from None
    if moment.utcoffset() != timedelta(0):
        raise LedgerError(f"ledger field at is {at!r}, which is not UTC; use entry.utc_now().")
    return moment.isoformat(timespec="microseconds")


def _detail(detail: str | Mapping[str, object]) -> str:
    try:
        return canonical_json(dict(json.loads(detail) if isinstance(detail, str) else detail))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"ledger field detail cannot be written as JSON: {error}. Give plain values.") from error
