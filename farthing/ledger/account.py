"""A ledger -> its account: sums by group, each with whether its work was kept, and the attempts behind them.

This is what every bill, boundary and export is made of, and what a project copies in when a run ends.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farthing.errors import LedgerError
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import GENESIS, Entry, detail_of
from farthing.ledger.superseded import OUTCOME, Replaced, Superseded, read_superseded
from farthing.ledger.totals import Group, Sums, Totals, add_sums
from farthing.ledger.waste import FROM_SCRATCH, OUTSIDE_RANK, Life, Position, thrown_away

WHOLE_CHAIN = 50_000
"""Up to so many entries a bill recomputes the whole chain; of longer books the last TAIL, `farthing audit` the rest."""
TAIL = 1000


class ResumedFrom(BaseModel):
    """The last position that a checkpoint keeps; step -1: no step of that stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    step: int = Field(ge=-1)


class Clock(BaseModel):
    """How long the attempt's process had been there when it opened the book."""

    process_age_ns: int = Field(ge=0)


class StartDetail(BaseModel):
    """What the bill reads from the `detail` of an attempt_start."""

    price: str
    resumed_from: ResumedFrom | None = None
    clock: Clock | None = None


class EndDetail(BaseModel):
    """What the bill reads from the `detail` of an attempt_end."""

    outcome: Literal["ok", "failed", "interrupted", "killed"]
    error: str | None = None
    reason: str | None = None


_Detail = TypeVar("_Detail", StartDetail, EndDetail)


class Row(NamedTuple):
    """Sums of entries alike; `kept` is False for work that was thrown away. Its outcome is `superseded` where that is why."""

    group: Group
    kept: bool
    sums: Sums


OUTSIDE_STAGES = "set-up and between stages"
_NAMES = {"storage": "storage", "api": "bought tokens", "expense": "stated expenses"}


def stage_name(row: Row) -> str:
    """The line of the bill that a row belongs to."""
    if row.group.stage:
        return row.group.stage
    kind = "storage" if row.group.purpose == "storage" else row.group.kind
    return _NAMES.get(kind, OUTSIDE_STAGES)


def outcome_of(row: Row) -> str:
    """What became of the work in the end, as exports name it."""
    return row.group.outcome if row.kept or row.group.outcome == OUTCOME else "thrown_away"


@dataclass(slots=True)
class Attempt:
    """One process life."""

    number: int
    started_at: str
    ended_at: str
    resumed_from: ResumedFrom | None
    outcome: str = "running"
    error: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class Account:
    """What a book says, summed."""

    rows: list[Row] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    prices: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Price id -> its record, as the book keeps it."""
    corrections: list[Entry] = field(default_factory=list)
    artefacts: list[Entry] = field(default_factory=list)
    """Of what was superseded: none."""
    superseded: list[Replaced] = field(default_factory=list)
    num_entries: int = 0
    head_hash: str = GENESIS
    first_hash: str = ""
    """Hash of entry 1: what tells this run from every other."""
    chain: str = "whole"
    """How much of the hash chain was recomputed: whole, or tail."""
    began_at: str = ""
    ended_at: str = ""
    """Of the first and the last entry; empty in an empty book."""
    name: str = ""
    parts: list["Account"] = field(default_factory=list)
    """Of a project: its runs, by name, and what is on its own book; their rows are the project's."""

    @property
    def status(self) -> str:
        """Outcome of the last attempt."""
        return self.attempts[-1].outcome if self.attempts else "running"


def read_account(ledger: Ledger) -> Account:
    """Checks the chain (all of it, or of a long book its tail) and sums; LedgerError where the book does not add up."""
    mirrored, head = ledger.mirror_end(), ledger.head()[0]
    if mirrored > head:
        raise LedgerError(
            f"{ledger.path} ends with entry {head}, and its mirror beside it with {mirrored}: the book has lost entries (its "
            "-wal file may be damaged). Look with `farthing audit`, and restore it from a copy: this bill would be too low"
        )
    is_long = head > WHOLE_CHAIN
    if not is_long:
        ledger.verify()
    with ledger.snapshot():
        if is_long:
            ledger.verify_tail(TAIL)
        totals, events = ledger.totals(), ledger.events()
        account = Account(chain="tail" if is_long else "whole")
        account.num_entries, account.head_hash = totals.head
        first = next(ledger.entries(), None)
        if first is not None:
            account.first_hash, account.began_at = first.hash, first.at
            account.ended_at = ledger.last_at(range(first.seq, account.num_entries + 1))
        superseded = read_superseded(events, totals)
        lives, ranks = _read_events(account, events, totals, ledger, superseded)
        lost = thrown_away(ledger, totals, account.corrections, lives, ranks, superseded)
    account.superseded = superseded.entries
    account.rows = list(_rows(totals, lost, superseded.sums))
    return account


def _rows(totals: Totals, lost: dict[Group, Sums], superseded: dict[Group, Sums]) -> Iterator[Row]:
    for group, sums in totals.groups.items():
        parts = ((lost.get(group), group.outcome), (superseded.get(group), OUTCOME))
        gone = [Row(group._replace(outcome=outcome), False, part) for part, outcome in parts if part is not None]
        kept = dict(sums)
        for row in gone:
            add_sums(kept, row.sums, sign=-1)
        yield from [Row(group, True, kept)] if kept["entries"] else []
        yield from gone


def _read_events(
    account: Account, events: list[Entry], totals: Totals, ledger: Ledger, superseded: Superseded
) -> tuple[list[Life], dict[str, int]]:
    starts = [e for e in events if e.kind == "attempt_start"]
    ends = {e.attempt: e for e in events if e.kind == "attempt_end"}
    _check_turns(starts, ends, totals, ledger, account.num_entries)
    account.prices = {str(d["id"]): d for d in (detail_of(e) for e in events if e.kind == "price")}
    account.corrections = [e for e in events if e.kind == "correction"]
    account.artefacts = [e for e in events if e.kind == "artefact" and not superseded.covers(e)]
    details = {e.attempt: _read_detail(e, StartDetail) for e in starts}
    ranks = _ranks([e.attempt for e in starts], details, totals)
    lives = []
    for number, start in enumerate(starts):
        is_last = number == len(starts) - 1
        stop = account.num_entries + 1 if is_last else starts[number + 1].seq
        resumed = details[start.attempt].resumed_from
        began_at = _began_at(start, details[start.attempt].clock)
        attempt = Attempt(start.attempt, began_at, start.at, resumed)
        end = ends.get(start.attempt)
        if end is not None:
            ended = _read_detail(end, EndDetail)
            attempt.ended_at, attempt.outcome, attempt.error, attempt.reason = end.at, ended.outcome, ended.error, ended.reason
        else:
            attempt.ended_at = ledger.last_at(range(start.seq, stop))
            attempt.outcome = "running" if is_last else "killed"  # a later attempt holds the run: this one cannot be running
        account.attempts.append(attempt)
        at: Position = FROM_SCRATCH if resumed is None else (ranks[resumed.stage], resumed.step)
        restarts = resumed is not None and superseded.restarts(start.attempt, resumed.stage)
        life = Life(start.attempt, range(start.seq, stop), at, attempt.outcome, restarts)
        mine = [(e, detail_of(e).get("keeps")) for e in account.artefacts if e.attempt == start.attempt]
        life.kept_evals = {e.mono_ns for e, keeps in mine if keeps == "eval"}
        life.kept_pairs = {e.stage: e.seq for e, keeps in mine if keeps == "pairs"}
        lives.append(life)
    return lives, ranks


def _began_at(start: Entry, clock: Clock | None) -> str:
    """When the attempt's process began, which is held time too: some seconds before it had a ledger to write to."""
    if clock is None:
        return start.at
    age = timedelta(microseconds=clock.process_age_ns // 1000)
    return (datetime.fromisoformat(start.at) - age).isoformat(timespec="microseconds")


def _check_turns(starts: list[Entry], ends: dict[int, Entry], totals: Totals, ledger: Ledger, last_seq: int) -> None:
    for before, start in pairwise(starts):
        if start.attempt <= before.attempt:
            raise LedgerError(f"entry {start.seq} starts attempt {start.attempt} out of turn; attempts only count up.")
    strangers = {g.attempt for g in totals.groups if g.kind in ("phase", "attempt_end")} - {start.attempt for start in starts}
    if strangers:
        first = next(ledger.entries(0, "attempt = ? AND kind IN ('phase', 'attempt_end')", (min(strangers),)))
        raise LedgerError(
            f"entry {first.seq} ({first.kind}) belongs to attempt {first.attempt}, which never started; "
            "the bill would not add up."
        )
    for number, start in enumerate(starts):
        end = ends.get(start.attempt)
        stop = starts[number + 1].seq if number + 1 < len(starts) else last_seq + 1
        late = None if end is None else next(ledger.entries(end.seq, "seq < ? AND kind = 'phase'", (stop,)), None)
        if late is not None:
            raise LedgerError(
                f"entry {late.seq} (phase) belongs to attempt {late.attempt}, which has ended; the bill would not add up."
            )


def _ranks(attempts: list[int], details: dict[int, StartDetail], totals: Totals) -> dict[str, int]:
    """Stages by their first appearance, as what was resumed or worked on; work outside every stage before them all."""
    ranks = {"": OUTSIDE_RANK}
    for attempt in attempts:
        resumed = details[attempt].resumed_from
        worked_on = [g.stage for g in totals.groups if g.attempt == attempt and g.phase]
        for stage in ([resumed.stage] if resumed else []) + worked_on:
            ranks.setdefault(stage, len(ranks) - 1)
    return ranks


def _read_detail(entry: Entry, model: type[_Detail]) -> _Detail:
    try:
        return model.model_validate_json(entry.detail)
    except ValidationError as error:
        raise LedgerError(
            f"entry {entry.seq}, {entry.kind} of attempt {entry.attempt}, has a detail that a bill cannot read: {error}"
        ) from error


def to_groups(rows: list[Row]) -> list[list[Any]]:
    """Rows as JSON, attempts folded together: what a project keeps of a run."""
    folded: dict[tuple[Group, bool], Sums] = {}
    for row in rows:
        add_sums(folded.setdefault((row.group._replace(attempt=0), row.kept), {}), row.sums)
    return [[[*group, kept], sums] for (group, kept), sums in folded.items()]


def from_groups(groups: Any) -> list[Row]:
    """LedgerError where they are not as `to_groups` writes them."""
    try:
        return [Row(Group(*key[:-1]), bool(key[-1]), {str(n): int(v) for n, v in sums.items()}) for key, sums in groups]
    except (TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"a run's figures in the project are damaged ({error}): {json.dumps(groups)[:80]}") from error
