"""Entries in -> exact sums by group, kept in the book itself, so that a bill of a million entries reads a few hundred rows.

All sums are Python integers (nanoseconds, picodollars, millijoules), so nothing overflows and nothing is rounded.
The table is a cache: it is written in the transaction of its entries, names the entry it goes up to, and a bill that
walks the chain compares it with what the entries give.
"""

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from operator import attrgetter
from typing import NamedTuple, Self

from farthing.errors import LedgerError
from farthing.ledger.entry import GENESIS, Entry, canonical_json, detail_of, picousd, usd_text

Sums = dict[str, int]
"""held_ns, device_ns, busy_ns, picousd, tokens_in, ...; `waste:padding` and the like in picodollars."""
SUMMED = (
    "entries", "held_ns", "device_ns", "busy_ns", "busy_of_ns", "picousd", "tokens_in", "tokens_out", "tokens_trained",
    "model_flops", "energy_mj", "energy_error_mj",
)  # fmt: skip
WASTE_KINDS = ("padding", "flat_groups", "truncated")
HEAD = "head"


class Group(NamedTuple):
    """What the entries of one sum have in common."""

    attempt: int
    kind: str
    stage: str
    phase: str
    purpose: str
    outcome: str
    device: str
    num_devices: int
    price: str
    energy_method: str


_of_group = attrgetter(*Group._fields)


def group_of(entry: Entry) -> Group:
    return Group._make(_of_group(entry))


def sums_of(entry: Entry) -> Sums:
    """The entry's part of every sum."""
    known = entry.busy_ns >= 0 or entry.kind == "correction"
    sums = {
        "entries": 1,
        "held_ns": entry.held_ns,
        "device_ns": entry.held_ns * entry.num_devices,
        "busy_ns": entry.busy_ns if known else 0,
        "busy_of_ns": entry.held_ns if known else 0,
        "picousd": picousd(entry.usd),
        "tokens_in": entry.tokens_in,
        "tokens_out": entry.tokens_out,
        "tokens_trained": entry.tokens_trained,
        "model_flops": entry.model_flops,
        "energy_mj": entry.energy_mj,
        "energy_error_mj": entry.energy_error_mj,
    }
    return sums if entry.detail == "{}" else sums | _waste(entry)


def _waste(entry: Entry) -> Sums:
    wasted = detail_of(entry).get("waste_usd", {})
    if not isinstance(wasted, dict):
        raise LedgerError(f"ledger entry {entry.seq} has a waste_usd that is no table: {wasted!r}.")
    return {f"waste:{name}": _picousd_text(str(usd), entry.seq) for name, usd in wasted.items()}


def _picousd_text(usd: str, seq: int) -> int:
    whole, _, picos = usd.partition(".")
    if not (whole.isdigit() and picos.isdigit() and len(picos) == 12):
        raise LedgerError(f"ledger entry {seq} has a waste_usd of {usd!r}; it must have twelve decimals.")
    return int(whole + picos)


def add_sums(into: Sums, more: Sums, sign: int = 1) -> None:
    for name, value in more.items():
        into[name] = into.get(name, 0) + sign * value


class Totals:
    """Sums by group, in the order in which the groups first appeared."""

    def __init__(self) -> None:
        self.groups: dict[Group, Sums] = {}
        self.head: tuple[int, str] = (0, GENESIS)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        totals = cls()
        for entry in entries:
            totals.add(entry)
        return totals

    def add(self, entry: Entry) -> None:
        add_sums(self.groups.setdefault(group_of(entry), {}), sums_of(entry))
        self.head = (entry.seq, entry.hash)

    def usd(self, stage: str | None = None) -> Decimal:
        """Of one stage, or of all."""
        return Decimal(usd_text(self._sum("picousd", stage)))

    def held_ns(self, stage: str | None = None) -> int:
        return self._sum("held_ns", stage)

    def _sum(self, name: str, stage: str | None) -> int:
        return sum(sums[name] for group, sums in self.groups.items() if stage in (None, group.stage))

    def rows(self) -> Iterator[tuple[str, str]]:
        """(key, sums) as they lie in the book; the head last."""
        for group, sums in self.groups.items():
            yield canonical_json(list(group)), canonical_json(sums)
        yield HEAD, canonical_json(list(self.head))

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str]]) -> Self:
        """LedgerError where a row is not as `rows` writes it."""
        totals = cls()
        for key, sums in rows:
            try:
                if key == HEAD:
                    seq, digest = json.loads(sums)
                    totals.head = (seq, digest)
                else:
                    totals.groups[Group(*json.loads(key))] = {str(n): int(v) for n, v in json.loads(sums).items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise LedgerError(
                    f"the ledger's totals are damaged at {key[:80]!r} ({error}). Restore the file from a copy."
                ) from error
        return totals
