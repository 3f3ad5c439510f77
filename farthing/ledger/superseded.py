"""A stage that is run again -> an entry that says so; such entries -> the sums of the work that no longer counts.

The entry carries the sums of all earlier entries of its stage, taken from the book's own totals under the write lock: a bill
reads them instead of a million entries, and an audit proves them. What was entered stays entered: the money is on the
bill, outside the rental of the successful runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from farthing.errors import LedgerError
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import Entry, EntryFields, detail_of, picousd
from farthing.ledger.totals import Group, Sums, Totals, add_sums, group_of, sums_of

KIND = "supersede"
_COUNTS_NOTHING = ("artefact", KIND)
OUTCOME = "superseded"
"""What a bill calls the outcome of such work; no entry of it says so, because an entry is never changed."""


def supersede(ledger: Ledger, attempt: int, stage: str, reason: str) -> Entry | None:
    """From here on all earlier work of `stage` counts as superseded -> the entry; None where there is nothing to supersede.

    For the running attempt: after its attempt_start and before its first entry of the stage, once for every stage whose
    former result it will not use. `reason` is printed on the bill. Safe to repeat, after a kill for instance.
    """
    if not reason.strip():
        raise LedgerError(f"the earlier work of stage {stage!r} cannot be superseded without a reason; say what has changed.")

    def build() -> list[EntryFields]:
        events = ledger.events()
        _require_open(events, attempt)
        groups = _groups_of(ledger.totals(), stage)
        known = [detail_of(e).get("groups") for e in events if e.kind == KIND and e.stage == stage]
        if not groups or (known and known[-1] == groups):
            return []
        return [{"attempt": attempt, "kind": KIND, "stage": stage, "detail": {"reason": reason, "groups": groups}}]

    written = ledger.append_from(build)
    return written[-1] if written else None


def _groups_of(totals: Totals, stage: str) -> list[list[object]]:
    of_stage = ((g, s) for g, s in totals.groups.items() if g.stage == stage and g.kind not in _COUNTS_NOTHING)
    return [[list(group), sums] for group, sums in of_stage] if stage else []


def _require_open(events: list[Entry], attempt: int) -> None:
    turns = [e for e in events if e.kind in ("attempt_start", "attempt_end")]
    if not turns or turns[-1].kind != "attempt_start" or turns[-1].attempt != attempt:
        raise LedgerError(
            f"attempt {attempt} is not the one that runs; a stage is superseded by the attempt that runs it again."
        )


@dataclass(slots=True)
class Replaced:
    """One supersede entry, as the bill shows it."""

    seq: int
    at: str
    attempt: int
    stage: str
    reason: str
    picousd: int
    """Of the stage's work since it was last superseded."""


@dataclass(slots=True)
class Superseded:
    """All work that no longer counts."""

    sums: dict[Group, Sums] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    """Stage -> seq of its last supersede entry: of the stage's entries only later ones count."""
    entries: list[Replaced] = field(default_factory=list)

    def covers(self, entry: Entry) -> bool:
        """Whether the entry is superseded; a correction is where the entry that it corrects is."""
        seq = detail_of(entry).get("corrects", entry.seq) if entry.kind == "correction" else entry.seq
        return isinstance(seq, int) and seq < self.before.get(entry.stage, 0)

    def restarts(self, attempt: int, stage: str) -> bool:
        """Whether the attempt began `stage` anew of its own will, and not because what came before was lost."""
        return any((e.attempt, e.stage) == (attempt, stage) for e in self.entries)


def read_superseded(events: Iterable[Entry], totals: Totals) -> Superseded:
    """The sums of all superseded work, and of set-up by attempts of which nothing else is left."""
    events, found = list(events), Superseded()
    by_stage: dict[str, dict[Group, Sums]] = {}
    for entry in events:
        if entry.kind == KIND:
            groups, reason = _read(entry)
            before = _usd(by_stage.get(entry.stage, {}))
            by_stage[entry.stage], found.before[entry.stage] = groups, entry.seq
            place = (entry.seq, entry.at, entry.attempt, entry.stage)
            found.entries.append(Replaced(*place, reason, _usd(groups) - before))
    for groups in by_stage.values():
        found.sums |= groups
    late = (e for e in events if e.kind == "correction" and e.seq > found.before.get(e.stage, e.seq) and found.covers(e))
    for entry in late:
        add_sums(found.sums.setdefault(group_of(entry), {}), sums_of(entry))
        next(e for e in reversed(found.entries) if e.stage == entry.stage).picousd += picousd(entry.usd)
    for attempt in _nothing_left(totals, found.sums):
        for group, sums in totals.groups.items():
            if group.attempt == attempt and group.phase and not group.stage:
                found.sums[group] = dict(sums)
    return found


def _usd(groups: Mapping[Group, Sums]) -> int:
    return sum(sums["picousd"] for sums in groups.values())


def _nothing_left(totals: Totals, gone: Mapping[Group, Sums]) -> set[int]:
    """Attempts that worked on stages, and whose work on them is superseded to the last entry."""
    worked = {g: sums["entries"] for g, sums in totals.groups.items() if g.stage and g.kind == "phase"}
    left = {group.attempt for group, count in worked.items() if gone.get(group, {}).get("entries") != count}
    return {group.attempt for group in worked} - left


def _read(entry: Entry) -> tuple[dict[Group, Sums], str]:
    detail = detail_of(entry)
    try:
        pairs = [(Group(*key), {str(n): int(v) for n, v in sums.items()}) for key, sums in detail["groups"]]  # type: ignore[attr-defined]
        if not entry.stage or any(group.stage != entry.stage for group, _ in pairs):
            raise ValueError(f"it is of stage {entry.stage!r} and its sums are of another")
        return dict(pairs), str(detail["reason"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(
            f"entry {entry.seq}, supersede of stage {entry.stage!r}, has a detail that a bill cannot read ({error}); "
            "restore the ledger from a copy."
        ) from error
