"""What each attempt did where, and where the next ones resumed -> which of it was thrown away.

A position is (rank of the stage in the run, step). A checkpoint at a position keeps that position and all before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

SET_UP_STEP = -1
Position = tuple[int, int]
"""(stage rank, step); the rank of work outside every stage is -1."""
FROM_SCRATCH: Position = (-2, -1)
"""Before everything: what an attempt without `resumed_from` starts at."""


@dataclass(slots=True)
class Spent:
    """Exact sums: wall nanoseconds, device-nanoseconds and picodollars."""

    held_ns: int = 0
    device_ns: int = 0
    picousd: int = 0

    def add(self, other: "Spent") -> None:
        self.held_ns += other.held_ns
        self.device_ns += other.device_ns
        self.picousd += other.picousd


@dataclass(slots=True)
class Life:
    """One attempt as far as waste is concerned."""

    resumed_at: Position
    outcome: str = "running"
    spent: dict[Position, Spent] = field(default_factory=dict)


def thrown_away(lives: list[Life]) -> list[frozenset[Position]]:
    """For each attempt, in order, the positions whose work did not reach the end of the run.

    Attempt a loses what lies after the checkpoint from which attempt a+1 resumed, and after the checkpoint of any later
    attempt that went back further still, up to the next attempt that ended well. Set-up counts as lost only if
    nothing else of the attempt was kept. An attempt that ended well loses nothing; nor, so far, does the last one.
    """
    return [_lost(life, _went_back_to(lives[number + 1 :])) for number, life in enumerate(lives)]


def _went_back_to(later: list[Life]) -> Position | None:
    earliest: Position | None = None
    for life in later:
        earliest = life.resumed_at if earliest is None else min(earliest, life.resumed_at)
        if life.outcome == "ok":
            break
    return earliest


def _lost(life: Life, kept_to: Position | None) -> frozenset[Position]:
    if kept_to is None or life.outcome == "ok":
        return frozenset()
    kept = {position for position in life.spent if position <= kept_to}
    progress = {position for position in kept if not _is_set_up(position, kept_to)}
    return frozenset(life.spent) - (kept if progress else frozenset())


def _is_set_up(position: Position, kept_to: Position) -> bool:
    rank, step = position
    return rank == -1 or (rank == kept_to[0] and step == SET_UP_STEP)


def total(spent: Mapping[Position, Spent]) -> Spent:
    both = Spent()
    for part in spent.values():
        both.add(part)
    return both
