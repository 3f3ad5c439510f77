"""Phases of a run -> ledger entries. The one clock: metrics, bill and step times all read it.

Time is in integer nanoseconds of the monotonic clock (a wall clock that is set back or changes to summer time does not
touch it) and always belongs to exactly one phase (`idle` where no other is open), so the phases of an attempt sum to the
time it held the machine. A heartbeat file keeps what is not yet in the ledger, so that the bill of a killed attempt is short
of at most half a second.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil

from farthing.energy import ERROR_PERCENT, Meter
from farthing.ledger.entries import EntryFields, Ledger
from farthing.ledger.entry import picousd, usd_text, utc_now
from farthing.ledger.prices import PriceRecord, cost

HEARTBEAT_S = 0.5
PURPOSE_OF_PHASE = {"eval": "evaluation", "idle": "idle"}
"""Phases with a purpose of their own, whatever the stage is for."""


def process_age_ns() -> int:
    """Since this process started, imports included. psutil knows the start to a second only; Linux itself to 10 ms."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return max(0, time.time_ns() - int(psutil.Process().create_time() * 1e9))
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """What tells this start of the machine from others; empty where the system does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else ""


def num_logical_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nothing_to_wait_for() -> None:
    """On a CPU what was called is done."""


@dataclass
class Slice:
    """Time and work of one phase since the last flush."""

    held_ns: int = 0
    cpu_ns: int = 0
    """Processor time of this process, over all cores."""
    measured_mj: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_trained: int = 0
    model_flops: int = 0
    waste: dict[str, int] = field(default_factory=dict)
    """Parts of the work that taught nothing, in units of which `waste["of"]` is the whole."""

    @property
    def seconds(self) -> float:
        """Held time in seconds, never zero: it is divided by."""
        return max(self.held_ns, 1) / 1e9

    def add(self, other: "Slice") -> None:
        for name, value in asdict(other).items():
            if name != "waste":
                setattr(self, name, getattr(self, name) + value)
        for name, value in other.waste.items():
            self.waste[name] = self.waste.get(name, 0) + value


@dataclass(frozen=True)
class Stamp:
    """What all entries of one flush share."""

    stage: str
    step: int
    purpose: str
    mono_ns: int
    outcome: str = "ok"
    at: str = ""
    energy_source: str = ""
    """Of the meter; empty: power x time."""


class PhaseClock:
    """The clock of one attempt, from the start of its process to `close`."""

    def __init__(
        self,
        ledger: Ledger,
        attempt: int,
        price: PriceRecord,
        heartbeat: Path,
        already_held_ns: int,
        meter: Meter | None = None,
    ) -> None:
        self.ledger, self.attempt, self.price = ledger, attempt, price
        self.stage, self.step, self.purpose, self.outcome = "", -1, "train", "ok"
        self.held_ns = 0
        """Of this attempt, flushed entries only; `elapsed_ns` has it all."""
        self.usd = Decimal(0)
        self.stage_usd: dict[str, Decimal] = {}
        self.stage_held_ns: dict[str, int] = {}
        self.settle: Callable[[], None] = _nothing_to_wait_for
        """Called where one phase gives way to another. An accelerator works on after Python has moved on: unless it is waited
        for here, its time lands in the phase that first reads a result."""
        self._heartbeat = heartbeat
        self._meter = meter
        self._phases = ["setup"]
        self._slices: dict[str, Slice] = {"setup": Slice(held_ns=already_held_ns, cpu_ns=time.process_time_ns())}
        self.already_held_ns, self.start_ns = already_held_ns, time.monotonic_ns()
        self._mark_ns, self._cpu_mark_ns = self.start_ns, time.process_time_ns()
        self._mj_mark = meter.read_mj() if meter else 0
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._head = ledger.head()[0]
        self._thread = threading.Thread(target=self._beat_forever, name="heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def phase(self, name: str) -> Iterator[Slice]:
        """Everything inside is held for `name`; an inner phase interrupts the outer one. Yields the running slice."""
        self.settle()
        with self._lock:
            self._credit()
            self._phases.append(name)
            before = self._slices.setdefault(name, Slice()).held_ns
        spent = Slice()
        try:
            yield spent
            self.settle()
        finally:
            with self._lock:
                self._credit()
                self._phases.pop()
                spent.held_ns = self._slices.setdefault(name, Slice()).held_ns - before

    def count(self, *, tokens_in: int = 0, tokens_out: int = 0, tokens_trained: int = 0, model_flops: int = 0) -> None:
        """Adds work to the phase that is open."""
        with self._lock:
            work = Slice(tokens_in=tokens_in, tokens_out=tokens_out, tokens_trained=tokens_trained, model_flops=model_flops)
            self._slices.setdefault(self._phases[-1], Slice()).add(work)

    def waste(self, phase: str, of: int, **parts: int) -> None:
        """Of `of` units of work in `phase` since the last flush, so many taught nothing; parts are disjoint."""
        with self._lock:
            self._slices.setdefault(phase, Slice()).add(Slice(waste={"of": of, **parts}))

    def set_idle(self) -> None:
        """Set-up is over: from now on time outside any phase is idle."""
        with self._lock:
            self._credit()
            self._phases[0] = "idle"

    def flush(self) -> int:
        """Writes the slices of (stage, step) as entries in one transaction -> the monotonic time that they share."""
        with self._lock:
            self._credit()
            stamp = self._stamp()
            written = {name: s for name, s in self._slices.items() if s != Slice()}
            entries = [phase_entry(self.attempt, self.price, stamp, name, s) for name, s in written.items()]
            head = self.ledger.head()
            try:
                self.ledger.append_many(entries)
            finally:
                # a second Ctrl-C may strike after the commit: what is in the book must not be written once more
                if self.ledger.head() != head:
                    self._slices = {}
            held_ns = sum(s.held_ns for s in written.values())
            usd = sum((e["usd"] for e in entries), Decimal(0))
            self.held_ns += held_ns
            self.usd += usd
            self.stage_usd[self.stage] = self.stage_usd.get(self.stage, Decimal(0)) + usd
            self.stage_held_ns[self.stage] = self.stage_held_ns.get(self.stage, 0) + held_ns
            # the heartbeat on disk names an older head now, so it counts for nothing until the next beat
            self._head = self.ledger.head()[0]
        return stamp.mono_ns

    def unflushed(self) -> tuple[int, Decimal]:
        """(ns held, USD) of this step so far."""
        with self._lock:
            self._credit()
            held_ns = sum(s.held_ns for s in self._slices.values())
        return held_ns, cost(held_ns, 1, self.price.usd_per_device_hour)

    def elapsed_ns(self) -> int:
        """Held by this attempt until now."""
        return self.held_ns + self.unflushed()[0]

    def stop(self) -> None:
        """Ends the heartbeat; a last `flush` may follow."""
        self._closed.set()
        self._thread.join()

    def _credit(self) -> None:
        now, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        mj = self._meter.read_mj() if self._meter else 0
        work = self._slices.setdefault(self._phases[-1], Slice())
        work.held_ns += now - self._mark_ns
        work.cpu_ns += cpu_ns - self._cpu_mark_ns
        work.measured_mj += mj - self._mj_mark
        self._mark_ns, self._cpu_mark_ns, self._mj_mark = now, cpu_ns, mj

    def _stamp(self) -> Stamp:
        source = self._meter.source if self._meter else ""
        return Stamp(self.stage, self.step, self.purpose, self._mark_ns, self.outcome, utc_now(), source)

    def _beat_forever(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            with self._lock:
                self._credit()
                self._beat()

    def _beat(self) -> None:
        beat = {
            "attempt": self.attempt,
            "ledger_head": self._head,
            "stamp": asdict(self._stamp()),
            "slices": {name: asdict(s) for name, s in self._slices.items()},
        }
        temporary = self._heartbeat.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(beat))
            os.replace(temporary, self._heartbeat)
        except OSError:
            # a full disk is met, and said, by the next flush or checkpoint; the last good heartbeat stays
            temporary.unlink(missing_ok=True)


def phase_entry(attempt: int, price: PriceRecord, stamp: Stamp, phase: str, work: Slice) -> EntryFields:
    """One slice as ledger fields, with its price, its energy and its waste in money."""
    usd = cost(work.held_ns, 1, price.usd_per_device_hour)
    detail: dict[str, Any] = {}
    if parts := _wasted(work.waste, picousd(usd)):
        detail["waste_usd"] = parts
    method, energy_mj = price.power_method, int(price.power_w * work.held_ns / 1_000_000)
    if stamp.energy_source:
        method, energy_mj = "measured", work.measured_mj
        detail["energy_source"] = stamp.energy_source
    fields: EntryFields = {
        "attempt": attempt,
        "kind": "phase",
        "purpose": PURPOSE_OF_PHASE.get(phase, stamp.purpose),
        "outcome": stamp.outcome,
        "mono_ns": stamp.mono_ns,
        "stage": stamp.stage,
        "step": stamp.step,
        "phase": phase,
        "device": price.device,
        "price": price.id,
        "usd": usd,
        "held_ns": work.held_ns,
        "busy_ns": min(work.held_ns, work.cpu_ns // num_logical_cores()) if price.components else -1,
        "tokens_in": work.tokens_in,
        "tokens_out": work.tokens_out,
        "tokens_trained": work.tokens_trained,
        "model_flops": work.model_flops,
        "energy_mj": energy_mj,
        "energy_error_mj": energy_mj * ERROR_PERCENT[method] // 100,
        "energy_method": method,
        "detail": detail,
    }
    return fields | {"at": stamp.at} if stamp.at else fields


def _wasted(waste: dict[str, int], picousd: int) -> dict[str, str]:
    whole = waste.get("of", 0)
    parts = {name: picousd * part // whole for name, part in waste.items() if name != "of" and part and whole}
    return {name: usd_text(part) for name, part in parts.items()}


def read_heartbeat(path: Path, attempt: int, ledger: Ledger) -> tuple[Stamp, dict[str, Slice]] | None:
    """(stamp, slices) that a dead attempt had not yet written; None where all is in the ledger already."""
    try:
        beat = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    if beat["attempt"] != attempt:
        return None
    # entries of other kinds may follow the beat (an artefact, somebody's correction): they hold none of its time
    flushed = ledger.entries(beat["ledger_head"], "kind = 'phase' AND attempt = ?", (attempt,))
    if next(flushed, None) is not None:
        return None
    return Stamp(**beat["stamp"]), {name: Slice(**s) for name, s in beat["slices"].items()}
