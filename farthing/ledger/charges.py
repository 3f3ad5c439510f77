"""What costs money but is no phase -> entries: storage, tokens bought from an API, stated expenses, corrections.

Stages and tools call these; each looks its price up in a price book, enters the price record once, and never books a zero
because a price was missing.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Literal, cast

from farthing.errors import LedgerError
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import AMOUNTS, MONEY, Entry, EntryFields, detail_of, to_picousd
from farthing.ledger.price_record import PriceRecord, RateRecord
from farthing.ledger.prices import PriceBook, gb_months, storage_cost

MOST_USD = 10**12
"""More than anything costs: what is above it is a slip of the keyboard."""


def price_entries(ledger: Ledger, records: Iterable[PriceRecord | RateRecord]) -> list[EntryFields]:
    """Price entries for the records that the book does not hold yet; call it under the write lock (`append_from`)."""
    known = {str(detail_of(entry)["id"]) for entry in ledger.events() if entry.kind == "price"}
    new = {record.id: record for record in records if record.id not in known}
    return [
        {"attempt": 0, "kind": "price", "device": record.key, "price": record.id, "detail": record.detail()}
        for record in new.values()
    ]


def charge_storage(
    ledger: Ledger, rate: RateRecord, num_bytes: int, held_ns: int, what: str, attempt: int = 0, method: str = "measured"
) -> Entry:
    """`num_bytes` kept for `held_ns`, by the GB-month (1e9 bytes, 730 hours)."""
    if rate.unit != "GB-month":
        raise LedgerError(f"storage is priced by the GB-month; {rate.id} is per {rate.unit}. Name a record of that unit.")
    if num_bytes < 0 or held_ns < 0:
        raise LedgerError(f"storage of {num_bytes} bytes for {held_ns} ns cannot be charged; both must be 0 or more.")
    fields: EntryFields = {
        "attempt": attempt,
        "kind": "storage",
        "purpose": "storage",
        "outcome": "ok",
        "price": rate.id,
        "usd": storage_cost(num_bytes, held_ns, rate.usd_per_unit),
        "detail": {
            "bytes": num_bytes,
            "held_ns": held_ns,
            "quantity": f"{gb_months(num_bytes, held_ns):f}",
            "unit": "GB-month",
            "what": what,
            "method": method,
        },
    }
    return ledger.append_from(lambda: [*price_entries(ledger, [rate]), fields])[-1]


@dataclass(frozen=True)
class Purchase:
    """Tokens bought of one model, as `charge_api` enters them."""

    provider: str
    model: str
    """As the price book calls it."""
    role: Literal["teacher", "judge"]
    tokens_in: int
    tokens_out: int
    requests: int
    answers: str = ""


def charge_api(
    ledger: Ledger,
    book: PriceBook,
    *,
    provider: str,
    model: str,
    role: Literal["teacher", "judge"],
    tokens_in: int,
    tokens_out: int,
    requests: int = 1,
    attempt: int = 0,
    stage: str = "",
    step: int = -1,
    on: datetime.date | None = None,
    answers: str = "",
) -> Entry:
    """Tokens bought from somebody's API, at the rates `api/MODEL/in` and `api/MODEL/out` of the price book (unit: token).

    `answers`: up to which row of which file of answers is paid with this entry, where there is one (see bought.py).
    """
    day = on or datetime.datetime.now(datetime.UTC).date()
    into, out = (book.rate(f"api/{model}/{way}", day) for way in ("in", "out"))
    for rate in (into, out):
        if rate.unit != "token":
            raise LedgerError(f"bought tokens are priced by the token; {rate.id} is per {rate.unit}. Mend the price record.")
    with localcontext(MONEY):
        usd = to_picousd(tokens_in * into.usd_per_unit + tokens_out * out.usd_per_unit)
    fields: EntryFields = {
        "attempt": attempt,
        "kind": "api",
        "purpose": "api_teacher" if role == "teacher" else "evaluation",
        "outcome": "ok",
        "stage": stage,
        "step": step,
        "price": into.id,
        "usd": usd,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "detail": {
            "provider": provider, "model": model, "role": role, "price_in": into.id, "price_out": out.id, "requests": requests,
            **({"answers": answers} if answers else {}),
        },
    }  # fmt: skip
    return ledger.append_from(lambda: [*price_entries(ledger, [into, out]), fields])[-1]


def charge_expense(
    ledger: Ledger,
    usd: Decimal,
    *,
    what: str,
    source: str,
    purpose: str = "",
    quantity: str = "",
    unit: str = "",
    attempt: int = 0,
) -> Entry:
    """An amount that somebody states, with where it is from: data bought, labelling, an invoice."""
    if not source.strip():
        raise LedgerError(f"the expense {what!r} has no source; say where the amount is from, such as an invoice number.")
    if not (usd.is_finite() and 0 < usd <= MOST_USD):
        raise LedgerError(f"the expense {what!r} is of {usd} USD; stated are amounts above 0 and up to {MOST_USD:,}.")
    detail = {"what": what, "source": source, "quantity": quantity, "unit": unit}
    return ledger.append(attempt=attempt, kind="expense", purpose=purpose, outcome="ok", usd=usd, detail=detail)


def correct(ledger: Ledger, seq: int, reason: str, usd: Decimal = Decimal(0), **differences: int) -> Entry:
    """A new entry that changes what entry `seq` adds to the sums, by differences that may be negative; `seq` itself stays."""
    unknown = differences.keys() - {*AMOUNTS, "busy_ns"}
    if unknown:
        raise LedgerError(f"a correction cannot change {sorted(unknown)}; allowed: usd, {', '.join(AMOUNTS)}, busy_ns.")
    if not reason.strip():
        raise LedgerError(f"the correction of entry {seq} has no reason; say what was wrong.")
    if not usd.is_finite() or not (usd or any(differences.values())):
        raise LedgerError(f"the correction of entry {seq} changes nothing ({usd} USD); give what to add, such as -0.25.")

    def build() -> list[EntryFields]:
        is_there = 1 <= seq <= ledger.head()[0]
        wrong = next(ledger.entries(seq - 1, "seq = ?", (seq,)), None) if is_there else None
        if wrong is None or wrong.kind not in ("phase", "storage", "api", "expense"):
            found = "there is none" if wrong is None else f"it is of kind {wrong.kind}"
            raise LedgerError(
                f"entry {seq} cannot be corrected: {found}; corrected are phase, storage, api and expense entries."
            )
        earlier = (e for e in ledger.events() if e.kind == "correction" and detail_of(e)["corrects"] == seq)
        stands = wrong.usd + sum((e.usd for e in earlier), Decimal(0))
        if not 0 <= stands + usd <= MOST_USD:
            raise LedgerError(
                f"entry {seq} stands at {stands:f} USD; with {usd:f} it would be {stands + usd:f}. A cost is from 0 to "
                f"{MOST_USD:,} USD."
            )
        same: EntryFields = {
            "attempt": wrong.attempt, "kind": "correction", "purpose": wrong.purpose, "outcome": "ok", "stage": wrong.stage,
            "step": wrong.step, "phase": wrong.phase, "num_devices": wrong.num_devices, "device": wrong.device,
            "price": wrong.price, "usd": usd, "busy_ns": 0, "energy_method": wrong.energy_method,
            "detail": {"corrects": seq, "reason": reason},
        }  # fmt: skip
        return [same | cast(EntryFields, differences)]

    return ledger.append_from(build)[-1]
