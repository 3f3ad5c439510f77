"""Requests waiting -> sequences in slots. Continuous batching: a slot that falls free is filled at the next step."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Request:
    """A prompt and the completions wanted of it, one per seed."""

    index: int
    prompt: list[int]
    seeds: list[int]
    num_placed: int = 0
    """Completions of this request that have got a slot so far."""

    @property
    def num_waiting(self) -> int:
        return len(self.seeds) - self.num_placed


@dataclass
class Scheduler:
    """Which completion sits in which slot. Slots 0..num_active-1 are always the active ones."""

    num_slots: int
    waiting: deque[Request] = field(default_factory=deque)
    active: list[tuple[int, int]] = field(default_factory=list)
    """Per slot: (request index, completion index)."""

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting.extend(requests)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.active)

    def admit(self) -> list[tuple[Request, list[int]]]:
        """Fills the free slots in order of arrival -> (request, slots given to it); a group may be split over steps."""
        admitted: list[tuple[Request, list[int]]] = []
        while self.waiting and len(self.active) < self.num_slots:
            request = self.waiting[0]
            count = min(request.num_waiting, self.num_slots - len(self.active))
            slots = list(range(len(self.active), len(self.active) + count))
            self.active += [(request.index, request.num_placed + i) for i in range(count)]
            request.num_placed += count
            admitted.append((request, slots))
            if not request.num_waiting:
                self.waiting.popleft()
        return admitted

    def release(self, finished: Sequence[int]) -> list[tuple[int, int]]:
        """Takes finished slots out; returns the (source, target) moves that keep the active ones contiguous."""
        gone = set(finished)
        num_left = len(self.active) - len(gone)
        holes = [slot for slot in sorted(gone) if slot < num_left]
        movers = [slot for slot in range(num_left, len(self.active)) if slot not in gone]
        moves = list(zip(movers, holes, strict=True))
        for source, target in moves:
            self.active[target] = self.active[source]
        del self.active[num_left:]
        return moves
