"""Entries of attempts -> whether each is complete, and its phases fill the time it held the machine: no gap, no overlap.

The monotonic clock decides, to the nanosecond: what is flushed together must sum to the time since the flush before.
The wall clock (`at`) is only compared with it, because it may be set back.
"""

from dataclasses import dataclass
from datetime import datetime

from farthing.ledger.audit.alike import Phases, to_row
from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.report import Check, Finding
from farthing.ledger.audit.schema import NS_PER_HOUR, Row
from farthing.ledger.audit.template import ORDER

_WALL_TOLERANCE_S = 2.0
_NS_PER_S = 1_000_000_000
_AT, _HELD_NS, _MONO_NS, _SEQ = (ORDER.index(name) for name in ("at", "held_ns", "mono_ns", "seq"))


@dataclass
class Attempt:
    """One process life, as far as it has been read."""

    number: int
    boot_id: str | None = None
    began_ns: int | None = None
    """Start of its process on the monotonic clock; None where no clock was recorded."""
    clock_ns: int = 0
    """When its clock began to run."""
    mark_ns: int = 0
    """End of the last whole flush."""
    ended: str | None = None
    held_ns: int = 0
    first: tuple[datetime, int] | None = None
    last_at: str = ""


class Hours:
    """`attempts` and `time` are its two answers."""

    def __init__(self) -> None:
        self.complete = Check("attempts", "Has every attempt a start and an end, in turn, with nothing outside them?")
        self.time = Check("time", "Do the phases of every attempt sum to the time it held the machine, without gap or overlap?")
        self.attempts: dict[int, Attempt] = {}
        self.wall_jumps = 0
        self.backwards = 0
        self._current: Attempt | None = None
        self._flush_ns, self._flush_sum, self._flush_seq = 0, 0, 0
        self._checked_ns = 0
        self._setup_overlap_ns = 0
        self._at = ""

    def add(self, entry: Entry) -> None:
        row = entry.row
        if row.kind == "phase":
            self._phase(row)
        elif row.kind == "attempt_start":
            self._start(entry)
        elif row.kind == "attempt_end":
            self._end(entry)
        elif row.kind == "supersede":
            self._attempt_of(row)

    def finish(self) -> None:
        """Call once, after the last entry."""
        self._close_flush()
        unended = [a.number for a in self.attempts.values() if a.ended is None]
        for number in unended[:-1] if unended and unended[-1] == max(self.attempts) else unended:
            self.complete.evidence += f"attempt {number} was killed; "
        if unended and unended[-1] == max(self.attempts):
            self.complete.not_checkable = (
                f"attempt {unended[-1]} has no end yet: it is running, or was killed and nothing has gone on since"
            )
        outcomes = [a.ended or "no end" for a in self.attempts.values()]
        counted = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
        self.complete.evidence += f"{len(self.attempts)} attempts: {counted}" if outcomes else "no attempts"
        held = sum(a.held_ns for a in self.attempts.values())
        without = [a.number for a in self.attempts.values() if a.began_ns is None and a.held_ns]
        self.time.evidence = (
            f"{self._checked_ns / NS_PER_HOUR:.6f} h of {held / NS_PER_HOUR:.6f} h held lie between two readings of the clock"
        )
        if self._setup_overlap_ns:
            both = f"{self._setup_overlap_ns / 1e9:.1f} s of set-up ran while the attempt before was still closing"
            self.time.evidence += f"; {both}, and both were charged"
        if self.wall_jumps or self.backwards:
            self.time.evidence += f"; the wall clock was set {self.wall_jumps} times and went back {self.backwards} times"
        if without:
            which = f"{without[0]}" if len(without) == 1 else f"{without[0]} to {without[-1]} ({len(without)})"
            self.time.not_checkable = f"attempts {which} carry no clock: their hours were stated, not metered"

    def _start(self, entry: Entry) -> None:
        self._close_flush()
        row, clock = entry.row, entry.detail.get("clock")
        if row.attempt <= max(self.attempts, default=0):
            self._incomplete(row, f"attempt {row.attempt} starts after attempt {max(self.attempts)}; attempts count up")
        before = self._current
        attempt = Attempt(row.attempt)
        if isinstance(clock, dict) and isinstance(clock.get("start_ns"), int) and isinstance(clock.get("process_age_ns"), int):
            attempt.boot_id = str(clock.get("boot_id"))
            attempt.clock_ns = clock["start_ns"]
            attempt.began_ns = attempt.mark_ns = clock["start_ns"] - clock["process_age_ns"]
            if before is not None and before.began_ns is not None and before.boot_id == attempt.boot_id:
                self._overlap(row, before, attempt)
        elif before is not None and row.at < before.last_at:
            self._time_is(row, f"attempt {row.attempt} starts at {row.at}, before the last entry of attempt {before.number}")
        self.attempts[row.attempt] = self._current = attempt
        attempt.last_at = row.at

    def _overlap(self, row: Row, before: Attempt, attempt: Attempt) -> None:
        assert attempt.began_ns is not None
        if attempt.clock_ns < before.mark_ns:
            both = (before.mark_ns - attempt.began_ns) / 1e9
            self._time_is(
                row, f"two attempts at once: {attempt.number} began {both:.3f} s before the last entry of {before.number}"
            )
        else:
            self._setup_overlap_ns += max(0, before.mark_ns - attempt.began_ns)

    def _phase(self, row: Row) -> None:
        attempt = self._attempt_of(row)
        if attempt is None:
            return
        attempt.held_ns += row.held_ns
        if row.mono_ns != self._flush_ns or not self._flush_seq:
            self._close_flush()
            self._wall(row.at, row.mono_ns, attempt)
            self._flush_ns, self._flush_sum, self._flush_seq = row.mono_ns, 0, row.seq
        self._flush_sum += row.held_ns
        attempt.last_at = row.at

    def take(self, phases: Phases) -> None:
        """Phases that follow one another, whether they fill the time or not."""
        attempt = self._current
        if attempt is None or attempt.ended is not None or any(rows.key[0] != attempt.number for rows in phases.alike):
            for raw in phases.rows:
                self._phase(to_row(raw))
            return
        for raw in phases.rows:
            if raw[_MONO_NS] != self._flush_ns or not self._flush_seq:
                self._close_flush()
                self._wall(raw[_AT], raw[_MONO_NS], attempt)
                self._flush_ns, self._flush_sum, self._flush_seq = raw[_MONO_NS], 0, raw[_SEQ]
            self._flush_sum += raw[_HELD_NS]
            attempt.last_at = raw[_AT]
        attempt.held_ns += sum(sum(rows.held_ns) for rows in phases.alike)

    def _close_flush(self) -> None:
        """What was flushed together must fill the time since the flush before."""
        attempt, seq = self._current, self._flush_seq
        self._flush_seq = 0
        if not seq or attempt is None or attempt.began_ns is None:
            return
        passed = self._flush_ns - attempt.mark_ns
        if passed != self._flush_sum:
            off = self._flush_sum - passed
            what = (
                f"{off / 1e9:.9f} s more than passed on the clock: an overlap"
                if off > 0
                else f"{-off / 1e9:.9f} s short: a gap"
            )
            self.time.found(
                Finding(
                    f"the phases flushed from entry {seq} on hold {self._flush_sum / 1e9:.9f} s, {what}",
                    seq,
                    ("held_ns", "mono_ns"),
                )
            )
        else:
            self._checked_ns += passed
        attempt.mark_ns = max(attempt.mark_ns, self._flush_ns)

    def _wall(self, at: str, mono_ns: int, attempt: Attempt) -> None:
        if at < attempt.last_at:
            self.backwards += 1
        if attempt.began_ns is None:
            return
        try:
            moment = datetime.fromisoformat(at)
            if attempt.first is not None:
                passed_s = (moment - attempt.first[0]).total_seconds()
                if abs(passed_s - (mono_ns - attempt.first[1]) / _NS_PER_S) <= _WALL_TOLERANCE_S:
                    return
                self.wall_jumps += 1
        except (ValueError, TypeError):
            return  # the columns check names it
        attempt.first = moment, mono_ns

    def _end(self, entry: Entry) -> None:
        self._close_flush()
        row = entry.row
        attempt = self._attempt_of(row)
        if attempt is None:
            return
        attempt.ended = str(entry.detail.get("outcome"))
        if attempt.ended != row.outcome:
            self._incomplete(row, f"its outcome is {row.outcome!r} in the column and {attempt.ended!r} in the detail")

    def _attempt_of(self, row: Row) -> Attempt | None:
        current = self._current
        if current is not None and row.attempt == current.number and current.ended is None:
            return current
        if current is not None and row.attempt == current.number:
            why = "which has ended"
        elif row.attempt in self.attempts:
            assert current is not None
            why = f"but attempt {current.number} has started since: two attempts at once"
        else:
            why = "which never started"
        self._incomplete(row, f"a {row.kind} of attempt {row.attempt}, {why}")
        return None

    def _incomplete(self, row: Row, what: str) -> None:
        self.complete.found(Finding(what, row.seq, ("attempt",)))

    def _time_is(self, row: Row, what: str) -> None:
        self.time.found(Finding(what, row.seq, ("detail",)))
