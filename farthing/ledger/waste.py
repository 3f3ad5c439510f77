"""What each attempt did where, and where the next ones resumed -> which of it was thrown away.

A position is (rank of the stage in the run, step). A checkpoint at a position keeps that position and all before it; an
evaluation that was written to disk is kept as well, and so are judged pairs: no later attempt repeats them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from farthing.ledger.entries import Ledger
from farthing.ledger.entry import Entry
from farthing.ledger.superseded import Superseded
from farthing.ledger.totals import Group, Sums, Totals, add_sums, group_of, sums_of

SET_UP_STEP = -1
OUTSIDE_RANK = -1
Position = tuple[int, int]
"""(stage rank, step); the rank of work outside every stage is -1."""
FROM_SCRATCH: Position = (-2, -1)
"""Before everything: what an attempt without `resumed_from` starts at."""
Lost = dict[Group, Sums]


@dataclass(slots=True)
class Life:
    """One attempt as far as waste is concerned."""

    attempt: int
    seqs: range
    """From its attempt_start to the next one's."""
    resumed_at: Position
    outcome: str = "running"
    restarts: bool = False
    """Whether it began a stage anew because the recipe had changed: that is no going back."""
    kept_evals: set[int] = field(default_factory=set)
    """mono_ns of the flushes whose evaluation is on disk."""
    kept_pairs: dict[str, int] = field(default_factory=dict)
    """Stage -> the entry which says that the pairs it had judged are on disk."""


def thrown_away(
    ledger: Ledger,
    totals: Totals,
    corrections: Iterable[Entry],
    lives: list[Life],
    ranks: dict[str, int],
    superseded: Superseded,
) -> Lost:
    """The sums of the work that did not reach the end of the run, besides what was superseded.

    Attempt a loses what lies after the checkpoint from which attempt a+1 resumed, and after the checkpoint of any later
    attempt that went back further still, up to the next attempt that ended well. Set-up counts as lost only if
    nothing else of the attempt was kept. An attempt that ended well loses nothing; nor, so far, does the last one.
    """
    lost: Lost = {}
    for number, life in enumerate(lives):
        kept_to = _went_back_to(lives[number + 1 :])
        if kept_to is None or life.outcome == "ok":
            continue
        counting = _still_counting(totals, life, superseded)
        if not _kept_progress(ledger, counting, life, kept_to, ranks, superseded):
            for group, sums in counting.items():
                add_sums(lost.setdefault(group, {}), sums)
            continue
        mine = [entry for entry in corrections if entry.attempt == life.attempt and entry.phase]
        for entry in (*_after(ledger, life, kept_to, ranks, superseded), *mine):
            if _is_lost(entry, life, kept_to, ranks) and not superseded.covers(entry):
                add_sums(lost.setdefault(group_of(entry), {}), sums_of(entry))
    return lost


def _went_back_to(later: list[Life]) -> Position | None:
    earliest: Position | None = None
    for life in later:
        if not life.restarts:
            earliest = life.resumed_at if earliest is None else min(earliest, life.resumed_at)
        if life.outcome == "ok":
            break
    return earliest


def _still_counting(totals: Totals, life: Life, superseded: Superseded) -> dict[Group, Sums]:
    """The attempt's phases and their corrections, without what was superseded."""
    left = {}
    for group, sums in totals.groups.items():
        if group.attempt == life.attempt and group.phase:
            rest = dict(sums)
            add_sums(rest, superseded.sums.get(group, {}), sign=-1)
            if rest["entries"]:
                left[group] = rest
    return left


def _kept_progress(
    ledger: Ledger,
    counting: dict[Group, Sums],
    life: Life,
    kept_to: Position,
    ranks: dict[str, int],
    superseded: Superseded,
) -> bool:
    """Whether anything but set-up is kept."""
    if life.kept_evals or life.kept_pairs:
        return True
    mine = {group.stage for group in counting if group.kind == "phase"}
    if any(OUTSIDE_RANK < ranks[stage] < kept_to[0] for stage in mine):
        return True
    stage = next((name for name, rank in ranks.items() if rank == kept_to[0]), None)
    if stage is None or stage not in mine or stage == "":
        return False
    within = "seq < ? AND kind = 'phase' AND attempt = ? AND stage = ? AND step BETWEEN 0 AND ?"
    values: tuple[int | str, ...] = (life.seqs.stop, life.attempt, stage, kept_to[1])
    first = max(life.seqs.start, superseded.before.get(stage, 0))
    return next(ledger.entries(first - 1, within, values), None) is not None


def _after(ledger: Ledger, life: Life, kept_to: Position, ranks: dict[str, int], superseded: Superseded) -> Iterable[Entry]:
    """The attempt's phases after the kept position that were not superseded; SQLite skips the others."""
    earlier = [name for name, rank in ranks.items() if rank < kept_to[0]]
    stage = next((name for name, rank in ranks.items() if rank == kept_to[0]), "")
    marks = ", ".join("?" * len(earlier))
    gone = "".join(" OR (stage = ? AND seq < ?)" for _ in superseded.before)
    kept = f"stage IN ({marks}) OR (stage = ? AND step <= ?){gone}"
    within = f"seq < ? AND kind = 'phase' AND attempt = ? AND NOT ({kept})"
    before: list[int | str] = [part for pair in superseded.before.items() for part in pair]
    values = (life.seqs.stop, life.attempt, *earlier, stage, kept_to[1], *before)
    return ledger.entries(life.seqs.start - 1, within, values)


def _is_lost(entry: Entry, life: Life, kept_to: Position, ranks: dict[str, int]) -> bool:
    on_disk = entry.phase == "eval" and entry.mono_ns in life.kept_evals
    on_disk |= entry.phase in ("rollout", "reward") and entry.seq < life.kept_pairs.get(entry.stage, 0)
    return not on_disk and (ranks[entry.stage], entry.step) > kept_to
