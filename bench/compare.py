"""Sides that do the same work, in turn (A B A B) -> the ratio of their medians, peak memory, share of the machine's limit.

A canary matmul runs before and after each sample; a sample is dropped where the machine was not as it was for the others.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench import results
from bench.canary import Counted, Limits, canary, measure_limits, precisions
from bench.peers import PeerAbsent, python_of
from bench.results import Figure
from bench.workers import Side, Taken, Worker, WorkerFailed, running
from farthing.precision import Precision
from farthing.sources import use_threads

MOVED = 0.15
"""A canary further than this from the median of all canaries: the machine was not itself."""
SETTLE_S = 0.3
"""After a sample, before the canary: threads of the other sides stop spinning."""
SAME_LENGTH, SAME_LOGPROB = 0.25, 0.5
"""Outputs of one kind: mean tokens within this share, mean logprob of a sampled token within so many nats."""
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One piece of work; `sides[0]` is farthing's."""

    name: str
    precision: Precision
    sides: Sequence[Side]
    count: Callable[[float], Counted]
    """What so many tokens of this work cannot do without."""
    tokens: int | None = None
    """Of a sample, where it is fixed."""
    ratios: Mapping[str, float] = field(default_factory=dict)
    """Peer -> how many times its tokens/s is asked for."""
    memory: float | None = None
    """Peak memory asked for, as a share of each peer's."""
    limit: float | None = None
    """Share of the limit asked for."""


@dataclass(frozen=True)
class Sample:
    """One sample of one side, with the canary's seconds before and after it."""

    side: str
    taken: Taken
    before_s: float
    after_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: what the CPU is good at")
    parser.add_argument("--samples", type=int, default=5, help="of each side, those dropped not counted")
    parser.add_argument("--threads", type=int, default=0, help="of each side; 0: one for each core")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; goes to runs/bench, no report")
    parser.add_argument("--cases", nargs="*", help="only those whose names begin so, such as 'batch 32'; the result says so")
    parser.add_argument("--peers", nargs="*", help="only these sides beside farthing, by the first word of their name")


def measure(name: str, args: argparse.Namespace, cases_of: Callable[[Precision], Sequence[Case]]) -> Path:
    """Runs every case at every precision that the machine is good at, and writes the result."""
    use_threads(args.threads)
    chosen, said = precisions(args.precision)
    figures: list[Figure] = []
    notes, samples = [said] if said else [], []
    for precision in chosen:
        limits = measure_limits(precision)
        finished = []
        for case in cases_of(precision):
            if args.cases is not None and not case.name.startswith(tuple(args.cases)):
                notes.append(f"{case.name}: left out.")
                continue
            taken, absent, versions = run(case, args)
            limits = limits.better(measure_limits(precision))
            finished.append((case, taken))
            notes += [f"{case.name}: {reason}" for reason in absent]
            notes += [f"{side}: {v}." for side, v in versions.items() if f"{side}: {v}." not in notes]
        for case, taken in finished:
            more, complaints = figures_of(case, taken, limits)
            figures += more
            notes += [f"{case.name}: {complaint}." for complaint in complaints]
            samples += [{"case": case.name, **row} for row in rows_of(taken)]
        notes.append(
            f"Limits measured here, {precision}: matmul {limits.matmul_flops / 1e9:.0f} GFLOP/s, "
            f"reading {limits.read_bytes / 1e9:.1f} GB/s, {torch.get_num_threads()} threads."
        )
    command = f"python -m bench {' '.join(sys.argv[1:])}"
    path = Path("runs/bench") / f"{name}-quick.json" if args.quick else None
    return results.write(name, command, figures, " ".join(notes), samples=samples, path=path)


def run(case: Case, args: argparse.Namespace) -> tuple[list[Sample], list[str], dict[str, str]]:
    """The samples of all sides, why a peer is absent, and versions. A side of ours that fails ends the bench."""
    absent: list[str] = []
    samples: list[Sample] = []
    with ExitStack() as stack:
        workers: list[Worker] = []
        for side in case.sides:
            if args.peers is not None and side.peer and side.name.split()[0] not in args.peers:
                continue
            _say(f"{case.name}: starting {side.name}")
            try:
                workers.append(stack.enter_context(running(side, python_of(side.peer) if side.peer else sys.executable)))
            except (PeerAbsent, WorkerFailed) as error:
                if not side.peer:
                    raise SystemExit(str(error)) from error
                absent.append(f"{side.name} not measured: {error}")
        versions = {w.side.name: ", ".join(f"{p} {v}" for p, v in w.versions.items()) for w in workers}
        for number in range(args.samples if args.quick else 2 * args.samples):
            for worker in list(workers):
                before = canary(case.precision)
                try:
                    taken = worker.sample(number)
                except WorkerFailed as error:
                    if not worker.side.peer:
                        raise SystemExit(str(error)) from error
                    absent.append(f"{worker.side.name} stopped: {error}")
                    workers.remove(worker)
                    continue
                time.sleep(SETTLE_S)
                samples.append(Sample(worker.side.name, taken, before, canary(case.precision)))
                _say(f"{case.name}: {worker.side.name} {taken.tokens_per_s:.1f} tokens/s")
            kept = steady(samples)
            if all(sum(s.side == w.side.name for s in kept) >= args.samples for w in workers):
                break
    return samples, absent, versions


def steady(samples: Sequence[Sample]) -> list[Sample]:
    """Those where neither canary was further than `MOVED` from the median of all."""
    usual = median(t for s in samples for t in (s.before_s, s.after_s))
    return [s for s in samples if all(abs(t / usual - 1) <= MOVED for t in (s.before_s, s.after_s))]


def figures_of(case: Case, samples: Sequence[Sample], limits: Limits) -> tuple[list[Figure], list[str]]:
    """The case's figures, and what is wrong with them. Of unlike outputs, or on an unsteady machine, no target is reached."""
    names = list(dict.fromkeys(s.side for s in samples))
    kept, complaints = steady(samples), []
    if not all(any(s.side == name for s in kept) for name in names):
        complaints.append("the machine was never steady, all samples are used and nothing counts as reached")
        kept = list(samples)
    of = {name: [s.taken for s in kept if s.side == name] for name in names}
    complaints += unlike(case, of)
    sound = not complaints
    figures = []
    for name in names:
        figures += _side_figures(case, name, of[name], limits, sound)
    for peer in names[1:]:
        figures += _ratio_figures(case, of[names[0]], peer, of[peer], limits, sound)
    return figures, complaints


def _side_figures(case: Case, name: str, taken: Sequence[Taken], limits: Limits, sound: bool) -> list[Figure]:
    speeds, seconds = [t.tokens_per_s for t in taken], [t.seconds for t in taken]
    counted = case.count(median(t.tokens for t in taken))
    bound_s, bound_by = counted.bound_s(limits)
    share = 100 * bound_s / median(seconds)
    peaks = [t.peak_bytes / GIB for t in taken]
    asked, reached = "", None
    if case.limit is not None and name == case.sides[0].name:
        asked, reached = f"at least {case.limit:.0%}", sound and share >= 100 * case.limit
    n, label = len(taken), f"{case.name}, {name}"
    limit_note = f"bound by {bound_by}: {counted.flops / 1e9:.0f} GFLOP, {counted.bytes / 1e9:.1f} GB"
    return [
        Figure(f"{label}: speed", median(speeds), "tokens/s", n, spread=(min(speeds), max(speeds))),
        Figure(f"{label}: time", median(seconds), "s", n, spread=(min(seconds), max(seconds))),
        Figure(f"{label}: peak memory", max(peaks), "GiB", n, spread=(min(peaks), max(peaks))),
        Figure(f"{label}: share of the machine's limit", share, "%", n, asked, reached, note=limit_note),
    ]


def _ratio_figures(
    case: Case, ours: Sequence[Taken], peer: str, theirs: Sequence[Taken], limits: Limits, sound: bool
) -> list[Figure]:
    fast, slow = [t.tokens_per_s for t in ours], [t.tokens_per_s for t in theirs]
    tokens = median(t.tokens for t in ours)
    highest = tokens / case.count(tokens).bound_s(limits)[0] / median(slow)
    ratio, memory = median(fast) / median(slow), 100 * max(t.peak_bytes for t in ours) / max(t.peak_bytes for t in theirs)
    n, asked = min(len(ours), len(theirs)), case.ratios.get(peer)
    spread = (min(fast) / max(slow), max(fast) / min(slow))
    label = f"{case.name}, farthing against {peer}"
    return [
        Figure(
            f"{label}: ratio of medians",
            ratio,
            "x",
            n,
            "" if asked is None else f"at least {asked:g}x",
            None if asked is None else sound and ratio >= asked,
            spread=spread,
            note=f"{highest:.1f}x at the machine's limit",
        ),
        Figure(
            f"{label}: memory",
            memory,
            "%",
            n,
            "" if case.memory is None else f"at most {case.memory:.0%}",
            None if case.memory is None else sound and memory <= 100 * case.memory,
        ),
    ]


def unlike(case: Case, of: Mapping[str, Sequence[Taken]]) -> list[str]:
    """Where outputs are not of the same kind as farthing's: numbers of completions and tokens, finite and similar logprobs."""
    ours, found = next(iter(of.values())), []
    for name, taken in of.items():
        checks = [t.check for t in taken]
        if not all(check["finite"] for check in checks):
            found.append(f"{name} has logprobs or losses that are not finite")
        if {check["completions"] for check in checks} != {ours[0].check["completions"]}:
            found.append(f"{name} has another number of completions than farthing")
        if case.tokens is not None and any(t.tokens != case.tokens for t in taken):
            found.append(f"{name} made {taken[0].tokens} tokens, not {case.tokens}")
        length = median(t.tokens for t in taken) / median(t.tokens for t in ours)
        if abs(length - 1) > SAME_LENGTH:
            found.append(f"{name} made {length:.2f} times farthing's tokens")
        if "mean_logprob" in checks[0]:
            difference = median(c["mean_logprob"] for c in checks) - median(t.check["mean_logprob"] for t in ours)
            if abs(difference) > SAME_LOGPROB:
                found.append(f"{name} samples tokens of another logprob, by {difference:+.2f} nats")
    return found


def rows_of(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Every sample, those that were dropped too, for the result file."""
    kept = {id(s) for s in steady(samples)}
    return [
        {
            "side": s.side,
            "seconds": s.taken.seconds,
            "tokens": s.taken.tokens,
            "peak_bytes": s.taken.peak_bytes,
            "check": s.taken.check,
            "canary_s": [s.before_s, s.after_s],
            "kept": id(s) in kept,
        }
        for s in samples
    ]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
