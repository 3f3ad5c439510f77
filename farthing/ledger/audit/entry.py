"""A stored row -> its figures as numbers, or what is wrong with a column: names, signs, and forms of values."""

import json
from datetime import datetime
from operator import le
from typing import Any, NamedTuple

from farthing.ledger.audit.alike import Alike
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import ENERGY_METHODS, KINDS, OUTCOMES, PHASES, PURPOSES, Row, picousd

_EMPTY: dict[str, Any] = {}
_COUNTS = ("held_ns", "tokens_in", "tokens_out", "tokens_trained", "energy_mj", "energy_error_mj")
_SIGNED_USD = ("correction", "run")
_ALLOWED = {
    "kind": frozenset(KINDS),
    "purpose": frozenset(PURPOSES),
    "outcome": frozenset(OUTCOMES),
    "energy_method": frozenset(ENERGY_METHODS),
}


class Entry(NamedTuple):
    """A row with its numbers read."""

    row: Row
    picousd: int
    model_flops: int
    detail: dict[str, Any]


class Columns:
    """Reads rows; `check` says which columns hold what the schema does not allow."""

    def __init__(self) -> None:
        self.check = Check(
            "columns", "Does every column hold a value of its kind: no negative figure, no unknown name, UTC times?"
        )
        self._known: set[tuple[str, ...]] = set()
        self._at = ""

    def read(self, row: Row) -> Entry:
        """Numbers that cannot be read count as zero, and are named."""
        try:
            usd = picousd(row.usd)
        except ValueError as error:
            usd = self._wrong(row, "usd", str(error))
        flops = int(row.model_flops) if row.model_flops.removeprefix("-").isdecimal() else None
        if flops is None:
            flops = self._wrong(row, "model_flops", f"{row.model_flops!r} is no integer")
        detail = _EMPTY if row.detail == "{}" else self._detail(row)
        names = (row.kind, row.purpose, row.outcome, row.energy_method, row.phase)
        if names not in self._known:
            self._names(row, names)
        is_correction = row.kind == "correction"
        if not is_correction and (
            row.held_ns < 0
            or flops < 0
            or row.tokens_in < 0
            or row.tokens_out < 0
            or row.tokens_trained < 0
            or row.energy_mj < 0
            or row.energy_error_mj < 0
            or (usd < 0 and row.kind != "run")
        ):
            self._negative(row, usd, flops)
        if row.attempt < 0 or row.num_devices < 0 or row.mono_ns < 0 or row.step < -1:
            self._wrong(row, "attempt, num_devices, mono_ns, step", "one of them is negative")
        if not is_correction and not -1 <= row.busy_ns <= row.held_ns:
            self._wrong(row, "busy_ns", f"{row.busy_ns} ns busy of {row.held_ns} ns held")
        if row.at != self._at:
            self._time(row)
        return Entry(row, usd, flops, detail)

    def fits(self, rows: Alike) -> bool:
        """Whether phases alike hold what the schema allows; `Alike` has read their types, amounts and times."""
        attempt, kind, _, phase, purpose, outcome, _, num_devices, _, energy_method = rows.key
        return (
            (kind, purpose, outcome, energy_method, phase) in self._known
            and min(attempt, num_devices) >= 0
            and min(map(min, (rows.held_ns, rows.tokens_in, rows.tokens_out, rows.tokens_trained))) >= 0
            and min(map(min, (rows.energy_mj, rows.energy_error_mj, rows.mono_ns))) >= 0
            and min(min(rows.step), min(rows.busy_ns)) >= -1
            and all(map(le, rows.busy_ns, rows.held_ns))
        )

    def _names(self, row: Row, names: tuple[str, ...]) -> None:
        for column, allowed in _ALLOWED.items():
            if getattr(row, column) not in allowed:
                self._wrong(row, column, f"{getattr(row, column)!r} is not among {', '.join(sorted(allowed - {''}))}")
        if row.kind == "phase" and row.phase not in PHASES:
            self._wrong(row, "phase", f"{row.phase!r} is not among {', '.join(PHASES)}")
        if row.kind not in ("phase", "correction") and row.phase:
            self._wrong(row, "phase", f"an entry of kind {row.kind} has no phase, this one has {row.phase!r}")
        if not self.check.num_findings:
            self._known.add(names)

    def _negative(self, row: Row, usd: int, flops: int) -> None:
        wrong = [name for name in _COUNTS if getattr(row, name) < 0]
        wrong += ["usd"] * (usd < 0 and row.kind not in _SIGNED_USD) + ["model_flops"] * (flops < 0)
        for name in wrong:
            self._wrong(row, name, f"{getattr(row, name)} is negative; only a correction may take away")

    def _time(self, row: Row) -> None:
        self._at = row.at
        try:
            moment = datetime.fromisoformat(row.at)
            is_utc = row.at == moment.isoformat(timespec="microseconds") and row.at.endswith("+00:00")
        except ValueError:
            is_utc = False
        if not is_utc:
            self._wrong(row, "at", f"{row.at!r} is no time in UTC of the form 2026-11-22T01:02:03.500000+00:00")

    def _detail(self, row: Row) -> dict[str, Any]:
        try:
            found = json.loads(row.detail)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self._wrong(row, "detail", "it is no JSON object")
            return _EMPTY
        return found

    def _wrong(self, row: Row, column: str, what: str) -> int:
        self.check.found(Finding(what, entry=row.seq, columns=(column,)))
        return 0
