"""A short way to write a run's history into a book, at a price that makes whole dollars of half hours."""

from datetime import date
from decimal import Decimal

from farthing.ledger.entries import Ledger
from farthing.ledger.entry import EntryFields
from farthing.ledger.prices import PriceRecord, cost

TWO_DOLLARS = PriceRecord(
    device="h800",
    usd_per_device_hour=Decimal("2.00"),
    date=date(2025, 9, 17),
    source="a test",
    power_w=Decimal(700),
    power_method="assumed",
)
SECOND = 1_000_000_000


class History:
    """Writes attempts at two dollars a device-hour: 1,800 s of one device is exactly a dollar."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.attempt = 0

    def start(self, resumed_from: tuple[str, int] | None = None) -> None:
        self.attempt += 1
        if self.attempt == 1:
            self.ledger.append(attempt=0, kind="price", detail=TWO_DOLLARS.detail())
        kept = None if resumed_from is None else {"stage": resumed_from[0], "step": resumed_from[1]}
        detail = {"pid": 1, "resumed_from": kept, "price": TWO_DOLLARS.id}
        self.ledger.append(attempt=self.attempt, kind="attempt_start", detail=detail)

    def spend(self, stage: str, step: int, phase: str, usd: int, num_devices: int = 1, **more: object) -> None:
        held_ns = usd * 1800 * SECOND // num_devices
        fields: EntryFields = {
            "attempt": self.attempt,
            "kind": "phase",
            "purpose": {"eval": "evaluation", "idle": "idle"}.get(phase, "train"),
            "outcome": "ok",
            "stage": stage,
            "step": step,
            "phase": phase,
            "held_ns": held_ns,
            "num_devices": num_devices,
            "device": "h800",
            "price": TWO_DOLLARS.id,
            "usd": cost(held_ns, num_devices, TWO_DOLLARS.usd_per_device_hour),
        }
        self.ledger.append(**fields | more)  # type: ignore[typeddict-item,misc]

    def end(self, outcome: str) -> None:
        detail = {"outcome": outcome, "error": None}
        self.ledger.append(attempt=self.attempt, kind="attempt_end", outcome=outcome, detail=detail)
