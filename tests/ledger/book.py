"""A whole schema-2 book of one priced, clocked run, at figures that can be worked by hand, for the audit's tests and bench."""

import random
from collections.abc import Iterator
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

from farthing.ledger.entries import EntryFields, Ledger
from farthing.ledger.prices import cost

SECOND = 1_000_000_000
START_NS = 1_000 * SECOND
H800 = "h800@2025-09-17"
PHASES = ("rollout", "reward", "update", "idle")
PRICE: dict[str, Any] = {
    "id": H800, "device": "h800", "unit": "device-hour", "usd_per_unit": "2.00", "date": "2025-09-17", "source": "a test",
    "method": "list", "region": "", "tenure": "on-demand", "note": "", "power_w": "700", "power_method": "assumed",
    "components": None,
}  # fmt: skip


def at(seconds: float) -> str:
    """UTC, that many seconds after noon."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(int(minutes), 60)
    day, hour = divmod(12 + hours, 24)
    return f"2026-11-{1 + day:02d}T{hour:02d}:{minute:02d}:{second:09.6f}+00:00"


def price(record: dict[str, Any] = PRICE, when: float = 0) -> EntryFields:
    return {"attempt": 0, "kind": "price", "at": at(when), "detail": record}


def start(attempt: int, begins_s: float = 0, boot_id: str = "boot", clocked: bool = True, **kept: Any) -> EntryFields:
    """The process began 2 s before its clock, which begins at `begins_s`."""
    clock = {
        "source": "CLOCK_MONOTONIC",
        "boot_id": boot_id,
        "start_ns": START_NS + int(begins_s * SECOND),
        "process_age_ns": 2 * SECOND,
    }
    detail = {"pid": 1, "price": H800, "resumed_from": None, **kept, **({"clock": clock} if clocked else {})}
    return {"attempt": attempt, "kind": "attempt_start", "at": at(begins_s), "detail": detail}


def device(attempt: int, peak_flops: int = 10**15, method: str = "data sheet") -> EntryFields:
    detail = {"device": "h800", "name": "a test", "peak_flops": str(peak_flops), "peak_method": method, "num_logical_cores": 1}
    return {"attempt": attempt, "kind": "device", "at": at(0), "detail": detail}


def phase(attempt: int, ends_s: float, held_s: float, name: str = "update", **changed: Any) -> EntryFields:
    """`held_s` of one device at two dollars an hour: 1,800 s is a dollar, 0.5 s is 350 J."""
    entry: dict[str, Any] = {
        "attempt": attempt, "kind": "phase", "purpose": "train", "outcome": "ok", "stage": "r1_zero", "step": 0, "phase": name,
        "at": at(ends_s), "mono_ns": START_NS + int(ends_s * SECOND), "held_ns": int(held_s * SECOND), "num_devices": 1,
        "device": "h800", "price": H800, "usd": (Decimal(str(held_s)) / 1800).quantize(Decimal("1e-12")),
        "busy_ns": int(held_s * SECOND) // 2, "tokens_trained": 1000, "model_flops": 10**12,
        "energy_mj": int(held_s * 700_000), "energy_error_mj": int(held_s * 350_000), "energy_method": "assumed",
    }  # fmt: skip
    return {**entry, **changed}  # type: ignore[return-value, typeddict-item]  # a test may write any column


def end(attempt: int, ends_s: float, outcome: str = "ok") -> EntryFields:
    detail = {"outcome": outcome, "error": None}
    return {"attempt": attempt, "kind": "attempt_end", "outcome": outcome, "at": at(ends_s), "detail": detail}


def whole_run(num_steps: int, attempt: int = 1) -> Iterator[EntryFields]:
    """One attempt: 2 s of set-up, then a second a step in four phases of a quarter; every tenth has a detail."""
    yield price()
    yield start(attempt)
    yield device(attempt)
    yield phase(attempt, 0, 2, "setup", step=-1, tokens_trained=0, model_flops=0)
    for step in range(num_steps):
        for name in PHASES:
            waste = {"detail": {"waste_usd": {"padding": "0.000000000123"}}} if step % 10 == 0 and name == "update" else {}
            yield phase(attempt, step + 1, 0.25, name, step=step, **waste)
    yield end(attempt, num_steps)


def varied_run(num_steps: int, seed: int = 0) -> Iterator[EntryFields]:
    """One attempt as a run writes it: no two figures alike, waste on every rollout and update, an artefact now and then."""
    rng, mono_ns = random.Random(seed), START_NS
    yield price()
    yield start(1)
    yield device(1)
    yield phase(1, 0, 2, "setup", step=-1, tokens_trained=0, model_flops=0)
    for step in range(num_steps):
        held = {name: rng.randrange(10**6, 10**9) for name in ("rollout", "reward", "update", "weight_sync", "idle")}
        mono_ns += sum(held.values())
        shared = {"step": step, "at": at((mono_ns - START_NS) / SECOND), "mono_ns": mono_ns}
        for name, held_ns in held.items():
            usd = cost(held_ns, 1, Decimal(2))
            figures: dict[str, Any] = {"held_ns": held_ns, "usd": usd, "busy_ns": rng.randrange(held_ns), "energy_error_mj": 0}
            figures |= {"energy_mj": held_ns * 700 // 1_000_000, "tokens_trained": 0, "model_flops": 0}
            if name in ("rollout", "update"):
                part = (usd / rng.randrange(2, 50)).quantize(Decimal("1e-12"), ROUND_FLOOR)
                figures |= {"detail": {"waste_usd": {"padding" if name == "update" else "flat_groups": f"{part:f}"}}}
                figures |= {"tokens_out": rng.randrange(1, 5000), "model_flops": held_ns * rng.randrange(1, 900_000)}
            yield phase(1, 0, 0, name, **(figures | shared))
        if step % 100 == 50:
            yield {"attempt": 1, "kind": "artefact", "stage": "r1_zero", "detail": {"what": "evaluation", "files": []}}
    yield end(1, (mono_ns - START_NS) / SECOND)


def write(path: Path, entries: Iterator[EntryFields] | list[EntryFields]) -> Path:
    """Writes and seals a ledger -> its directory."""
    with Ledger.open(path / "ledger.sqlite") as ledger:
        ledger.append_stream(entries)
    return path
