"""The ledger: a bill of a million entries, metering, kills, two writers, a full disk, hours held, R1's and V3's own tables."""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from bench.kills import CASES
from bench.results import RESULTS, Figure, write
from farthing.attempt import start_entry
from farthing.clock import PhaseClock
from farthing.config import load_recipe
from farthing.errors import DiskFull
from farthing.ledger.account import read_account
from farthing.ledger.bill import make_bill
from farthing.ledger.charges import price_entries
from farthing.ledger.entries import Ledger
from farthing.ledger.entry import EntryFields, detail_of
from farthing.ledger.prices import NS_PER_HOUR, cost, load_price_book

TABLES = {
    "R1": {"DeepSeek-R1-Zero": 101_000, "SFT data creation": 5_000, "DeepSeek-R1": 41_000},
    "V3": {"pre-training": 2_664_000, "context extension": 119_000, "post-training": 5_000},
}
"""H800-hours: Nature 645:633, Supplementary Table 7; arXiv:2412.19437, Table 1."""
TOTALS = {"R1": 294_000, "V3": 5_576_000}
PHASES_OF_A_STEP = ("update", "idle", "setup", "rollout", "reward", "weight_sync", "eval", "checkpoint")
PHASES = ("rollout", "reward", "update", "weight_sync", "idle")
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=2000, help="of one-second steps whose metering is timed")
    parser.add_argument("--both", type=int, default=500, help="entries by each of two processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        bill_s, cpu_s, grown_mib = bill_time(place / "long.sqlite", args.entries)
        step_s = {n: metering_time(place / f"meter{n}.sqlite", args.steps, PHASES_OF_A_STEP[:n]) for n in (2, 8)}
        lost, doubled, killed = kill_writers(place / "killed.sqlite", args.kills, rng)
        both = two_writers(place / "both.sqlite", args.both)
        full = full_disk(place / "small")
        off = hours_off(place / "run")
        totals = {name: table(place / f"{name}.sqlite", lines) for name, lines in TABLES.items()}
    tiny = 100 * share_of_tiny(step_s)
    figures = [
        Figure("bill of the ledger", bill_s, "s", args.entries, "under 2 s", bill_s < 2, note="end of the chain checked"),
        Figure("CPU of it", cpu_s, "s", args.entries),
        Figure("memory that the bill adds", grown_mib, "MiB", args.entries, "bounded", grown_mib < 100),
        Figure("metering of a step of two phases", step_s[2] * 1000, "ms", args.steps, note="median"),
        Figure(
            "metering of a step of eight phases", step_s[8] * 1000, "ms", args.steps, "under 5: 0.5% of 1 s",
            step_s[8] < 0.005,
            note="median; eight phases, a count and a flush each, on the same disk",
        ),
        Figure("metering of r1-zero-tiny", tiny, "%", 1, "under 0.5%", tiny < 0.5, note="these, times its steps, of its time"),
        Figure("kills in mid write", killed, "", args.kills, "200", killed == args.kills, seeds=[args.seed]),
        Figure("entries lost", lost, "", killed, "0", lost == 0),
        Figure("entries doubled", doubled, "", killed, "0", doubled == 0),
        Figure("entries wrong where two processes write one book", both, "", 2 * args.both, "0", both == 0),
        *full,
        Figure(
            "phases against the hours held", off, "%", 1, "within 0.1%", off < 0.1,
            note="a run of tests/data/micro.toml, by the clock outside it",
        ),
        *(Figure(f"{name}'s total", float(usd) / 1000, "thousand USD", len(TABLES[name]), f"{TOTALS[name]:,} USD",
                 usd == TOTALS[name])
          for name, usd in totals.items()),
    ]  # fmt: skip
    command = f"python -m bench ledger --entries {args.entries} --kills {args.kills} --steps {args.steps} --seed {args.seed}"
    return write("ledger", command, figures)


def bill_time(path: Path, num_entries: int) -> tuple[float, float, float]:
    """(seconds, of CPU, MiB that the process grew by) of one bill; the ledger has three attempts, two of which were killed."""
    fill(path, num_entries)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu = time.perf_counter(), time.process_time()
    with Ledger.open(path, read_only=True) as ledger:
        page = make_bill(read_account(ledger)).to_json()
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MIB
    assert page["entries"] >= num_entries
    assert Decimal(page["wasted_usd"]) > 0
    return seconds, cpu_s, grown


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


def metering_time(path: Path, num_steps: int, phases: tuple[str, ...]) -> float:
    """Seconds that the clock and the ledger take of one step of these phases; the median, as others may use the machine."""
    price = load_price_book().price("local-cpu", date(2026, 11, 1))
    seconds = []
    with Ledger.open(path) as ledger:
        clock = PhaseClock(ledger, 1, price, path.with_suffix(".heartbeat"), 0)
        ledger.append_many([*price_entries(ledger, [price]), start_entry(1, price, None, clock.start_ns, 0)])
        for step in range(num_steps):
            started = time.perf_counter()
            clock.step = step
            for phase in phases:
                with clock.phase(phase):
                    clock.count(tokens_out=1, model_flops=1)
            clock.flush()
            seconds.append(time.perf_counter() - started)
        clock.stop()
    return statistics.median(seconds)


def share_of_tiny(step_s: dict[int, float]) -> float:
    """Of r1-zero-tiny's time as it was measured: two phases in a step of pretraining, eight in one of RL."""
    recipe = load_recipe("r1-zero-tiny")
    result = json.loads((RESULTS / "r1-zero-tiny.json").read_text())
    times_s = [f["value"] * 60 for f in result["figures"] if f["name"] == "time"]
    metered_s = sum(stage.num_steps * step_s[2 if stage.kind == "pretrain" else 8] for stage in recipe.stages.values())
    return metered_s / statistics.mean(times_s)


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


def two_writers(path: Path, each: int) -> int:
    """Two processes append `each` entries to one new book -> how many are missing, double, or not in the chain."""
    children = []
    for life in (1, 2):
        child = os.fork()
        if child == 0:
            with Ledger.open(path) as ledger:
                for number in range(each):
                    ledger.append(attempt=life, kind="phase", phase="idle", step=number)
            os._exit(0)
        children.append(child)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    with Ledger.open(path, read_only=True) as ledger:
        ledger.verify()
        written = [(entry.attempt, entry.step) for entry in ledger.entries()]
    expected = {(life, number) for life in (1, 2) for number in range(each)}
    return failed + len(expected - set(written)) + len(written) - len(set(written))


def full_disk(mount: Path) -> list[Figure]:
    """A ledger on a file system of 600 KiB, written until there is no room; none where nothing may be mounted."""
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", mount], capture_output=True).returncode:
        return []
    acknowledged = 0
    try:
        with contextlib.suppress(DiskFull), Ledger.open(mount / "book.sqlite") as ledger:
            while True:
                ledger.append(attempt=1, kind="phase", phase="idle", detail={"x": "y" * 500})
                acknowledged += 1
        subprocess.run(["mount", "-o", "remount,size=8m", mount], check=True)
        with Ledger.open(mount / "book.sqlite") as ledger:
            kept = ledger.verify()
            more = ledger.append(attempt=1, kind="phase", phase="idle").seq
    finally:
        subprocess.run(["umount", mount], check=True)
    what = "entries lost or doubled by a full disk"
    lost = abs(kept - acknowledged) + (more != kept + 1)
    return [Figure(what, lost, "", acknowledged, "0", lost == 0, note="and it goes on once there is room")]


def hours_off(run_dir: Path) -> float:
    """Percent between what the phases of a run sum to and the time from the start of its process to the end of its attempt."""
    command = [*CASES["kills"].command, "--run-dir", str(run_dir)]
    started_s = time.time()
    subprocess.run(command, check=True, capture_output=True)
    with Ledger.open(run_dir / "ledger.sqlite", read_only=True) as ledger:
        account = read_account(ledger)
    held_s = sum(row.sums["held_ns"] for row in account.rows) / 1e9
    passed_s = datetime.fromisoformat(account.attempts[0].ended_at).timestamp() - started_s
    return 100 * abs(passed_s - held_s) / passed_s


def table(path: Path, lines: dict[str, int]) -> Decimal:
    """The bill's total of a ledger that records these H800-hours, on 512 devices, at the price of the day; each line is held
    to its own product first."""
    price = load_price_book().price("h800", date(2025, 9, 17))
    with Ledger.open(path) as ledger:
        ledger.append_many([*price_entries(ledger, [price]), start_entry(1, price, None, 0, 0)])
        for stage, hours in lines.items():
            held_ns = hours * NS_PER_HOUR // 512
            usd = cost(held_ns, 512, price.usd_per_device_hour)
            ledger.append(
                attempt=1, kind="phase", purpose="train", outcome="ok", stage=stage, step=0, phase="update", held_ns=held_ns,
                num_devices=512, device="h800", price=price.id, usd=usd,
            )  # fmt: skip
        page = make_bill(read_account(ledger)).to_json()
    by_stage = {stage["name"]: Decimal(stage["usd"]) for stage in page["stages"]}
    assert by_stage == {name: hours * price.usd_per_device_hour for name, hours in lines.items()}
    return Decimal(page["boundaries"][0]["usd"])
