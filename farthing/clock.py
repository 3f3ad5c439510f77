"""Phases of a run -> ledger entries. The one clock: metrics, bill and step times all read it.

Time is in integer nanoseconds and always belongs to exactly one phase (`idle` where no other is open), so the phases of an
attempt sum to the time it held the machine. A heartbeat file keeps what is not yet in the ledger, so that the bill
of a killed attempt is short of at most half a second.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path

import psutil

from farthing.ledger.entries import EntryFields, Ledger
from farthing.ledger.prices import PriceRecord, cost

HEARTBEAT_S = 0.5


def process_age_ns() -> int:
    """Since this process started, imports included. psutil knows the start to a second only; Linux itself to 10 ms."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return max(0, time.time_ns() - int(psutil.Process().create_time() * 1e9))
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass
class Slice:
    """Time and work of one phase since the last flush."""

    held_ns: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_trained: int = 0
    model_flops: int = 0

    @property
    def seconds(self) -> float:
        """Held time in seconds, never zero: it is divided by."""
        return max(self.held_ns, 1) / 1e9

    def add(self, other: "Slice") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class PhaseClock:
    """The clock of one attempt, from the start of its process to `close`."""

    def __init__(self, ledger: Ledger, attempt: int, price: PriceRecord, heartbeat: Path, already_held_ns: int) -> None:
        self.ledger, self.attempt, self.price = ledger, attempt, price
        self.stage, self.step = "", -1
        self.held_ns = 0
        """Of this attempt, flushed entries only; `elapsed_ns` has it all."""
        self.usd = Decimal(0)
        self._heartbeat = heartbeat
        self._phases = ["setup"]
        self._slices: dict[str, Slice] = {"setup": Slice(held_ns=already_held_ns)}
        self._mark_ns = time.monotonic_ns()
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._head = ledger.head()[0]
        self._thread = threading.Thread(target=self._beat_forever, name="heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def phase(self, name: str) -> Iterator[Slice]:
        """Everything inside is held for `name`; an inner phase interrupts the outer one. Yields the running slice."""
        with self._lock:
            self._credit()
            self._phases.append(name)
            before = self._slices.setdefault(name, Slice()).held_ns
        spent = Slice()
        try:
            yield spent
        finally:
            with self._lock:
                self._credit()
                self._phases.pop()
                spent.held_ns = self._slices.setdefault(name, Slice()).held_ns - before

    def count(self, *, tokens_in: int = 0, tokens_out: int = 0, tokens_trained: int = 0, model_flops: int = 0) -> None:
        """Adds work to the phase that is open."""
        with self._lock:
            slice_ = self._slices.setdefault(self._phases[-1], Slice())
            slice_.add(Slice(0, tokens_in, tokens_out, tokens_trained, model_flops))

    def set_idle(self) -> None:
        """Set-up is over: from now on time outside any phase is idle."""
        with self._lock:
            self._credit()
            self._phases[0] = "idle"

    def flush(self) -> dict[str, Slice]:
        """Writes the slices of (stage, step) as entries in one transaction -> what was written, by phase."""
        with self._lock:
            self._credit()
            written = {name: s for name, s in self._slices.items() if s != Slice()}
            entries = [self._entry(name, s) for name, s in written.items()]
            self.ledger.append_many(entries)
            self._slices = {}
            self.held_ns += sum(s.held_ns for s in written.values())
            self.usd += sum((e["usd"] for e in entries), Decimal(0))
            self._head = self.ledger.head()[0]
            self._beat()
        return written

    def elapsed_ns(self) -> int:
        """Held by this attempt until now."""
        with self._lock:
            self._credit()
            return self.held_ns + sum(s.held_ns for s in self._slices.values())

    def stop(self) -> None:
        """Ends the heartbeat; a last `flush` may follow."""
        self._closed.set()
        self._thread.join()

    def _credit(self) -> None:
        now = time.monotonic_ns()
        self._slices.setdefault(self._phases[-1], Slice()).held_ns += now - self._mark_ns
        self._mark_ns = now

    def _entry(self, phase: str, work: Slice) -> EntryFields:
        return phase_entry(self.attempt, self.price, self.stage, self.step, phase, work)

    def _beat_forever(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            with self._lock:
                self._credit()
                self._beat()

    def _beat(self) -> None:
        beat = {
            "attempt": self.attempt,
            "stage": self.stage,
            "step": self.step,
            "ledger_head": self._head,
            "slices": {name: asdict(s) for name, s in self._slices.items()},
        }
        temporary = self._heartbeat.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(beat))
            os.replace(temporary, self._heartbeat)
        except OSError:
            # a full disk is met, and said, by the next flush or checkpoint; the last good heartbeat stays
            temporary.unlink(missing_ok=True)


def phase_entry(attempt: int, price: PriceRecord, stage: str, step: int, phase: str, work: Slice) -> EntryFields:
    """One slice as ledger fields, with its price and its energy (nameplate power x time: assumed)."""
    return {
        "attempt": attempt,
        "kind": "phase",
        "stage": stage,
        "step": step,
        "phase": phase,
        "device": price.device,
        "usd": cost(work.held_ns, 1, price.usd_per_device_hour),
        "energy_mj": int(price.power_w * work.held_ns / 1_000_000) if price.power_w else 0,
        "energy_method": price.power_method,
        "held_ns": work.held_ns,
        "tokens_in": work.tokens_in,
        "tokens_out": work.tokens_out,
        "tokens_trained": work.tokens_trained,
        "model_flops": work.model_flops,
    }


def read_heartbeat(path: Path, attempt: int, ledger_head: int) -> tuple[str, int, dict[str, Slice]] | None:
    """(stage, step, slices) that a dead attempt had not yet written; None where all is in the ledger already."""
    try:
        beat = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if beat["attempt"] != attempt or beat["ledger_head"] != ledger_head:
        return None
    return beat["stage"], beat["step"], {name: Slice(**s) for name, s in beat["slices"].items()}
