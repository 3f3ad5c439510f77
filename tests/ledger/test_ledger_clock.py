"""The clock against a book: phases and flushes add up to the nanosecond, waste and busy time land in their entries."""

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from farthing.attempt import bury_dead_attempt, start_entry
from farthing.clock import PhaseClock, Slice, Stamp, phase_entry
from farthing.ledger import entry as entry_module
from farthing.ledger.account import read_account
from farthing.ledger.bill import make_bill
from farthing.ledger.charges import correct, price_entries
from farthing.ledger.entries import EntryFields, Ledger
from farthing.ledger.entry import Entry
from farthing.ledger.prices import PriceRecord, load_price_book

AGE_NS = 250_000_000


class StepMeter:
    """Ten millijoules between any two readings."""

    source = "a test"

    def __init__(self) -> None:
        self.mj = 0

    def read_mj(self) -> int:
        self.mj += 10
        return self.mj


@pytest.fixture
def price() -> PriceRecord:
    return load_price_book().price("local-cpu", datetime.now(UTC).date())


def open_clock(
    ledger: Ledger, price: PriceRecord, heartbeat: Path, attempt: int = 1, meter: StepMeter | None = None
) -> PhaseClock:
    clock = PhaseClock(ledger, attempt, price, heartbeat, AGE_NS, meter)
    start = start_entry(attempt, price, None, clock.start_ns, AGE_NS)
    ledger.append_from(lambda: [*price_entries(ledger, [price]), start])
    return clock


def flushes(entries: list[Entry]) -> dict[int, int]:
    """mono_ns -> sum of held_ns of that flush."""
    found: dict[int, int] = {}
    for entry in entries:
        if entry.kind == "phase":
            found[entry.mono_ns] = found.get(entry.mono_ns, 0) + entry.held_ns
    return found


def test_every_nanosecond_is_in_one_flush(ledger: Ledger, price: PriceRecord, tmp_path: Path) -> None:
    clock = open_clock(ledger, price, tmp_path / "heartbeat.json")
    for _ in range(3):
        with clock.phase("rollout"):
            time.sleep(0.002)
            with clock.phase("reward"):
                time.sleep(0.001)
        clock.flush()
    clock.stop()
    clock.flush()
    entries = list(ledger.entries())
    before = clock.start_ns - AGE_NS
    for mono_ns, held_ns in flushes(entries).items():
        assert mono_ns - before == held_ns
        before = mono_ns
    assert all(0 <= e.busy_ns <= e.held_ns for e in entries if e.kind == "phase")
    assert clock.elapsed_ns() >= clock.held_ns == sum(flushes(entries).values())


def test_a_wall_clock_that_goes_back_or_to_summer_time_changes_no_sum(
    ledger: Ledger, price: PriceRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = open_clock(ledger, price, tmp_path / "heartbeat.json")
    shown = iter(datetime(2026, 10, 25, 1, 30, tzinfo=UTC) - timedelta(hours=n) for n in range(100))
    monkeypatch.setattr("farthing.clock.utc_now", lambda: next(shown).isoformat(timespec="microseconds"))
    monkeypatch.setattr(entry_module, "utc_now", lambda: next(shown).isoformat(timespec="microseconds"))
    for _ in range(3):
        with clock.phase("update"):
            time.sleep(0.001)
        clock.flush()
    clock.stop()
    bill = make_bill(read_account(ledger)).to_json()
    ats = [e.at for e in ledger.entries() if e.kind == "phase"]
    assert ats == sorted(ats, reverse=True)
    assert bill["held_s"] == pytest.approx(clock.held_ns / 1e9)
    assert min(bill["phases_s"].values()) >= 0


def test_waste_is_money_of_its_entry_and_measured_energy_says_so(ledger: Ledger, price: PriceRecord, tmp_path: Path) -> None:
    clock = open_clock(ledger, price, tmp_path / "heartbeat.json", meter=StepMeter())
    with clock.phase("rollout"):
        time.sleep(0.001)
    clock.waste("rollout", of=100, flat_groups=25, truncated=0)
    clock.waste("rollout", of=100, flat_groups=25, truncated=10)
    clock.flush()
    clock.stop()
    rollout = next(e for e in ledger.entries() if e.phase == "rollout")
    wasted = {name: Decimal(usd) for name, usd in json.loads(rollout.detail)["waste_usd"].items()}
    assert float(wasted["flat_groups"] / rollout.usd) == pytest.approx(0.25, rel=1e-3)
    assert float(wasted["truncated"] / rollout.usd) == pytest.approx(0.05, rel=1e-3)
    assert rollout.energy_method == "measured"
    assert (rollout.energy_mj % 10, rollout.energy_error_mj) == (0, rollout.energy_mj // 10)


def test_a_dead_attempt_is_closed_from_its_heartbeat_once(ledger: Ledger, price: PriceRecord, tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat.json"
    clock = open_clock(ledger, price, heartbeat)
    clock.stage, clock.step, clock.purpose = "grpo", 4, "experiment"
    clock.flush()
    with clock.phase("rollout"):
        time.sleep(0.002)
    clock._beat()
    clock.stop()
    said: list[str] = []
    rate = load_price_book().rate("storage/local-disk", datetime(2026, 11, 1, tzinfo=UTC).date())
    # what others write between the last beat and the funeral takes none of its time away
    correct(ledger, next(e.seq for e in ledger.entries() if e.phase), "refunded", Decimal("0.01"))
    assert bury_dead_attempt(ledger, tmp_path, rate, said.append) == 1
    tail = [e for e in ledger.entries() if e.outcome == "killed"]
    assert {(e.kind, e.stage, e.step, e.phase) for e in tail} == {
        ("phase", "grpo", 4, "setup"), ("phase", "grpo", 4, "rollout"), ("attempt_end", "", -1, ""),
    }  # fmt: skip
    assert {e.purpose for e in tail if e.phase} == {"experiment"}
    before = clock.start_ns - AGE_NS
    for mono_ns, held_ns in flushes(list(ledger.entries())).items():
        assert mono_ns - before == held_ns
        before = mono_ns
    [storage] = [e for e in ledger.entries() if e.kind == "storage"]
    assert storage.attempt == 1
    assert json.loads(storage.detail)["held_ns"] == sum(e.held_ns for e in ledger.entries())
    assert bury_dead_attempt(ledger, tmp_path, rate, said.append) == 1
    assert len(said) == 1
    assert sum(1 for e in ledger.entries() if e.kind == "storage") == 1


def test_a_rented_device_has_no_busy_time_and_a_spot_price_its_own_id() -> None:
    spot = load_price_book().price("h100-80gb+spot", datetime(2026, 11, 1, tzinfo=UTC).date())
    fields = phase_entry(1, spot, Stamp("grpo", 0, "train", 5), "update", Slice(held_ns=3_600_000_000_000, cpu_ns=9))
    assert (fields["busy_ns"], fields["price"], fields["device"]) == (-1, "h100-80gb@2026-10-05+spot", "h100-80gb")
    assert fields["usd"] == Decimal("2.95")


def test_time_is_in_the_book_once_where_ctrl_c_strikes_between_the_commit_and_the_next_line(
    ledger: Ledger, price: PriceRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = open_clock(ledger, price, tmp_path / "heartbeat.json")
    append_many = ledger.append_many

    def interrupted(news: Iterable[EntryFields]) -> list[Entry]:
        append_many(news)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            clock.flush()
    clock.stop()
    clock.flush()
    held_ns = sum(e.held_ns for e in ledger.entries() if e.phase)
    assert held_ns == clock._mark_ns - clock.start_ns + AGE_NS
