"""One process life of a run -> its entries besides the phases: start, device, artefacts, storage, and a dead one's end."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from farthing.clock import boot_id, num_logical_cores, phase_entry, read_heartbeat
from farthing.ledger.charges import charge_storage
from farthing.ledger.entries import Entry, EntryFields, Ledger
from farthing.ledger.entry import detail_of
from farthing.ledger.prices import PriceRecord, RateRecord


def start_entry(
    attempt: int, price: PriceRecord, kept: Mapping[str, object] | None, start_ns: int, process_age_ns: int
) -> EntryFields:
    """`kept`: stage and step that the attempt goes on after; `start_ns`: the monotonic clock when ours began."""
    clock = {"source": "CLOCK_MONOTONIC", "boot_id": boot_id(), "start_ns": start_ns, "process_age_ns": process_age_ns}
    detail = {"pid": os.getpid(), "resumed_from": kept, "price": price.id, "clock": clock}
    return {"attempt": attempt, "kind": "attempt_start", "device": price.device, "detail": detail}


def note_device(ledger: Ledger, attempt: int, device: str, name: str, peak_flops: float, method: str) -> None:
    """What the attempt computes on, for whoever checks that its FLOPs are possible."""
    peak = {"peak_flops": str(int(peak_flops)), "peak_method": method, "num_logical_cores": num_logical_cores()}
    ledger.append(attempt=attempt, kind="device", device=device, detail={"device": device, "name": name, **peak})


def artefact_entry(
    attempt: int, run_dir: Path, what: str, files: Sequence[Path], keeps: str, weights_sha256: str
) -> EntryFields:
    """Files with their sizes and digests."""
    named = [{"path": p.relative_to(run_dir).as_posix(), "bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files]
    detail: dict[str, Any] = {"what": what, "files": named}
    detail |= ({"keeps": keeps} if keeps else {}) | ({"weights_sha256": weights_sha256} if weights_sha256 else {})
    return {"attempt": attempt, "kind": "artefact", "detail": detail}


def charge_run_dir(ledger: Ledger, rate: RateRecord, run_dir: Path, held_ns: int, attempt: int) -> None:
    """The run directory as it is now, for as long as the attempt ran: it grows, so this is an upper figure."""
    num_bytes = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    what = "run directory, checkpoints included, while the attempt ran"
    charge_storage(ledger, rate, num_bytes, held_ns, what, attempt, "modelled")


def bury_dead_attempt(ledger: Ledger, run_dir: Path, rate: RateRecord, say: Callable[[str], None]) -> int:
    """Closes the last attempt where its process died without doing so, with its last time and its storage at `rate` -> the
    number of the last attempt, or 0."""
    events = ledger.events()
    start = next((e for e in reversed(events) if e.kind == "attempt_start"), None)
    if start is None:
        return 0
    if any(e.kind == "attempt_end" and e.attempt == start.attempt for e in events):
        return start.attempt
    tail = read_heartbeat(run_dir / "heartbeat.json", start.attempt, ledger)
    if tail is not None:
        stamp, price = replace(tail[0], outcome="killed"), _price_of(events, start)
        ledger.append_many([phase_entry(start.attempt, price, stamp, p, work) for p, work in tail[1].items()])
    if not any(e.kind == "storage" and e.attempt == start.attempt for e in events):
        held_ns = sum(sums["held_ns"] for group, sums in ledger.totals().groups.items() if group.attempt == start.attempt)
        charge_run_dir(ledger, rate, run_dir, held_ns, start.attempt)
    detail = {"outcome": "killed", "error": None}
    ledger.append(attempt=start.attempt, kind="attempt_end", outcome="killed", detail=detail)
    say(f"attempt {start.attempt} was killed; its time is on the bill")
    return start.attempt


def _price_of(events: list[Entry], start: Entry) -> PriceRecord:
    """The record of the price that an attempt started with, from the book itself."""
    wanted = detail_of(start)["price"]
    record = next(detail_of(e) for e in events if e.kind == "price" and detail_of(e)["id"] == wanted)
    given = {name: value for name, value in record.items() if name in PriceRecord.model_fields}
    tenure = "on-demand" if record["tenure"] == "owned" else record["tenure"]
    return PriceRecord.model_validate({**given, "usd_per_device_hour": record["usd_per_unit"], "tenure": tenure})


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
