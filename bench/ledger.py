"""The ledger: a bill of a million entries, what metering costs, kills in mid write, R1's own table to the dollar."""

import argparse
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

from bench.results import Figure, write
from farthing.attempt import start_entry
from farthing.clock import PhaseClock
from farthing.ledger.account import read_account
from farthing.ledger.bill import make_bill
from farthing.ledger.charges import price_entries
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import EntryFields, detail_of
from farthing.ledger.prices import NS_PER_HOUR, cost, load_price_book

PHASES = ("rollout", "reward", "update", "weight_sync", "idle")
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=2000, help="of one-second steps whose metering is timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bill_s, grown_mib = bill_time(place / "long.sqlite", args.entries)
        step_s = metering_time(place / "meter.sqlite", args.steps)
        lost, doubled, killed = kill_writers(place / "killed.sqlite", args.kills, rng)
        r1_usd = r1_table(place / "r1.sqlite")
    figures = [
        Figure("bill of the ledger", bill_s, "s", args.entries, "under 2 s", bill_s < 2, note="end of the chain checked"),
        Figure("memory that the bill adds", grown_mib, "MiB", args.entries, "bounded", grown_mib < 100),
        Figure(
            "metering of a one-second step", step_s * 100, "%", args.steps, "under 0.5%", step_s < 0.005,
            note="eight phases, a count and a flush each, on the same disk",
        ),
        Figure("kills in mid write", killed, "", args.kills, "200", killed == args.kills, seeds=[args.seed]),
        Figure("entries lost", lost, "", killed, "0", lost == 0),
        Figure("entries doubled", doubled, "", killed, "0", doubled == 0),
        Figure("R1's table", float(r1_usd), "USD", 3, "294,000", r1_usd == 294_000),
    ]  # fmt: skip
    command = f"python -m bench ledger --entries {args.entries} --kills {args.kills} --steps {args.steps} --seed {args.seed}"
    return write("ledger", command, figures)


def bill_time(path: Path, num_entries: int) -> tuple[float, float]:
    """(seconds, MiB that the process grew by) of one bill; the ledger has three attempts, two of which were killed."""
    fill(path, num_entries)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with Ledger.open(path, read_only=True) as ledger:
        page = make_bill(read_account(ledger)).to_json()
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB
    assert page["entries"] >= num_entries
    assert Decimal(page["wasted_usd"]) > 0
    return seconds, grown


def fill(path: Path, num_entries: int) -> None:
    """A run of three attempts, each going on twenty steps before where the last one died."""
    price = load_price_book().price("local-cpu", date(2026, 11, 1))
    with Ledger.open(path) as ledger:
        ledger.append_many(price_entries(ledger, [price]))
        num_steps = num_entries // len(PHASES) // 3
        for attempt in (1, 2, 3):
            first = 0 if attempt == 1 else (attempt - 1) * num_steps - 20
            kept = None if attempt == 1 else {"stage": "grpo", "step": first - 1}
            ledger.append(**start_entry(attempt, price, kept, 0, 0))
            for chunk in range(0, num_steps + 20, 2000):
                steps = range(first + chunk, first + min(chunk + 2000, num_steps + 20))
                ledger.append_stream(_phases(attempt, price.id, price.usd_per_device_hour, steps))
            outcome = "ok" if attempt == 3 else "killed"
            ledger.append(attempt=attempt, kind="attempt_end", outcome=outcome, detail={"outcome": outcome, "error": None})


def _phases(attempt: int, price: str, usd_per_hour: Decimal, steps: range) -> Iterator[EntryFields]:
    for step in steps:
        for number, phase in enumerate(PHASES):
            held_ns = 1_000_003 * (number + 1)
            yield {
                "attempt": attempt, "kind": "phase", "purpose": "idle" if phase == "idle" else "train", "outcome": "ok",
                "stage": "grpo", "step": step, "phase": phase, "held_ns": held_ns, "device": "local-cpu", "price": price,
                "usd": cost(held_ns, 1, usd_per_hour), "tokens_out": 7, "model_flops": 10**12,
                "at": "2026-11-01T00:00:00+00:00", "mono_ns": step + 1,
            }  # fmt: skip


def metering_time(path: Path, num_steps: int) -> float:
    """Seconds that the clock and the ledger take of one step of eight phases."""
    price = load_price_book().price("local-cpu", date(2026, 11, 1))
    with Ledger.open(path) as ledger:
        clock = PhaseClock(ledger, 1, price, path.with_suffix(".heartbeat"), 0)
        ledger.append_many([*price_entries(ledger, [price]), start_entry(1, price, None, clock.start_ns, 0)])
        started = time.perf_counter()
        for step in range(num_steps):
            clock.step = step
            for phase in ("setup", "rollout", "reward", "update", "weight_sync", "eval", "checkpoint", "idle"):
                with clock.phase(phase):
                    clock.count(tokens_out=1, model_flops=1)
            clock.flush()
        seconds = time.perf_counter() - started
        clock.stop()
    return seconds / num_steps


def kill_writers(path: Path, kills: int, rng: random.Random) -> tuple[int, int, int]:
    """(entries lost, entries doubled, writers killed): a writer is killed at a random moment, the next one goes on."""
    acknowledged = []
    for life in range(kills):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _write_for_ever(path, life, write_end)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as acks:
            first = acks.read(1)  # it has begun
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged.append(len(first + acks.read()))
    with Ledger.open(path) as ledger:
        ledger.verify()
        seen = [detail_of(entry) for entry in ledger.entries()]
    mirrored = path.with_suffix(".jsonl").read_bytes().count(b"\n")
    lost, doubled = abs(mirrored - len(seen)), 0
    for life, count in enumerate(acknowledged):
        numbers = [detail["number"] for detail in seen if detail["life"] == life]
        doubled += len(numbers) - len(set(numbers))
        lost += max(0, count - len(numbers))
    return lost, doubled, len(acknowledged)


def _write_for_ever(path: Path, life: int, write_end: int) -> None:
    number = 0
    with Ledger.open(path) as ledger:
        while True:
            ledger.append(attempt=1, kind="phase", phase="idle", detail={"life": life, "number": number, "x": "y" * 500})
            os.write(write_end, b".")
            number += 1


def r1_table(path: Path) -> Decimal:
    """Nature 645:633, Supplementary Table 7, from its hours at its price."""
    price = load_price_book().price("h800", date(2025, 9, 17))
    with Ledger.open(path) as ledger:
        ledger.append_many([*price_entries(ledger, [price]), start_entry(1, price, None, 0, 0)])
        for stage, hours in (("DeepSeek-R1-Zero", 101_000), ("SFT data creation", 5_000), ("DeepSeek-R1", 41_000)):
            held_ns = hours * NS_PER_HOUR // 512
            usd = cost(held_ns, 512, price.usd_per_device_hour)
            ledger.append(
                attempt=1, kind="phase", purpose="train", outcome="ok", stage=stage, step=0, phase="update", held_ns=held_ns,
                num_devices=512, device="h800", price=price.id, usd=usd,
            )  # fmt: skip
        bill = make_bill(read_account(ledger))
    return bill.total_usd
