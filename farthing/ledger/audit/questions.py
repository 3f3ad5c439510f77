"""What has been read of a book -> what an auditor would still ask: what no entry can answer for itself."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from farthing.ledger.audit.entry import Entry
from farthing.ledger.audit.hours import Hours
from farthing.ledger.audit.physics import Physics
from farthing.ledger.audit.prices import Prices
from farthing.ledger.audit.report import Check
from farthing.ledger.audit.schema import NS_PER_HOUR, dollars
from farthing.ledger.audit.signatures import Signatures
from farthing.ledger.audit.sums import Sums
from farthing.ledger.audit.superseded import Superseded

_REASONS = 3
"""Of stages that were run again, printed in a question."""


class Seen:
    """What the questions depend on and no check keeps."""

    def __init__(self) -> None:
        self.clocks: set[str] = set()
        self.boots: set[str] = set()
        self.between_s = 0.0
        self._ended_at: str | None = None

    def add(self, entry: Entry) -> None:
        """Any entry but a phase."""
        row = entry.row
        if row.kind == "attempt_start":
            clock = entry.detail.get("clock")
            if isinstance(clock, dict):
                self.clocks.add(str(clock.get("source")))
                self.boots.add(str(clock.get("boot_id")))
            if self._ended_at is not None:
                self.between_s += _seconds(self._ended_at, row.at)
        elif row.kind == "attempt_end":
            self._ended_at = row.at


def questions(
    run_dir: Path,
    seen: Seen,
    sums: Sums,
    hours: Hours,
    prices: Prices,
    physics: Physics,
    superseded: Superseded,
    signatures: Signatures,
    seal: Check,
) -> list[str]:
    """In the order in which an auditor would ask them; only those that this book raises."""
    kinds = {group[1] for group in sums.groups}
    asked = [
        "Boundary: the book holds what was entered in it. Which other runs, failed ideas and experiments led to this one, and "
        "on whose account are they?"
    ]
    if base := _base(run_dir):
        asked.append(
            f"Base model: the run began from {base}. Its pretraining is on no entry here: what did that cost, and whom?"
        )
    if "expense" not in kinds:
        asked.append("Staff and overhead: no expense is entered. Who prepared, watched and judged the run, and for how long?")
    if "storage" not in kinds:
        asked.append("Storage: no GB-month is entered. Where do checkpoints, data and backups lie, and who pays for them?")
    if "api" not in kinds:
        asked.append("Teachers and judges: no bought token is entered. Was none used, or is it on another account?")
    asked += _prices(prices)
    asked += _energy(physics)
    asked += _clock(seen, sums, hours)
    if seen.between_s >= 60 and hours.attempts:
        asked.append(
            f"Between attempts lie {seen.between_s / 3600:.2f} h of wall clock, on no entry. Was rented hardware kept?"
        )
    if physics.peaks and all(method.startswith("measured") for _, _, method in physics.peaks.values()):
        asked.append(
            "Peak: the peak FLOP/s that the work is held against was measured by the run itself. What does the data sheet say?"
        )
    held_ns, known_ns = sums.of_phases("held_ns"), sums.of_phases("busy_of_ns")
    if known_ns < held_ns:
        share = 1 - known_ns / held_ns
        asked.append(f"Busy share: for {share:.0%} of the hours nobody recorded how busy the devices were.")
    if prices.corrections:
        asked.append(
            f"Corrections: {prices.corrections} entries correct earlier ones. Who decided on them, and on which evidence?"
        )
    if superseded.any:
        asked.append(_run_again(superseded))
    asked += _trust(signatures, seal)
    return asked


def _run_again(superseded: Superseded) -> str:
    why = "; ".join(f"{stage}: {reason[:80]}" for stage, reason in superseded.reasons[:_REASONS])
    return (
        f"Stages run again: {dollars(superseded.picousd)} USD of earlier work no longer counts as that of the final run "
        f"({why}). Were the changes chosen after a look at held-out results?"
    )


def _prices(prices: Prices) -> list[str]:
    asked = []
    for record in prices.records.values():
        if record.method not in ("list", "invoice") and record.id in prices.used:
            num, usd = prices.used[record.id]
            asked.append(
                f"Price {record.id} is {record.method}, not on a list or invoice: {dollars(usd)} USD, {num} entries rest on it"
                f" (source: {record.source[:160]}). What was paid?"
            )
    if prices.unpriced_ns:
        asked.append(f"{prices.unpriced_ns / NS_PER_HOUR:.6f} device-hours carry no price and no dollars. Who paid for them?")
    if prices.stated_picousd:
        asked.append(f"{dollars(prices.stated_picousd)} USD of expenses are as somebody stated them. Where are the receipts?")
    return asked


def _energy(physics: Physics) -> list[str]:
    soft = sum(mj for method, mj in physics.energy_mj.items() if method != "measured")
    total = sum(physics.energy_mj.values())
    if not total:
        return ["Energy: none is entered. What did the machine draw, and its cooling?"]
    if not soft:
        return ["Energy was measured at the device. What did the rest of the machine and the cooling draw (PUE)?"]
    return [f"Energy: {soft / total:.0%} of it is assumed or modelled from nameplate power, not measured. Is there a meter?"]


def _clock(seen: Seen, sums: Sums, hours: Hours) -> list[str]:
    asked = []
    if seen.clocks:
        asked.append(
            f"Clock: hours are those of {', '.join(sorted(seen.clocks))} on the machine itself ({len(seen.boots)} boots). "
            "Does the provider's invoice show the same?"
        )
    elif hours.attempts:
        asked.append("Clock: the hours were stated, not metered. Which record do they come from?")
    if hours.wall_jumps or hours.backwards:
        asked.append(
            f"The wall clock jumped {hours.wall_jumps} times and went back {hours.backwards} times (UTC has no summer time). "
            "Who set it? Hours and dollars do not depend on it; dates, and with them the price records, do."
        )
    if killed_ns := sums.of_phases("held_ns", outcome="killed"):
        asked.append(
            f"{killed_ns / 1e9:.1f} s of killed attempts come from a heartbeat file, up to half a second short of each."
        )
    return asked


def _trust(signatures: Signatures, seal: Check) -> list[str]:
    asked = []
    if signatures.keys:
        asked.append("Signatures prove that the holder of a key saw the book. Whose key is it, and who else holds it?")
    if signatures.head.status != "pass" and not signatures.keys:
        asked.append(
            "Forgery: whoever can write these files can change an entry and make all hashes, mirror and seal anew. Only a head "
            "noted elsewhere (--head) or a signed checkpoint shows that. Is there one?"
        )
    if seal.status == "not checkable":
        asked.append("The ledger is not sealed: has its process ended, and how?")
    return asked


def _base(run_dir: Path) -> str | None:
    """What the recipe begins from, unless from random weights."""
    try:
        model: Any = json.loads((run_dir / "recipe.json").read_text(encoding="utf-8"))["model"]
        source = model["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if source == "scratch" else str(source)


def _seconds(before: str, after: str) -> float:
    try:
        return max(0.0, (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
