"""Entries -> the sums of the whole book and of its groups, and whether the ledger's own table of totals agrees."""

import json
import sqlite3
from operator import add
from typing import Any

from farthing.ledger.audit.alike import Alike
from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import NS_PER_HOUR, dollars, picousd
from farthing.ledger.audit.template import Key

_NAMES = (
    "entries", "held_ns", "device_ns", "busy_ns", "busy_of_ns", "picousd", "tokens_in", "tokens_out", "tokens_trained",
    "model_flops", "energy_mj", "energy_error_mj",
)  # fmt: skip
_NO_WORK = ("artefact", "supersede")


class Sums:
    """Adds up exactly, in integers. Memory grows with the number of groups, not of entries."""

    def __init__(self) -> None:
        self.check = Check("sums", "Do the entries sum to the totals that the ledger keeps, group by group?")
        self.picousd = 0
        self.groups: dict[Key, list[int]] = {}
        self._waste: dict[tuple[Key, str], int] = {}

    def add(self, entry: Entry) -> None:
        row, usd, flops, detail = entry
        self.picousd += usd
        key = (
            row.attempt, row.kind, row.stage, row.phase, row.purpose, row.outcome, row.device, row.num_devices, row.price,
            row.energy_method,
        )  # fmt: skip
        held, busy = row.held_ns, row.busy_ns
        sums = self.groups.get(key)
        if sums is None:
            sums = self.groups[key] = [0] * len(_NAMES)
        sums[0] += 1
        sums[1] += held
        sums[2] += held * row.num_devices
        if busy >= 0 or row.kind == "correction":
            sums[3] += busy
            sums[4] += held
        sums[5] += usd
        sums[6] += row.tokens_in
        sums[7] += row.tokens_out
        sums[8] += row.tokens_trained
        sums[9] += flops
        sums[10] += row.energy_mj
        sums[11] += row.energy_error_mj
        if detail and (waste := detail.get("waste_usd")):
            self._add_waste(key, waste)

    def take(self, rows: Alike) -> None:
        """Phases alike."""
        sums = self.groups.get(rows.key)
        if sums is None:
            sums = self.groups[rows.key] = [0] * len(_NAMES)
        held_ns, busy_ns, usd = sum(rows.held_ns), sum(rows.busy_ns), sum(rows.picousd)
        known_ns = held_ns
        if min(rows.busy_ns) < 0:
            known = [(busy, held) for busy, held in zip(rows.busy_ns, rows.held_ns, strict=True) if busy >= 0]
            busy_ns, known_ns = sum(busy for busy, _ in known), sum(held for _, held in known)
        more = (
            len(rows), held_ns, held_ns * rows.key[7], busy_ns, known_ns, usd,
            sum(rows.tokens_in), sum(rows.tokens_out), sum(rows.tokens_trained), sum(rows.flops), sum(rows.energy_mj),
            sum(rows.energy_error_mj),
        )  # fmt: skip
        self.groups[rows.key] = list(map(add, sums, more))
        self.picousd += usd
        for _, name, picousd_ in rows.waste:
            self._waste[rows.key, name] = self._waste.get((rows.key, name), 0) + picousd_

    def _add_waste(self, key: Key, waste: object) -> None:
        if isinstance(waste, dict):
            for name, text in waste.items():
                try:
                    self._waste[key, name] = self._waste.get((key, name), 0) + picousd(text)
                except (ValueError, TypeError, AttributeError):
                    continue  # the prices check names it

    def whole(self) -> dict[str, int]:
        """Every figure of every entry, summed."""
        columns = zip(*self.groups.values(), strict=True) if self.groups else ([0] for _ in _NAMES)
        return dict(zip(_NAMES, map(sum, columns), strict=True))

    def of_phases(self, name: str, outcome: str | None = None) -> int:
        """A figure of the phase entries, or of those with one outcome."""
        column = _NAMES.index(name)
        return sum(sums[column] for key, sums in self.groups.items() if key[1] == "phase" and outcome in (None, key[5]))

    def of_stage(self, stage: str) -> dict[str, str]:
        """The stage's groups as the table of totals has them, without those that stand for no work."""
        mine = ((key, sums) for key, sums in self.groups.items() if key[2] == stage and key[1] not in _NO_WORK)
        return {text_of(list(key)): text_of(self._named(key, sums)) for key, sums in mine}

    def to_json(self) -> dict[str, Any]:
        whole = self.whole()
        by_stage: dict[str, int] = {}
        for key, sums in self.groups.items():
            by_stage[key[2]] = by_stage.get(key[2], 0) + sums[5]
        return {
            "usd": dollars(self.picousd),
            "device_hours": whole["device_ns"] / NS_PER_HOUR,
            **{
                name: whole[name]
                for name in ("held_ns", "tokens_in", "tokens_out", "tokens_trained", "model_flops", "energy_mj")
            },
            "usd_by_stage": {stage: dollars(usd) for stage, usd in by_stage.items()},
        }

    def compare(self, db: sqlite3.Connection | None, head: tuple[int, str]) -> None:
        """Holds the groups against the table `totals`."""
        self.check.evidence = f"{dollars(self.picousd)} USD in {len(self.groups)} groups of {head[0]} entries"
        try:
            stored: dict[str, str] = {} if db is None else dict(db.execute("SELECT key, sums FROM totals").fetchall())
        except (sqlite3.DatabaseError, UnicodeDecodeError, ValueError) as error:
            self.check.found(Finding(f"the table of totals cannot be read: {error}", restore=_REBUILD))
            return
        if db is None or (not stored and not self.groups):
            self.check.not_checkable = "there is no table of totals to compare with"
            return
        if stored.pop("head", None) != text_of(list(head)):
            self.check.found(Finding("the table of totals was not made from the entries up to the head", restore=_REBUILD))
            return
        own = {text_of(list(key)): text_of(self._named(key, sums)) for key, sums in self.groups.items()}
        for name in sorted(own.keys() | stored.keys(), key=str):
            if own.get(name) != stored.get(name):
                what = f"group {name}: the entries sum to {own.get(name)}, the table says {stored.get(name)}"
                self.check.found(Finding(what[:700], restore=_REBUILD))

    def _named(self, key: Key, sums: list[int]) -> dict[str, int]:
        waste = {f"waste:{name}": value for (group, name), value in self._waste.items() if group == key}
        return dict(zip(_NAMES, sums, strict=True)) | waste


_REBUILD = "the entries are right, if their chain is: the table is a cache that can be summed anew from them"


def text_of(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
