"""The ledger's audit: single-byte corruptions found and located, a million entries in time and memory, --help in CPU time."""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.results import Figure, write
from farthing.ledger.audit.auditor import audit
from farthing.ledger.audit.report import Report

TESTS = Path(__file__).parent.parent / "tests" / "ledger"
NUM_STEPS = 320
MEASURE = """
import resource, subprocess, sys, time
started = time.monotonic()
subprocess.run(sys.argv[1:], check=True)
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.monotonic() - started, spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024, file=sys.stderr)
"""
"""Runs a command -> seconds, CPU seconds, peak MiB. From a process of its own: a child's peak begins with its parent's size."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corruptions", type=int, default=1000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> Path:
    figures = [*_corruptions(args.corruptions, args.seed), *_large(args.entries), _help()]
    command = f"python -m bench audit --corruptions {args.corruptions} --entries {args.entries} --seed {args.seed}"
    return write("audit", command, figures)


def _write_book(folder: Path, num_steps: int, seed: int) -> None:
    """A ledger of about five entries a step, as a run writes it: no two figures alike, waste on two of the five."""
    sys.path.insert(0, str(TESTS))
    import book

    book.write(folder, book.varied_run(num_steps, seed))


def _corruptions(count: int, seed: int) -> list[Figure]:
    """One random byte of one random file of a sealed ledger each time; log and seal-less forms apart."""
    rng = random.Random(seed)
    found = located = loose = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_book(folder, NUM_STEPS, seed)
        paths = [folder / "ledger.sqlite", folder / "ledger.jsonl", folder / "ledger.seal.json"]
        num_loose = count // 10
        for k in range(count + num_loose):
            if k == count:
                paths[2].unlink()
            # the seal is small: a twentieth of the draws, so that the books get the most
            path = paths[2] if k < count and k % 20 == 19 else paths[k % 2]
            data = path.read_bytes()
            offset = rng.randrange(len(data))
            changed = bytearray(data)
            changed[offset] ^= rng.randrange(1, 256)
            path.write_bytes(changed)
            report = audit(folder)
            path.write_bytes(data)
            if k >= count:
                loose += not report.passed
                continue
            found += not report.passed
            located += _names(report, path.name, offset)
    return [
        Figure("single-byte corruptions found", found, "", count, f"all {count}", found == count, seeds=[seed]),
        Figure(
            "of them located", located, "", count, "all", located == count, seeds=[seed], note="to the byte; the seal as a file"
        ),
        Figure("found without a seal", loose, "", num_loose, seeds=[seed], note="unused space of the totals needs a seal"),
    ]


def _names(report: Report, name: str, offset: int) -> bool:
    """Whether a finding gives the byte, or the seal itself where the seal was changed."""
    seal = next(check for check in report.checks if check.name == "seal")
    places = [f for f in seal.findings if f.file == name]
    return any(f.offset == offset or (name.endswith(".seal.json") and f.offset is None) for f in places)


def _large(num_entries: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        _write_book(Path(name), num_entries // 5, 0)
        command = [sys.executable, "-m", "farthing", "audit", name, "--json"]
        process = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True)
        seconds, cpu_s, peak_mib = map(float, process.stderr.split()[-3:])
        assert '"verdict": "pass"' in process.stdout
        size_mib = sum(path.stat().st_size for path in Path(name).iterdir()) / 2**20
    return [
        Figure("audit of a million entries", seconds, "s", 1, "under 20 s", seconds < 20, note=f"{num_entries} entries"),
        Figure("CPU of it", cpu_s, "s", 1, note="one process; the rest of the time others had the core, or the disk"),
        Figure(
            "peak memory of it", peak_mib, "MiB", 1, "bounded", peak_mib < 256, note=f"the ledger's files: {size_mib:.0f} MiB"
        ),
    ]


def _help() -> Figure:
    """CPU seconds, user and system, of the best of five."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "farthing", "audit", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    best = min(seconds)
    return Figure("farthing audit --help", best, "s of CPU", len(seconds), "under 0.3 s", best < 0.3, note="best of five")
